"""What a tower is called with beside the images reaches its source, or is refused by what it is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import SMALL, make_vit
from vitreg import FeatureGuide, UnsupportedModelError

MASKS = torch.arange(16).expand(4, -1) < 6
ATTENTION_MASK = torch.zeros(17, 17).index_fill(1, torch.arange(9, 17), -torch.inf)


class Masked(VisionTransformer):
    """Masks positions behind its stem, as DINOv2 does: its stem sees nothing of it."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.mask_token = nn.Parameter(torch.randn(1, 16))
        self.masks: Tensor | None = None

    def _pos_embed(self, x: Tensor) -> Tensor:
        if self.masks is not None:
            x = torch.where(self.masks[..., None], self.mask_token[None], x)
        return super()._pos_embed(x)

    def forward(self, x: Tensor, masks: Tensor | None = None, *, is_training: bool = False) -> Tensor:
        return self.forward_head(self.forward_masked(x, masks))

    def forward_masked(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        self.masks = masks
        return self.forward_features(x)


@pytest.fixture
def masked_pair(perturb: Callable[[nn.Module], None]) -> tuple[nn.Module, nn.Module]:
    source = Masked(**SMALL)
    model = copy.deepcopy(source).train()
    perturb(model)
    return model, source


TARGETS = ["attn_logits", "attn_probs", "msa_output", "block_output", "features"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("named", [False, True])
def test_masked_positions_are_masked_in_the_source(
    masked_pair: tuple[nn.Module, nn.Module], target: str, named: bool, images: Tensor
) -> None:
    model, source = masked_pair
    with vitreg.trace(model, target) as ours, vitreg.trace(source, target) as theirs, torch.no_grad():
        model(images, MASKS)
        source.eval()(images, MASKS)
    pairs = list(zip(ours[target], theirs[target], strict=True))
    expected = sum(F.mse_loss(a.double(), b.double()) for a, b in pairs) / len(pairs)
    with vitreg.attach(model, source, target) as reg:
        if named:
            model(x=images, masks=MASKS, is_training=True)
        else:
            model(images, MASKS)
        assert reg.penalty().item() == pytest.approx(float(expected), rel=1e-5)
        model(images)  # and the next pass has none
        assert reg.penalty().item() != pytest.approx(float(expected), rel=1e-3)


def test_a_method_with_masks_is_refused(masked_pair: tuple[nn.Module, nn.Module], images: Tensor) -> None:
    model, _ = masked_pair
    with vitreg.attach(model) as reg:
        with refuses(
            UnsupportedModelError, "images alone", "2 tensors to forward_masked()", "Call the model"
        ):
            model.forward_masked(images, MASKS)
        model.forward_masked(images)
        assert reg.penalty().item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("target", ["msa_output", "block_output", "features"])
def test_attention_masks_of_timm(target: str, images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model, target=target) as reg:
        model(images, attn_mask=ATTENTION_MASK)
        assert reg.penalty() == 0
    with vitreg.attach(model) as reg, refuses(UnsupportedModelError, "called with a mask"):
        model(images, attn_mask=ATTENTION_MASK)


@pytest.mark.parametrize("target", ["attn_logits", "block_output"])
def test_masked_positions_of_transformers(target: str, images: Tensor) -> None:
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=32, patch_size=8)).train()
    with vitreg.attach(model, target=target) as reg:
        model(images, bool_masked_pos=MASKS)
        assert reg.penalty() == 0
        with refuses(UnsupportedModelError, "images alone", "further arguments", "Call the model itself"):
            model.embeddings(images, MASKS)


def test_a_switch_reaches_the_source(images: Tensor) -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)).train()
    with vitreg.attach(model, target="msa_output") as reg:
        model(torch.randn(2, 3, 48, 48), interpolate_pos_encoding=True)
        assert reg.penalty() == 0


