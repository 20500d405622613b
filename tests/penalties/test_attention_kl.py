import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import laws
import vitreg
from laws import draw, draw_blocks, refuses
from vitreg import ArgumentError, AttentionKL

size = st.integers(1, 3)
seeds = st.integers(0, 99)


def literal(target: list[Tensor], source: list[Tensor], temperature: float) -> float:
    total, count = 0.0, 0
    for t, s in zip(target, source, strict=True):
        for ours, theirs in zip(
            t.double().flatten(0, 1).tolist(), s.double().flatten(0, 1).tolist(), strict=True
        ):
            q, p = ([math.exp(x / temperature) for x in row] for row in (ours, theirs))
            for a, b in zip(p, q, strict=True):
                total += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
            count += 1
    return total / count


@given(size, size, size, st.integers(2, 5), st.floats(0.5, 3), seeds)
def test_literal_and_laws(num_blocks: int, b: int, h: int, p: int, temperature: float, seed: int) -> None:
    target, source = draw_blocks(seed, num_blocks, b, h, p), draw_blocks(seed + 7, num_blocks, b, h, p)
    value = AttentionKL(temperature=temperature).value
    assert value(target, source).item() == pytest.approx(literal(target, source, temperature), rel=1e-3)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.non_negative(value, target, source)
    laws.same_in_any_batch_order(value, target, source)
    laws.gradient_to_the_target_only(value, target, source)
    shifted = [t + 3 + draw(seed + 50 + i, b, h, 1) for i, t in enumerate(target)]
    torch.testing.assert_close(value(shifted, source), value(target, source), rtol=1e-3, atol=1e-5)


def test_the_authors_loss_is_this_and_the_entropy_of_the_source() -> None:
    target, source = draw_blocks(0, 3, 2, 3, 5), draw_blocks(7, 3, 2, 3, 5)
    authors = entropy = torch.zeros(())
    for t, s in zip(target, source, strict=True):
        p = s.softmax(-1)
        authors = authors - (p * torch.log(t.softmax(-1))).sum(-1).mean()  # their cross-entropy, summed up
        entropy = entropy - (p * p.log()).sum(-1).mean()
    value = AttentionKL().value(target, source)
    torch.testing.assert_close(3 * value, authors - entropy, rtol=1e-4, atol=1e-6)


def test_of_a_model(vit: object, images: Tensor) -> None:
    model, source = vit().train(), vit()
    with (
        vitreg.attach(model, source, target=AttentionKL(layers=[0, -1])) as attachment,
        vitreg.trace(model, "attn_logits", layers=[0, -1]) as ours,
        vitreg.trace(source, "attn_logits", layers=[0, -1]) as theirs,
    ):
        model(images)
        source(images)
        expected = literal(ours["attn_logits"], theirs["attn_logits"], 1.0)
        assert attachment.penalty().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("temperature", [0, -1, math.inf, "1", True])
def test_wrong_temperature(temperature: object) -> None:
    with refuses(ArgumentError, "temperature must be a finite number above 0", repr(temperature)):
        AttentionKL(temperature=temperature)
