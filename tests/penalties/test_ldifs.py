import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import laws
import vitreg
from laws import draw_blocks
from vitreg import LDIFS

size = st.integers(1, 3)
seeds = st.integers(0, 99)


def literal(target: list[Tensor], source: list[Tensor]) -> float:
    total = 0.0
    for t, s in zip(target, source, strict=True):
        b, n, _ = t.shape
        for i in range(b):
            for j in range(n):
                ours, theirs = t[i, j].double().tolist(), s[i, j].double().tolist()
                a, c = (math.sqrt(sum(x * x for x in token)) for token in (ours, theirs))
                total += sum((x / a - y / c) ** 2 for x, y in zip(ours, theirs, strict=True)) / (b * n)
    return total


@given(size, size, size, st.integers(2, 4), st.floats(0.1, 10), seeds)
def test_literal_and_laws(num_blocks: int, b: int, n: int, d: int, factor: float, seed: int) -> None:
    target, source = draw_blocks(seed, num_blocks, b, n, d), draw_blocks(seed + 7, num_blocks, b, n, d)
    value = LDIFS().value
    assert value(target, source).item() == pytest.approx(literal(target, source), rel=1e-3, abs=1e-6)
    laws.zero_at_the_source(value, target)
    laws.a_float32_scalar(value, target, source)
    laws.non_negative(value, target, source)
    laws.same_in_any_batch_order(value, target, source)
    laws.gradient_to_the_target_only(value, target, source)
    scaled = [factor * t for t in target]
    torch.testing.assert_close(value(scaled, source), value(target, source), rtol=1e-3, atol=1e-5)


def test_lpips_distance_of_normalised_features() -> None:
    """The perceptual distance that the paper follows, without learned weights, as its code has it."""
    target, source = draw_blocks(0, 3, 2, 4, 6), draw_blocks(7, 3, 2, 4, 6)
    as_maps = [
        (t.transpose(1, 2).unflatten(2, (2, 2)), s.transpose(1, 2).unflatten(2, (2, 2)))
        for t, s in zip(target, source, strict=True)
    ]
    lpips = sum(
        (F.normalize(t, dim=1) - F.normalize(s, dim=1)).pow(2).sum(1).mean((1, 2)) for t, s in as_maps
    )
    torch.testing.assert_close(LDIFS().value(target, source), lpips.mean(), rtol=1e-5, atol=1e-7)


def test_the_authors_code_is_of_another_scale() -> None:
    """Means over channels of length one, tokens and depths: near the source 1 / (depths n) of it."""
    depths, n, d = 3, 16, 24
    source = [block.double() for block in draw_blocks(7, depths, 1, n, d)]
    target = [s + 0.05 * t.double() for s, t in zip(source, draw_blocks(0, depths, 1, n, d), strict=True)]
    authors = 0.0
    for t, s in zip(target, source, strict=True):
        for channel in range(d):
            ours, theirs = t[0, :, channel].tolist(), s[0, :, channel].tolist()
            a, c = (math.sqrt(sum(x * x for x in values)) for values in (ours, theirs))
            squares = sum((x / a - y / c) ** 2 for x, y in zip(ours, theirs, strict=True))
            authors += squares / (n * d * depths)
    assert LDIFS().value(target, source).item() == pytest.approx(depths * n * authors, rel=0.1)


def test_five_blocks_by_default(vit: object) -> None:
    with vitreg.attach(vit(depth=12), target="ldifs") as attachment:
        assert "LDIFS(lam=0.04) reads block_output of blocks 1, 4, 6, 9, 11" in repr(attachment)