def test_a_large_batch_with_masks_is_read_whole(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitreg.sources import frozen

    monkeypatch.setattr(frozen, "ENOUGH_PIXELS_ON_CPU", 1)
    model = Masked(**SMALL).train()
    with vitreg.attach(model) as reg:
        for _ in range(2):
            model(images, MASKS)
            assert reg.penalty() == 0


def test_masks_that_are_written_to_before_the_penalty(images: Tensor) -> None:
    model, masks = Masked(**SMALL).train(), MASKS.clone()
    with vitreg.attach(model) as reg:
        model(images, masks)
        masks.zero_()
        with refuses(vitreg.StateError, "changed in place"):
            reg.penalty()


class Prompted(VisionTransformer):
    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        return super().forward(x) + prompt.sum()


def test_an_argument_that_is_trained(images: Tensor) -> None:
    model, prompt = Prompted(**SMALL).train(), nn.Parameter(torch.zeros(16))
    with vitreg.attach(model) as reg:
        with refuses(
            UnsupportedModelError, "arguments that are not trained", "requires a gradient", "detach"
        ):
            model(images, prompt)
        model(images, prompt.detach())
        assert reg.penalty() == 0


class Wrapped:
    def __init__(self, prompt: Tensor) -> None:
        self.prompt = prompt

    def sum(self) -> Tensor:
        return self.prompt.sum()


def test_an_object_with_what_is_trained(images: Tensor) -> None:
    model, prompt = Prompted(**SMALL).train(), nn.Parameter(torch.zeros(16))
    with vitreg.attach(model) as reg:
        with refuses(UnsupportedModelError, "arguments that are not trained", "requires a gradient"):
            model(images, Wrapped(prompt * 1))
        model(images, Wrapped(prompt.detach()))
        assert reg.penalty() == 0


def test_sources_that_cannot_have_it(images: Tensor) -> None:
    model = Masked(**SMALL).train()
    with vitreg.attach(model, vitreg.CachedSource(model, 4)) as reg:
        model(images, MASKS)
        with refuses(UnsupportedModelError, "images alone", "further arguments", "CachedSource"):
            reg.penalty(views=range(4))
    guide = FeatureGuide("block_output", align="resample")
    with vitreg.attach(model, Masked(**{**SMALL, "img_size": 64}), guide) as reg:
        model(images, MASKS)
        with refuses(UnsupportedModelError, "images alone", "another size", "further arguments"):
            reg.penalty()


@pytest.mark.parametrize("target", ["attn_logits", "msa_output", "block_output", "features"])
def test_a_stem_with_a_parameter_of_the_tower(target: str) -> None:
    from timm.models.tnt import TNT

    model = TNT(img_size=32, patch_size=8, embed_dim=16, inner_dim=4, depth=2, num_heads_outer=2).train()
    images = torch.randn(2, 3, 32, 32)
    with vitreg.attach(model, target=target) as reg:
        model(images)
        assert reg.penalty().item() == pytest.approx(0, abs=1e-12)
        model.forward_features(images)
        if target != "features":
            assert reg.penalty().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_compiled(masked_pair: tuple[nn.Module, nn.Module], images: Tensor) -> None:
    model, source = masked_pair
    values = []
    for backend in (None, "eager", "aot_eager"):
        with vitreg.attach(model, source, "block_output") as reg:
            torch.compiler.reset()
            run = model if backend is None else torch.compile(model, backend=backend)
            for _ in range(2):
                run(images, MASKS)
                values.append(reg.penalty().item())
    assert values == pytest.approx(values[:1] * 6, rel=1e-5)


class WithMore(VisionTransformer):
    """Keeps its tokens in what it is given, adds noise from it, or scales by it."""

    def forward(self, x: Tensor, more: object = None) -> Tensor:
        x = self._pos_embed(self.patch_embed(x))
        if isinstance(more, dict):
            x = more.setdefault("tokens", x.detach())
        elif isinstance(more, torch.Generator):
            x = x + torch.randn(x.shape, generator=more)
        elif isinstance(more, np.random.Generator):
            x = x + torch.from_numpy(more.normal(size=x.shape)).float()
        elif more is not None:
            x = x * sum(more)
        return self.forward_head(self.norm(self.blocks(x)))


@pytest.mark.parametrize(
    "more", [dict, lambda: torch.Generator().manual_seed(3), lambda: np.random.default_rng(3)]
)
@pytest.mark.parametrize("large", [False, True])
def test_the_source_has_what_the_model_has_changed_since(
    more: Callable[[], object], large: bool, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitreg.sources import frozen

    source = WithMore(**SMALL)
    model = copy.deepcopy(source).train()
    with torch.no_grad():
        for parameter in (*model.patch_embed.parameters(), *model.blocks.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    outputs = []
    for one in (model, copy.deepcopy(source)):
        hook = one.blocks[1].register_forward_hook(lambda _m, _a, out: outputs.append(out.detach().double()))
        one(images, more())
        hook.remove()
    expected = F.mse_loss(*outputs)
    if large:
        monkeypatch.setattr(frozen, "ENOUGH_PIXELS_ON_CPU", 1)
    with vitreg.attach(model, source, "block_output", layers=[1]) as reg:
        for _ in range(3):
            given = more()
            model(images, given)
            assert reg.penalty().item() == pytest.approx(float(expected), rel=1e-4)


def test_an_iterator_is_read_once(images: Tensor) -> None:
    model = WithMore(**SMALL).train()
    with vitreg.attach(model) as reg:
        with refuses(UnsupportedModelError, "an iterator", "Make a list"):
            model(images, iter([2.0, 1.0]))
        model(images, [2.0, 1.0])
        assert reg.penalty() == 0
        with torch.no_grad():
            model.eval()(images, iter([2.0]))  # nobody reads it
