"""TransMix: CutMix whose label weights follow the model's own attention."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target
from torch import Tensor, nn

from vitreg.copies import InertCopies
from vitreg.errors import ArgumentError, StateError, UnsupportedModelError
from vitreg.extractors import blocks_read
from vitreg.families import find_tower
from vitreg.functional import attention_share, box_on_grid
from vitreg.reader import Reader
from vitreg.removable import Removable


class _Mix(NamedTuple):
    """What was done to the last batch: the box that came from the partner, or a blend of two pictures."""

    labels: Tensor  # [b]
    own_share: float  # of the picture's own area or brightness
    box: tuple[int, int, int, int] | None
    size: tuple[int, int]


class TransMix(InertCopies, Removable):
    r"""Mix images in pairs, and weigh their labels by where the class token looks.

    With $m$ the box that was pasted from the partner, $a$ the last block's [CLS] attention (softmax, mean
    over heads), $\lambda_\mathrm{area}$ the box's share of the picture and $y_A$, $y_B$ the labels of picture
    and partner:

    $$\lambda = \tfrac12 \Big(\lambda_\mathrm{area} + \frac{\sum_p m_p a_p}{\sum_p a_p}\Big)$$

    $$y = (1 - \lambda)\, y_A + \lambda\, y_B$$

    The attention is the trained model's own, of the very forward pass that the loss is taken of, without
    gradient. It works together with any attachment. Random numbers come from `numpy.random`, as in timm.

        mix = TransMix(model, num_classes=200)
        x, y = mix(x, y)
        loss = mix.loss(model(x)) + attachment.penalty()

    Args:
        model: the model that is trained, with a class token.
        num_classes: how many classes the labels have.
        mixup_alpha: Beta parameter of mixup; 0 switches it off.
        cutmix_alpha: Beta parameter of CutMix; 0 switches it off.
        switch_prob: probability of CutMix where both are on; mixup has no box and keeps its own weight.
        prob: probability of mixing a batch at all.
        smoothing: label smoothing.

    Raises:
        ArgumentError: an option out of range.
        UnsupportedModelError: the model has no class token or no known attention.

    Source: Chen et al. 2022 (CVPR), "TransMix: Attend to Mix for Vision Transformers", arXiv 2111.09833;
    the mean of both shares is that of the authors' code.
    """

    COPIED = ("num_classes", "mixup_alpha", "cutmix_alpha", "switch_prob", "prob", "smoothing")
    _mix: _Mix | None = None

    # NOTE[DIFF]: the attention's softmax includes the class token's own key in the denominator; only the
    # shares among the patches enter lambda, which it does not change.
    def __init__(
        self,
        model: nn.Module,
        *,
        num_classes: int,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        switch_prob: float = 0.8,
        prob: float = 1.0,
        smoothing: float = 0.1,
    ) -> None:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
            raise ArgumentError(f"num_classes must be a whole number of at least 2, got {num_classes!r}.")
        for name, value in (("switch_prob", switch_prob), ("prob", prob), ("smoothing", smoothing)):
            if not _is_number(value) or not 0 <= value <= 1:
                raise ArgumentError(f"{name} must lie between 0 and 1, got {value!r}.")
        numbers = _is_number(mixup_alpha) and _is_number(cutmix_alpha)
        if not (numbers and mixup_alpha >= 0 and cutmix_alpha >= 0 and mixup_alpha + cutmix_alpha > 0):
            raise ArgumentError(
                "mixup_alpha and cutmix_alpha must be at least 0 and not both 0, got "
                f"{mixup_alpha!r} and {cutmix_alpha!r}."
            )
        self.num_classes = num_classes
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.switch_prob = switch_prob
        self.prob = prob
        self.smoothing = smoothing
        self._tower = find_tower(model)
        if not self._tower.has_class_token:
            raise UnsupportedModelError(
                "TransMix weighs labels by the attention of a class token, so it needs a class token; "
                f"{type(self._tower.module).__name__} has none. Use timm.data.Mixup, which weighs by area."
            )
        (*_, self._last) = blocks_read("attn_probs", "all", "cls", self._tower)
        self._reader = Reader(self._tower, {("attn_probs", "cls"): (self._last,)}, training_only=True)
        self._finalizer = weakref.finalize(self, _detach, self._reader)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixed images and their labels weighted by area, as CutMix and mixup weigh them.

        Args:
            images: [b, c, height, width], b even: image i is mixed with image b - 1 - i.
            labels: class indices, [b].

        Returns:
            images of the same shape, and soft labels [b, num_classes].

        Raises:
            ArgumentError: an odd batch, another size than the model's, or labels that are no class indices.
                On a GPU, where looking would hold up the training, a class index out of range is a
                device-side assertion instead.
            StateError: it was removed from the model.
        """
        if self._finalizer is None or not self._finalizer.alive:
            raise StateError("This TransMix was removed from the model; make another one.")
        self._check(images, labels)
        height, width = images.shape[-2:]
        own_share, box = self._draw(images)
        if box is not None:
            top, bottom, left, right = box
            images = images.clone()
            images[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
        elif own_share < 1:
            images = images * own_share + images.flip(0) * (1 - own_share)
        self._mix = _Mix(labels, own_share, box, (height, width))
        self._reader.clear("the model has not run since the batch was mixed")
        return images, mixup_target(labels, self.num_classes, own_share, self.smoothing)

    def labels(self, part: slice | None = None) -> Tensor:
        """Return the soft labels [b, num_classes] of what the model has just seen, `part` of the batch.

        Raises:
            StateError: nothing was mixed, or the model has not run on it in training mode.
        """
        if self._mix is None:
            raise StateError(
                "Nothing was mixed since the last loss. Call `x, y = mix(x, y)` before the model."
            )
        if not self._reader.complete():
            raise StateError(
                "TransMix needs a forward pass in training mode; "
                f"{self._reader.skipped or 'it was cut short'}."
            )
        attention = self._reader.of(("attn_probs", "cls"), (self._last,))[0].detach().mean(1)
        mix, self._mix, seen = self._mix, None if part is None else self._mix, part or slice(None)
        self._reader.clear("its loss was taken already; mix and run the model again")
        if attention.shape[0] != (rows := len(mix.labels[seen])):
            raise StateError(
                f"The model saw {attention.shape[0]} images, but {rows} were mixed. "
                "Run it on what `mix(x, y)` returned, or say which part of it that was: loss(logits, part)."
            )
        own_share: Tensor | float = mix.own_share
        if mix.box is not None:
            grid = self._grid(attention.shape[-1], mix.size)
            mask = box_on_grid(*mix.size, mix.box, grid).to(attention.device, non_blocking=attention.is_cuda)
            own_share = attention.new_zeros(len(mix.labels), 1, dtype=torch.float32)
            own_share[seen, 0] = 1 - ((1 - mix.own_share) + attention_share(attention, mask)) / 2
        return mixup_target(mix.labels, self.num_classes, own_share, self.smoothing)[seen]

    def loss(self, logits: Tensor, part: slice | None = None) -> Tensor:
        """Return the cross entropy of `logits` [b, num_classes] with `labels(part)`, a float32 scalar."""
        return F.cross_entropy(logits.float(), self.labels(part))

    def remove(self) -> None:
        """Take the hooks off the model; calling it again does nothing."""
        self._take_off()

    def _draw(self, images: Tensor) -> tuple[float, tuple[int, int, int, int] | None]:
        """Return the share that stays the picture's own, and the box that the partner fills, if any."""
        if np.random.rand() >= self.prob:
            return 1.0, None
        use_cutmix = self.mixup_alpha == 0 or (self.cutmix_alpha > 0 and np.random.rand() < self.switch_prob)
        alpha = self.cutmix_alpha if use_cutmix else self.mixup_alpha
        share = float(np.random.beta(alpha, alpha))
        if not use_cutmix:
            return share, None
        (top, bottom, left, right), share = cutmix_bbox_and_lam(images.shape, share)
        return float(share), (int(top), int(bottom), int(left), int(right))

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.dim() != 4 or not len(images) or len(images) % 2:
            raise ArgumentError(
                "TransMix needs an even batch of images [b, c, height, width], as it mixes them in pairs; "
                f"found {list(images.shape)}. Use drop_last=True or an even batch size."
            )
        grid, patch, (height, width) = self._tower.grid, self._tower.patch_size, images.shape[-2:]
        if (
            grid is not None
            and patch is not None
            and (height, width) != (grid[0] * patch[0], grid[1] * patch[1])
        ):
            raise ArgumentError(
                f"The model divides a picture of {grid[0] * patch[0]}×{grid[1] * patch[1]} into "
                f"{grid[0]}×{grid[1]} patches; found pictures of {height}×{width}. Resize them."
            )
        if labels.dim() != 1 or labels.shape[0] != images.shape[0] or labels.is_floating_point():
            raise ArgumentError(
                f"Expected {images.shape[0]} class indices, found {list(labels.shape)} of {labels.dtype}."
            )
        inside = ((labels >= 0) & (labels < self.num_classes)).all()
        if labels.is_cuda:  # no transfer in the training loop
            torch._assert_async(inside, f"a class index lies outside 0 … {self.num_classes - 1}")
        elif not inside:
            raise ArgumentError(
                f"Class indices must lie in 0 … {self.num_classes - 1}, found "
                f"{int(labels.min())} … {int(labels.max())}."
            )

    def _grid(self, num_patches: int, size: tuple[int, int]) -> tuple[int, int]:
        """Return the patch grid of a picture of `size` that was cut into `num_patches` square patches."""
        rows, columns = self._tower.grid or (0, 0)
        if not rows:  # a size that the model allows, so the grid is known from the picture alone
            rows = round((num_patches * size[0] / size[1]) ** 0.5)
            columns = num_patches // rows
        if rows * columns != num_patches or size[0] * columns != size[1] * rows:
            raise StateError(
                f"{num_patches} patches do not tile a picture of {size[0]}×{size[1]}. Token dropping "
                "(patch_drop_rate, patch_dropout) must be off for TransMix."
            )
        return rows, columns


def _detach(reader: Reader) -> None:
    """Take the hooks off and forget the last pass."""
    reader.remove()
    reader.clear("TransMix was removed from the model")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
