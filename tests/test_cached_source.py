"""A source that remembers: the values of the live one, and no pass for what it has seen."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vitreg
from remembered import SIZE, Passes, penalty
from small_models import Factory


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(SIZE, 3, 32, 32)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("target", ["attn_logits", "attn_probs", "msa_output", "block_output", "features"])
def test_value_and_gradient_are_those_of_the_live_source(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, target: str, on_disk: bool, tmp_path: Path
) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE, path=tmp_path if on_disk else None)
    parameters = [p for name, p in model.named_parameters() if name.startswith("blocks.0.attn")]
    for places in ([3, 1, 7, 2], [3, 1, 7, 2]):  # read, then recalled
        live = penalty(model, source, pictures[places], target=target)
        ours = penalty(model, cached, pictures[places], places, target)
        assert torch.equal(ours, live)
        expected = torch.autograd.grad(live, parameters)
        assert all(map(torch.equal, torch.autograd.grad(ours, parameters), expected))
    mixed = [2, 11, 3, 5]  # two known, two new
    assert torch.allclose(
        penalty(model, cached, pictures[mixed], mixed, target),
        penalty(model, source, pictures[mixed], target=target),
        rtol=1e-5,
    )


def test_only_views_that_are_new_are_run(pair: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE)
    passes = Passes(cached)
    for places in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 4, 4], [4, 0, 1, 2]):
        penalty(model, cached, pictures[places], torch.tensor(places))
    assert passes.sizes == [4, 2]


def test_attachments_share_what_is_remembered_and_keep_apart_what_differs(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE)
    passes = Passes(cached)
    places = [0, 1, 2, 3]
    for _ in range(2):
        for layers in ("all", 1):
            value = penalty(model, cached, pictures[places], places, layers=layers)
            assert torch.equal(value, penalty(model, source, pictures[places], layers=layers))
    assert len(passes.sizes) == 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = penalty(model, cached, pictures[places], places)
        assert torch.equal(mixed, penalty(model, source, pictures[places]))
    assert len(passes.sizes) == 3


def test_another_attachments_source_can_be_remembered(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    model, source = pair
    with vitreg.attach(model, source, "block_output") as attachment:
        cached = vitreg.CachedSource(attachment.source, SIZE)
    assert cached.tower is attachment.source.tower
    places = [5, 6, 7, 8]
    assert torch.equal(
        penalty(model, cached, pictures[places], places), penalty(model, source, pictures[places])
    )


def test_weights_can_be_compared_with_it_too(pair: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE)
    both = ["attn_logits", "l2sp"]
    places = [0, 1, 2, 3]
    assert torch.equal(
        penalty(model, cached, pictures[places], places, both),
        penalty(model, source, pictures[places], None, both),
    )
    assert penalty(model, cached, pictures[:4], None, "l2sp") > 0  # no view is read


def test_a_source_of_another_size_is_remembered_too(vit: Factory, pictures: Tensor) -> None:
    source, model = vit(img_size=64), vit().train()
    cached = vitreg.CachedSource(source, SIZE)
    places = [0, 1, 2, 3]
    live = penalty(model, source, pictures[places], align="resample")
    for _ in range(2):
        assert torch.equal(penalty(model, cached, pictures[places], places, align="resample"), live)


def test_half_precision_is_near_and_half_the_size(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    places = [0, 1, 2, 3]
    live = penalty(model, source, pictures[places])
    for dtype in (torch.float16, torch.float32):
        cached = vitreg.CachedSource(source, SIZE, path=tmp_path / str(dtype), dtype=dtype)
        assert torch.allclose(penalty(model, cached, pictures[places], places), live, rtol=1e-2)
    half, full = (next((tmp_path / str(d)).glob("*/values.npy")) for d in (torch.float16, torch.float32))
    assert np.load(full).nbytes == 2 * np.load(half).nbytes == SIZE * 3 * 2 * 16 * 4


def test_double_precision_has_to_be_asked_for(pair: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    model, source = (m.double() for m in pair)
    places = [0, 1, 2, 3]
    options = {"target": "block_output"}
    with pytest.raises(vitreg.MismatchError, match=r"dtype=torch\.float64"):
        penalty(model, vitreg.CachedSource(source, SIZE), pictures[places].double(), places, **options)
    cached = vitreg.CachedSource(source, SIZE, dtype=torch.float64)
    assert torch.equal(
        penalty(model, cached, pictures[places].double(), places, **options),
        penalty(model, source, pictures[places].double(), **options),
    )


def test_values_beyond_half_precision_are_an_error(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    model, source = pair
    with torch.no_grad():
        source.blocks[0].attn.qkv.weight.mul_(1e4)
    with pytest.raises(vitreg.ArgumentError, match="finite"):
        penalty(model, vitreg.CachedSource(source, SIZE, dtype=torch.float16), pictures[:4], range(4))


def test_another_picture_under_a_known_number_is_an_error(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE)
    penalty(model, cached, pictures[:4], range(4))
    for changed in (pictures[[0, 1, 2, 4]], pictures[:4].flip(-1), pictures[:4] + 0.01):
        with pytest.raises(vitreg.StateError, match="not the picture"):
            penalty(model, cached, changed, range(4))


@pytest.mark.parametrize("size", [64, 224, 256])
def test_pictures_that_differ_in_their_middle_are_told_apart(vit: Factory, size: int) -> None:
    source = vit(img_size=size, patch_size=size // 4)
    model = copy.deepcopy(source).train()
    cached = vitreg.CachedSource(source, SIZE)
    images = torch.randn(4, 3, size, size)
    margin = torch.ones(size, size, dtype=torch.bool)
    margin[size // 4 : -size // 4, size // 4 : -size // 4] = False
    images[..., margin] = 1.0
    penalty(model, cached, images, range(4))
    penalty(model, cached, images, range(4))
    with pytest.raises(vitreg.StateError, match="4 of 4"):
        penalty(model, cached, images[[1, 2, 3, 0]], range(4))
    cut = images.clone()
    cut[..., : size // 2, size // 2 :] = images.flip(0)[..., : size // 2, size // 2 :]
    with pytest.raises(vitreg.StateError, match="4 of 4"):
        penalty(model, cached, cut, range(4))


@pytest.mark.parametrize(
    ("views", "error", "message"),
    [
        (None, vitreg.StateError, "penalty\\(views=numbers\\)"),
        ([0, 1, 2], vitreg.ArgumentError, "Expected 4 whole numbers"),
        ([0, 1, 2, SIZE], vitreg.ArgumentError, f"from 0 to {SIZE - 1}"),
        ([0, 1, 2, -1], vitreg.ArgumentError, "found -1"),
        (torch.rand(4), vitreg.ArgumentError, "whole numbers"),
        (3, vitreg.ArgumentError, "whole numbers"),
        (torch.tensor(3), vitreg.ArgumentError, "whole numbers"),
    ],
)
def test_numbers_that_cannot_be_meant(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, views: object, error: type[Exception], message: str
) -> None:
    model, source = pair
    with pytest.raises(error, match=message):
        penalty(model, vitreg.CachedSource(source, SIZE), pictures[:4], views)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size"),
        ({"size": True}, "size"),
        ({"dtype": torch.bfloat16}, "dtype"),
        ({"path": 3}, "path"),
    ],
)
def test_options_that_cannot_be_meant(vit: Factory, options: dict[str, object], message: str) -> None:
    with pytest.raises(vitreg.ArgumentError, match=message):
        vitreg.CachedSource(vit(), **{"size": 4, **options})


def test_a_source_that_cannot_be_remembered(vit: Factory) -> None:
    with pytest.raises(vitreg.ArgumentError, match="module or a FrozenSource"):
        vitreg.CachedSource("base", 4)


def test_what_does_not_fit_into_memory_is_an_error(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor, tmp_path: Path
) -> None:
    model, source = pair
    with pytest.raises(vitreg.ArgumentError, match="path=FOLDER"):
        penalty(model, vitreg.CachedSource(source, SIZE, limit=1000), pictures[:4], range(4))
    penalty(model, vitreg.CachedSource(source, SIZE, limit=1000, path=tmp_path), pictures[:4], range(4))


@pytest.mark.slow
def test_a_compiled_model_has_a_remembered_source(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE)
    with vitreg.attach(model, cached) as attachment:
        compiled = torch.compile(model, backend="eager")
        for _ in range(2):
            compiled(pictures[:4])
            ours = attachment.penalty(views=range(4))
    assert torch.equal(ours, penalty(model, source, pictures[:4]))


def test_weights_that_were_rounded_serve_no_other_model(
    pair: tuple[nn.Module, nn.Module], pictures: Tensor
) -> None:
    model, source = pair
    frozen = vitreg.FrozenSource(source)
    low = copy.deepcopy(model).bfloat16()
    penalty(low, vitreg.CachedSource(frozen, SIZE), pictures[:4].bfloat16(), range(4))
    with pytest.raises(vitreg.MismatchError, match="rounded"):
        penalty(model, frozen, pictures[:4])


def test_the_limit_is_of_all_that_is_remembered(pair: tuple[nn.Module, nn.Module], pictures: Tensor) -> None:
    model, source = pair
    cached = vitreg.CachedSource(source, SIZE, limit=20_000)
    penalty(model, cached, pictures[:4], range(4))
    with pytest.raises(vitreg.ArgumentError, match="more than the limit"):
        penalty(model, cached, pictures[:4], range(4), layers=0)
