import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import laws
import vitreg
from laws import draw, draw_blocks, refuses
from vitreg import GTA, ArgumentError

size = st.integers(1, 4)
seeds = st.integers(0, 99)


def literal(target: list[Tensor], source: list[Tensor], center: bool) -> float:
    total, count = 0.0, 0
    for t, s in zip(target, source, strict=True):
        for i in range(t.shape[0]):
            for j in range(t.shape[1]):
                row, other = t[i, j].double().tolist(), s[i, j].double().tolist()
                shift = sum(row) / len(row) - sum(other) / len(other) if center else 0.0
                for x, y in zip(row, other, strict=True):
                    total += (x - y - shift) ** 2
                    count += 1
    return total / count


@given(size, size, size, size, st.booleans(), seeds)
def test_literal(num_blocks: int, b: int, h: int, p: int, center: bool, seed: int) -> None:
    target, source = draw_blocks(seed, num_blocks, b, h, p), draw_blocks(seed + 7, num_blocks, b, h, p)
    got = GTA(center=center).value(target, source)
    assert got.item() == pytest.approx(literal(target, source, center), rel=1e-4, abs=1e-9)


@given(size, size, size, st.integers(2, 5), st.booleans(), st.floats(0.1, 10), seeds)
def test_laws(num_blocks: int, b: int, h: int, p: int, center: bool, factor: float, seed: int) -> None:
    value = GTA(center=center).value
    target, source = draw_blocks(seed, num_blocks, b, h, p), draw_blocks(seed + 7, num_blocks, b, h, p)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.non_negative(value, target, source)
    laws.same_in_any_batch_order(value, target, source)
    laws.quadratic(value, target, source, factor)
    laws.gradient_to_the_target_only(value, target, source)


@given(size, size, size, st.integers(2, 5), seeds)
def test_center_does_not_see_a_shift_of_a_row(num_blocks: int, b: int, h: int, p: int, seed: int) -> None:
    target, source = draw_blocks(seed, num_blocks, b, h, p), draw_blocks(seed + 7, num_blocks, b, h, p)
    shifted = [t + 3 + draw(seed + 50 + i, b, h, 1) for i, t in enumerate(target)]
    centred = GTA(center=True)
    torch.testing.assert_close(
        centred.value(shifted, source), centred.value(target, source), rtol=1e-3, atol=1e-5
    )
    assert centred.value(shifted, target).item() == pytest.approx(0, abs=1e-9)
    assert GTA().value(shifted, target).item() > 0.01


def test_defaults() -> None:
    gta = GTA()
    assert (gta.lam, gta.layers, gta.query, gta.reduction, gta.center) == (1.0, "all", "cls", "mean", False)
    assert gta.extractor == "attn_logits"
    assert gta.name == "gta"


def test_of_a_model(vit: object, perturb: object, images: Tensor) -> None:
    model, source = vit().train(), vit()
    with (
        vitreg.attach(model, source, target=GTA(layers=[0, -1])) as attachment,
        vitreg.trace(model, "attn_logits", layers=[0, -1]) as ours,
        vitreg.trace(source, "attn_logits", layers=[0, -1]) as theirs,
    ):
        model(images)
        source(images)
        expected = literal(ours["attn_logits"], theirs["attn_logits"], center=False)
        assert attachment.penalty().item() == pytest.approx(expected, rel=1e-4)


def test_a_key_bias_is_seen_unless_centred(vit: object, images: Tensor) -> None:
    model = vit(depth=1).train()
    with vitreg.attach(model, target={"plain": GTA(), "centred": GTA(center=True)}) as attachment:
        with torch.no_grad():
            model.blocks[0].attn.qkv.bias[16:32] += 1.0
        model(images)
        attachment.penalty()
        assert attachment.terms["plain"].item() > 1e-4
        assert attachment.terms["centred"].item() < 1e-10


def test_wrong_reduction() -> None:
    with refuses(ArgumentError, "reduction must be one of", "'mean', 'sum_layers', 'sum'", "'max'"):
        GTA(reduction="max")
