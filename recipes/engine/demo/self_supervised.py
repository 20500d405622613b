"""Sources for the demo that are pre-trained without labels in the drawn world, by DINO or by iBOT.

Sources: Caron et al. 2021 (arXiv 2104.14294); Zhou et al. 2022 (arXiv 2111.07832).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from engine.demo import supervised as demo
from engine.demo import world
from vitreg.errors import InputError
from vitreg.wording import listed, nearest

Method = Literal["DINO", "iBOT"]
METHODS: tuple[str, ...] = get_args(Method)


# NOTE[DIFF]: two views of the whole picture, no small crops beside them; temperatures and weight decay stay
# as they are from the first step to the last; the prototypes are never frozen.
@dataclass(frozen=True)
class SelfSupervisedSettings(demo.SourceSettings):
    """How a source is pre-trained without labels, on pictures that are drawn anew at every step."""

    lr: float = 4e-3
    batch_size: int = 64  # pictures; each is seen in two views
    momentum: float = 0.98  # of the teacher at the first step; it rises to 1 by a cosine
    hidden: int = 256  # width of the projection head
    bottleneck: int = 64  # what the projection head returns
    prototypes: int = 256
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    rounds: int = 3  # of Sinkhorn and Knopp
    area: tuple[float, float] = (0.5, 1.0)  # of a view, of the picture's
    stretch: float = 4 / 3  # of a view's sides, at most
    brightness: float = 0.2  # most that a view differs by, of 1
    saturation: float = 0.2  # likewise
    hue: float = 0.1  # likewise, of the colour circle
    masked: tuple[float, float] = (0.1, 0.5)  # of a masked view's patches; iBOT


SELF_SUPERVISED = SelfSupervisedSettings()
SELF_SUPERVISED_STEPS = 1000


def self_supervised_checkpoint(
    cache: Path,
    method: Method,
    *,
    steps: int = SELF_SUPERVISED_STEPS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Return the file with the weights of the teacher's backbone; they are pre-trained unless it is there.

    iBOT predicts masked patches as well. `progress` is told after each step how many are done, of how many.

    Raises:
        InputError: There is no such method, or there are no steps.
    """
    if method not in METHODS:
        raise InputError(f"expected {listed(METHODS)} as method, found {method!r}{nearest(method, METHODS)}")
    if steps < 1:
        raise InputError(f"expected at least one step of pre-training, found {steps}")

    def pretrain() -> nn.Module:
        pretraining = Pretraining(method, steps)
        for step in range(steps):
            pretraining.step()
            progress(step + 1, steps)
        return pretraining.teacher.backbone

    return demo.stored_weights(cache, method, SELF_SUPERVISED, steps, pretrain)


class Network(nn.Module):
    """The demo's ViT without a classifier, and the projection head that [CLS] and patches share."""

    backbone: VisionTransformer

    def __init__(self) -> None:
        super().__init__()
        s, width = SELF_SUPERVISED, int(demo.ARCHITECTURE["embed_dim"])
        self.backbone = demo.create_model(0)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.head = nn.Sequential(
            *(nn.Linear(width, s.hidden), nn.GELU()),
            *(nn.Linear(s.hidden, s.hidden), nn.GELU()),
            nn.Linear(s.hidden, s.bottleneck),
        )
        self.prototypes = nn.Parameter(torch.randn(s.prototypes, s.bottleneck))

    def tokens(self, views: Tensor, is_masked: Tensor | None = None) -> Tensor:
        """Return the last block's tokens [b, 1 + p, d]; the patches in `is_masked` [b, p] are not seen."""
        if is_masked is None:
            return self.backbone.forward_features(views)

        def hide(_: nn.Module, __: object, patches: Tensor) -> Tensor:
            return torch.where(is_masked[..., None], self.mask_token, patches)

        handle = self.backbone.patch_embed.register_forward_hook(hide)
        try:
            return self.backbone.forward_features(views)
        finally:
            handle.remove()

    def scores(self, tokens: Tensor) -> Tensor:
        """Return the cosines of projected tokens [n, d] and prototypes: [n, prototypes]."""
        return F.linear(F.normalize(self.head(tokens), dim=-1), F.normalize(self.prototypes, dim=-1))


