import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import laws
import vitreg
from laws import draw_blocks, refuses, unchanged
from vitreg import ArgumentError, FeatureGuide
from vitreg.extractors import extractors

size = st.integers(1, 3)
seeds = st.integers(0, 99)
NAMES = vitreg.list_extractors()


def literal(target: list[Tensor], source: list[Tensor], reduction: str) -> float:
    total = sum(
        (x - y) ** 2
        for t, s in zip(target, source, strict=True)
        for x, y in zip(t.double().flatten().tolist(), s.double().flatten().tolist(), strict=True)
    )
    b, num_elements = target[0].shape[0], target[0].numel()
    return total / {"mean": len(target) * num_elements, "sum_layers": num_elements, "sum": b}[reduction]


@given(size, size, size, size, st.sampled_from(["mean", "sum_layers", "sum"]), st.floats(0.1, 10), seeds)
def test_literal_and_laws(
    num_blocks: int, b: int, n: int, d: int, reduction: str, factor: float, seed: int
) -> None:
    target, source = draw_blocks(seed, num_blocks, b, n, d), draw_blocks(seed + 7, num_blocks, b, n, d)
    value = FeatureGuide("msa_output", reduction=reduction).value
    assert value(target, source).item() == pytest.approx(literal(target, source, reduction), rel=1e-4)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.non_negative(value, target, source)
    laws.same_in_any_batch_order(value, target, source)
    laws.quadratic(value, target, source, factor)
    laws.gradient_to_the_target_only(value, target, source)


def literal_normalised(token: list[float], how: str) -> list[float]:
    if how == "length":
        length = sum(x * x for x in token) ** 0.5
        return [x / length for x in token]
    mean = sum(token) / len(token)
    variance = sum((x - mean) ** 2 for x in token) / len(token)
    return [(x - mean) / (variance + 1e-5) ** 0.5 for x in token]


@pytest.mark.parametrize("how", ["length", "layer"])
@given(size, size, size, st.integers(2, 4), st.floats(0.5, 10), seeds)
def test_normalised_tokens(
    how: str, num_blocks: int, b: int, n: int, d: int, factor: float, seed: int
) -> None:
    target, source = draw_blocks(seed, num_blocks, b, n, d), draw_blocks(seed + 7, num_blocks, b, n, d)
    value = FeatureGuide("block_output", normalize=how).value
    sides = [
        [
            torch.tensor([literal_normalised(token, how) for token in t.double().flatten(0, 1).tolist()])
            for t in side
        ]
        for side in (target, source)
    ]
    assert value(target, source).item() == pytest.approx(literal(*sides, "mean"), rel=1e-3, abs=1e-6)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.gradient_to_the_target_only(lambda t, s: value(t, s) * 1e3, target, source)
    if how == "length":
        scaled = [factor * t for t in target]
        torch.testing.assert_close(value(scaled, source), value(target, source), rtol=1e-3, atol=1e-5)


def test_wrong_normalisation() -> None:
    with refuses(ArgumentError, "normalize must be one of", "'none', 'length', 'layer'", "'l2'"):
        FeatureGuide("features", normalize="l2")


def test_there_are_extractors() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "sum_layers", "sum"])
def test_of_a_model(name: str, reduction: str, vit: object, images: Tensor) -> None:
    model, source = vit().train(), vit()
    layers = [0, -1] if extractors[name].per_block else "all"
    guide = FeatureGuide(name, layers=layers, reduction=reduction)
    assert guide.name == guide.extractor == name
    with (
        vitreg.attach(model, source, target=guide) as attachment,
        vitreg.trace(model, name, layers=layers) as ours,
        vitreg.trace(source, name, layers=layers) as theirs,
    ):
        model(images)
        source(images)
        expected = literal(ours[name], theirs[name], reduction)
        assert attachment.penalty().item() == pytest.approx(expected, rel=1e-4)
        assert attachment.terms.keys() == {name}


def test_all_tokens_take_part(vit: object, images: Tensor) -> None:
    """The distance is of all tokens: a change of one register alone is seen."""
    model = vit(reg_tokens=1, depth=1).train()
    with vitreg.attach(model, target=FeatureGuide("block_output")) as attachment:
        model.blocks[0].register_forward_hook(lambda _, args, out: out, prepend=True)
        model.reg_token.data += 1.0
        model(images)
        assert attachment.penalty().item() > 1e-4


def test_bad_options(vit: object) -> None:
    with refuses(ArgumentError, "extractor's name", "int"):
        FeatureGuide(3)
    with refuses(ArgumentError, "reduction must be one of", "'max'"):
        FeatureGuide("features", reduction="max")
    model = vit()
    with unchanged(model), refuses(ArgumentError, "no extractor 'block_outputs'", "'block_output'?"):
        vitreg.attach(model, target=FeatureGuide("block_outputs"))
