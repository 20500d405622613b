"""Weights between two models: the ends are exact, the middle is the mean, and a head is needed at both."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import num_hooks, refuses, unchanged
from small_models import TOWERS, make_vit, shake
from vitreg import ArgumentError, MismatchError, UnsupportedModelError

Pair = tuple[nn.Module, nn.Module]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("tower", sorted(TOWERS))
@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
def test_every_weight_is_between(tower: str, alpha: float) -> None:
    source, model = TOWERS[tower](), shake(TOWERS[tower]())
    start, end = state(source), state(model)
    identities = [id(p) for p in model.parameters()]
    with unchanged(source):
        vitreg.interpolate(model, source, alpha)
    assert [id(p) for p in model.parameters()] == identities
    for name, value in model.state_dict().items():
        if alpha in (0, 1):
            assert torch.equal(value, (start, end)[alpha][name]), name
        elif value.is_floating_point():
            expected = [
                (1 - alpha) * s + alpha * e
                for s, e in zip(
                    start[name].double().flatten().tolist(),
                    end[name].double().flatten().tolist(),
                    strict=True,
                )
            ]
            torch.testing.assert_close(
                value.double().flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7
            )
        else:
            assert torch.equal(value, end[name]), name


def test_a_state_dict_is_a_source(pair: Pair) -> None:
    model, source = pair
    other = copy.deepcopy(model)
    vitreg.interpolate(model, source, 0.3)
    vitreg.interpolate(other, source.state_dict(), 0.3)
    assert same(state(model), state(other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(pair: Pair, dtype: torch.dtype) -> None:
    model, source = pair
    model.to(dtype)
    source.double()
    start, end = state(source), state(model)
    vitreg.interpolate(model, source, 0.5)
    for name, value in model.state_dict().items():
        assert value.dtype == dtype
        expected = (0.5 * start[name] + 0.5 * end[name].double()).to(dtype)
        torch.testing.assert_close(value, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_buffers() -> None:
    def make(mean: float, count: int) -> nn.Module:
        norm = nn.BatchNorm1d(2)
        norm.running_mean.fill_(mean)
        norm.num_batches_tracked.fill_(count)
        norm.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        return norm

    model = make(3.0, 7)
    vitreg.interpolate(model, make(1.0, 2), 0.25)
    assert model.running_mean.tolist() == [1.5, 1.5]
    assert int(model.num_batches_tracked) == 7
    assert model.mask.tolist() == [0.0, float("-inf")], "no nan of two infinities"
    vitreg.interpolate(model, make(1.0, 2), 0)
    assert int(model.num_batches_tracked) == 2


def test_a_curve_leaves_the_model_as_it_was(pair: Pair) -> None:
    model, source = pair
    seen: dict[float, dict[str, Tensor]] = {}

    def evaluate(given: nn.Module) -> int:
        assert given is model
        seen[len(seen)] = state(given)
        return len(seen)

    with unchanged(model):
        curve = vitreg.interpolation_curve(model, source, evaluate)
    assert list(curve) == [step / 10 for step in range(11)]
    assert list(curve.values()) == list(range(1, 12))
    assert same(seen[0], state(source))
    assert same(seen[10], state(model))
    for index, alpha in enumerate(curve):
        other = copy.deepcopy(model)
        vitreg.interpolate(other, source, alpha)
        assert same(seen[index], state(other)), alpha


def test_a_curve_that_fails_leaves_the_model_as_it_was(pair: Pair) -> None:
    model, source = pair

    def evaluate(_: nn.Module) -> None:
        raise ZeroDivisionError

    with unchanged(model), pytest.raises(ZeroDivisionError):
        vitreg.interpolation_curve(model, source, evaluate)
    with unchanged(model), refuses(ArgumentError, "alpha must be a number from 0 to 1", "2"):
        vitreg.interpolation_curve(model, source, lambda _: None, alphas=(0.5, 2))


def test_the_soup_is_the_mean() -> None:
    models = [shake(make_vit()) for _ in range(3)]
    soup = vitreg.uniform_soup([models[0], models[1].state_dict(), models[2]])
    for name, value in soup.items():
        literal = sum(model.state_dict()[name].double() for model in models) / 3
        torch.testing.assert_close(value, literal.float(), rtol=1e-6, atol=1e-8)
    make_vit().load_state_dict(soup, strict=True)


def test_the_soup_of_one_or_of_equals_has_the_same_bits(vit: object) -> None:
    model = vit()
    for models in ([model], [model] * 3):
        soup = vitreg.uniform_soup(models)
        assert same(soup, state(model))
        soup["cls_token"].zero_()
        assert model.cls_token.any(), "it is a copy"


def test_the_soup_of_half_precision_is_summed_in_float64() -> None:
    models = [nn.Linear(1, 1, bias=False).bfloat16() for _ in range(3)]
    for model, value in zip(models, (256.0, 1.0, 1.0), strict=True):
        nn.init.constant_(model.weight, value)
    assert vitreg.uniform_soup(models)["weight"].item() == 86.0


def test_a_head_is_needed_at_both_ends(vit: object) -> None:
    model, pretrained = vit(), vit(num_classes=7)
    headless = vit(num_classes=0)
    with unchanged(model):
        with refuses(MismatchError, "'head.weight'", "[5, 16]", "[7, 16] in the source", "fit_head"):
            vitreg.interpolate(model, pretrained)
        with refuses(MismatchError, "'head.weight'", "[5, 16]", "nothing in the source", "before training"):
            vitreg.interpolate(model, headless)
        with refuses(MismatchError, "'head.weight'", "nothing in the model", "[5, 16]"):
            vitreg.interpolate(headless, model)
    with refuses(MismatchError, "'head.weight'", "[7, 16] in models[1]"):
        vitreg.uniform_soup([model, pretrained])


def test_from_the_probe_to_the_fine_tuned_model(vit: object, images: Tensor) -> None:
    model = vit()
    vitreg.fit_head(model, [(images, torch.tensor([0, 1, 2, 3])), (images, torch.tensor([4, 0, 1, 2]))])
    probe = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(images).square().sum().backward()
    optimizer.step()
    curve = vitreg.interpolation_curve(model, probe, lambda m: m(images).detach().clone(), alphas=(0, 0.5, 1))
    assert torch.equal(curve[0], probe(images))
    assert torch.equal(curve[1], model(images))
    assert not torch.equal(curve[0.5], curve[0])
    assert num_hooks(model) == 0


def test_bad_input(pair: Pair) -> None:
    model, source = pair
    with unchanged(model):
        for wrong in (-0.1, 1.1, float("nan"), "0.5", True, None):
            with refuses(ArgumentError, "alpha must be a number from 0 to 1", repr(wrong)):
                vitreg.interpolate(model, source, wrong)
        with refuses(ArgumentError, "source must be a model or its state dict", "str"):
            vitreg.interpolate(model, "source.pt")
    with refuses(ArgumentError, "at least one model"):
        vitreg.uniform_soup([])
    with refuses(ArgumentError, "models[1] must be a model", "int"):
        vitreg.uniform_soup([model, 3])


def test_adapters_are_merged_first() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(make_vit(), peft.LoraConfig(r=2, target_modules=["qkv"]))
    with refuses(UnsupportedModelError, "found adapters in PeftModel", "merge_and_unload() first"):
        vitreg.interpolate(model, copy.deepcopy(model))
    merged = model.merge_and_unload()
    vitreg.interpolate(merged, copy.deepcopy(merged))