class Pretraining:
    """A student that is trained to agree with its teacher, which is the running mean of its weights."""

    def __init__(self, method: Method, steps: int) -> None:
        self.method, self.steps, self.done = method, steps, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SELF_SUPERVISED.seed)
            self.student = Network()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.descend = demo.optimisation(self.student, SELF_SUPERVISED, steps)
        self.generator = torch.Generator().manual_seed(SELF_SUPERVISED.seed)

    def step(self) -> float:
        """Train on new pictures for one step, and return the loss before it."""
        pictures = world.draw_source(SELF_SUPERVISED.batch_size, seed=self.done).images
        views = torch.cat([random_views(pictures, self.generator) for _ in range(2)])
        loss = self.loss(views)
        self.descend(loss)
        self._follow()
        self.done += 1
        return loss.item()

    def loss(self, views: Tensor) -> Tensor:
        """Return what it costs the student not to agree with the teacher, for views [2 b, 3, H, W].

        A view's [CLS] token is to say what the teacher's says of the picture's other view. In iBOT, the first
        b views are masked, and the masked patches are to say what the teacher's say, which sees them.
        """
        with torch.no_grad():
            seen = self.teacher.tokens(views)
            targets = balance(self.teacher.scores(seen[:, 0]))
        is_masked = None if self.method == "DINO" else self._mask(len(views), seen.shape[1] - 1)
        tokens = self.student.tokens(views, is_masked)
        loss = cross_entropy(self.student.scores(tokens[:, 0]), targets.roll(len(views) // 2, dims=0))
        if is_masked is None:
            return loss
        with torch.no_grad():
            patch_targets = balance(self.teacher.scores(seen[:, 1:][is_masked]))
        return loss + cross_entropy(self.student.scores(tokens[:, 1:][is_masked]), patch_targets)

    def _mask(self, num_views: int, num_patches: int) -> Tensor:
        """Return which patches are masked: a random share in the first half of the views, bool [2 b, p]."""
        # NOTE[DIFF]: one of a picture's views is masked, not each with probability 0.5; patches are chosen
        # one by one, not in blocks; every masked patch counts the same, whatever view it is in.
        low, high = SELF_SUPERVISED.masked
        share = low + (high - low) * torch.rand(num_views, 1, generator=self.generator)
        share[num_views // 2 :] = 0
        order = torch.rand(num_views, num_patches, generator=self.generator).argsort(1).argsort(1)
        return order < (share * num_patches).round()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the teacher's weights towards the student's."""
        rise = (1 - math.cos(math.pi * self.done / self.steps)) / 2
        momentum = SELF_SUPERVISED.momentum + (1 - SELF_SUPERVISED.momentum) * rise
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


def balance(scores: Tensor) -> Tensor:
    """Return the teacher's scores [n, prototypes] as sharp probabilities that use all prototypes alike.

    Sharpening alone ends with one prototype for everything. The scores' exponentials are scaled until every
    prototype has the same share of the n, as nearly as `rounds` of Sinkhorn and Knopp's algorithm make it.
    """
    # NOTE[DIFF]: DINO and iBOT subtract a running mean of the scores, with which a batch this small leaves
    # all but a few prototypes unused; this is another way that DINO tries.
    shares = (scores / SELF_SUPERVISED.teacher_temperature).exp()
    for _ in range(SELF_SUPERVISED.rounds):
        shares = shares / shares.sum(0)
        shares = shares / shares.sum(1, keepdim=True)
    return shares


def cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the student's scores [n, prototypes] with the teacher's targets."""
    return F.cross_entropy(scores / SELF_SUPERVISED.student_temperature, targets)


def random_views(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return a crop of each uint8 picture [b, 3, H, W], enlarged to it, as the model reads it.

    Each may be mirrored, and has its own brightness, saturation and hue.
    """
    # NOTE[DIFF]: no greyscale, blur or solarisation, and a hue that turns a little only: hue and stripes are
    # what a class is known by.
    s, b = SELF_SUPERVISED, len(pictures)

    def free(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, generator=generator)

    side, stretch = free(*s.area).sqrt(), (free(-0.5, 0.5) * math.log(s.stretch)).exp()
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)  # of the picture's
    x, y = free(-1, 1) * (1 - width), free(-1, 1) * (1 - height)
    mirror = torch.where(free(-1, 1) < 0, -1.0, 1.0)
    zero = torch.zeros(b)
    place = torch.stack([mirror * width, zero, x, zero, height, y], dim=1).view(b, 2, 3)
    grid = F.affine_grid(place, list(pictures.shape), align_corners=False)
    crops = F.grid_sample(pictures / 255, grid, padding_mode="border", align_corners=False)

    angle, saturation, brightness = (
        value[:, None, None]
        for value in (
            math.tau * free(-s.hue, s.hue),
            free(1 - s.saturation, 1 + s.saturation),
            free(1 - s.brightness, 1 + s.brightness),
        )
    )
    grey = torch.full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3**0.5
    turn = angle.cos() * (torch.eye(3) - grey) + angle.sin() * across  # about the axis of the greys
    colours = torch.einsum("bij,bjhw->bihw", brightness * (grey + saturation * turn), crops).clamp(0, 1)
    return demo.normalise(255 * colours)
