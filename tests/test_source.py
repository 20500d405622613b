"""The frozen source: in lower precision than the model, and in halves of a large batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import vitreg
from small_models import Factory
from vitreg.extractors import extractors
from vitreg.sources import frozen as source_module


def penalty(
    model: nn.Module, source: nn.Module | vitreg.FrozenSource, images: Tensor, **options: object
) -> Tensor:
    with vitreg.attach(model, source) as attachment:
        model(images)
        return attachment.penalty(**options)


def test_it_reads_nearly_the_same(pair: tuple[nn.Module, nn.Module], images: Tensor) -> None:
    model, source = pair
    full, low = (
        penalty(model, vitreg.FrozenSource(source, autocast=dtype), images)
        for dtype in (None, torch.bfloat16)
    )
    assert low != full
    assert low.item() == pytest.approx(full.item(), rel=0.05)
    assert low.dtype == torch.float32


def test_the_source_alone_is_in_low_precision(pair: tuple[nn.Module, nn.Module], images: Tensor) -> None:
    model, source = pair
    seen: dict[str, torch.dtype] = {}
    frozen = vitreg.FrozenSource(source, autocast=torch.bfloat16)
    for name, module in (("model", model), ("source", frozen.tower.module)):
        module.blocks[0].mlp.fc1.register_forward_hook(
            lambda *args, name=name: seen.__setitem__(name, args[2].dtype)
        )
    value = penalty(model, frozen, images)
    value.backward()
    assert seen == {"model": torch.float32, "source": torch.bfloat16}
    assert next(frozen.tower.module.parameters()).dtype == torch.float32
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_what_is_remembered_is_in_low_precision_too(
    pair: tuple[nn.Module, nn.Module], images: Tensor
) -> None:
    model, source = pair
    low = vitreg.FrozenSource(source, autocast=torch.bfloat16)
    expected = penalty(model, low, images)
    cached = vitreg.CachedSource(low, 4)
    for _ in range(2):
        assert torch.equal(penalty(model, cached, images, views=range(4)), expected)


@pytest.mark.parametrize("autocast", [torch.float32, "bf16", True])
def test_only_lower_precisions(vit: Factory, autocast: object) -> None:
    with pytest.raises(vitreg.ArgumentError, match="autocast"):
        vitreg.FrozenSource(vit(), autocast=autocast)


def test_a_large_batch_is_read_in_halves_to_the_same_values(
    pair: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "ENOUGH_PIXELS_ON_CPU", 4 * 32**2)
    model, source = pair
    frozen = vitreg.FrozenSource(source)
    sizes: list[int] = []
    frozen.tower.blocks[0].module.norm1.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    images = torch.randn(9, 3, 32, 32)
    for target in ("attn_logits", "block_output", "features"):
        with vitreg.attach(model, frozen, target) as attachment:
            model(images)
            whole = attachment.penalty()
            each = torch.stack([_alone(model, attachment, image) for image in images])
        assert whole.item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert sizes == 3 * [5, 4, *9 * [1]]


def _alone(model: nn.Module, attachment: vitreg.Attachment, image: Tensor) -> Tensor:
    model(image[None])
    return attachment.penalty()


def test_values_that_are_not_one_an_image_are_read_whole(
    pair: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "ENOUGH_PIXELS_ON_CPU", 2 * 32**2)
    model, source = pair
    images = torch.randn(4, 3, 32, 32)

    @vitreg.register_extractor("mean_output")
    def mean_output(tower: vitreg.Tower, block: vitreg.Block, query: str) -> vitreg.Probe:
        return vitreg.Probe({"block": vitreg.Tap(block.module)}, lambda seen: seen["block"].mean(0))

    try:
        with vitreg.attach(model, source, "mean_output") as attachment:
            model(images)
            whole = attachment.penalty()
        monkeypatch.setattr(source_module, "ENOUGH_PIXELS_ON_CPU", 10**9)
        with vitreg.attach(model, source, "mean_output") as attachment:
            model(images)
            assert torch.equal(attachment.penalty(), whole)
    finally:
        extractors._entries.pop("mean_output")
