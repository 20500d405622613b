import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import laws
import vitreg
from laws import draw, draw_blocks, refuses
from vitreg import ArgumentError, GramAnchor

size = st.integers(1, 3)
seeds = st.integers(0, 99)


def cosine(one: list[float], other: list[float]) -> float:
    lengths = math.sqrt(sum(x * x for x in one)) * math.sqrt(sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths


def literal(target: list[Tensor], source: list[Tensor], rows: int) -> float:
    total = count = 0
    for t, s in zip(target, source, strict=True):
        for ours, theirs in zip(t.double().tolist(), s.double().tolist(), strict=True):
            p = len(ours)
            for r in range(min(rows, p)):
                i = r * p // min(rows, p)
                for j in range(p):
                    total += (cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j])) ** 2
                    count += 1
    return total / count


@given(size, size, st.integers(2, 6), st.integers(2, 4), st.integers(1, 7), seeds)
def test_literal_and_laws(num_blocks: int, b: int, p: int, d: int, rows: int, seed: int) -> None:
    target, source = draw_blocks(seed, num_blocks, b, p, d), draw_blocks(seed + 7, num_blocks, b, p, d)
    value = GramAnchor(rows=rows).value
    assert value(target, source).item() == pytest.approx(literal(target, source, rows), rel=1e-3, abs=1e-6)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.non_negative(value, target, source)
    laws.same_in_any_batch_order(value, target, source)
    laws.gradient_to_the_target_only(value, target, source)
    rotation = torch.linalg.qr(draw(seed + 50, d, d)).Q
    turned = [3 * t @ rotation for t in target]
    torch.testing.assert_close(value(turned, source), value(target, source), rtol=1e-3, atol=1e-5)


def test_the_authors_loss() -> None:
    """DINOv3's Gram loss at the level of one picture: the mean squared error of the similarities."""
    target, source = draw_blocks(0, 1, 3, 5, 4), draw_blocks(7, 1, 3, 5, 4)
    student, teacher = F.normalize(target[0], dim=-1), F.normalize(source[0], dim=-1)
    authors = torch.nn.MSELoss()(student @ student.transpose(-1, -2), teacher @ teacher.transpose(-1, -2))
    torch.testing.assert_close(GramAnchor().value(target, source), authors)


def test_of_a_model(vit: object, images: Tensor) -> None:
    model, source = vit().train(), vit()
    with (
        vitreg.attach(model, source, target="gram_anchor") as attachment,
        vitreg.trace(model, "patch_output", layers=-1) as ours,
        vitreg.trace(source, "patch_output", layers=-1) as theirs,
    ):
        model(images)
        source(images)
        expected = literal(ours["patch_output"], theirs["patch_output"], 256)
        assert attachment.penalty().item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rows", [0, 1.5, True, None])
def test_wrong_rows(rows: object) -> None:
    with refuses(ArgumentError, "rows must be a whole number of at least 1", repr(rows)):
        GramAnchor(rows=rows)
