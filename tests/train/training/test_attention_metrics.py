from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import binary_jaccard_index

from vitreg.train.training.attention_metrics import (
    attended_patches,
    best_head_jaccard,
    object_share,
    patch_coverage,
)


def slow_attended(row: list[float], mass: float) -> set[int]:
    """Add the patch with the most attention until the mass is held."""
    total, held, chosen = sum(row), 0.0, set()
    while held / total < mass - 1e-9:
        best = max((p for p in range(len(row)) if p not in chosen), key=lambda p: row[p])
        chosen.add(best)
        held += row[best]
    return chosen


def drawn(seed: int, b: int = 3, h: int = 2, side: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Part of each row's attention falls on the [CLS] token, so a row over the patches does not sum to 1.
    rows = (3 * torch.randn(b, h, side * side + 1, generator=generator)).softmax(-1)[..., 1:]
    masks = torch.rand(b, 8 * side, 8 * side, generator=generator) < 0.5
    masks[:, :, : 4 * side] = True
    return rows, masks


@given(seed=st.integers(0, 10_000))
def test_share_and_jaccard_against_loops(seed: int) -> None:
    attention, masks = drawn(seed)
    coverage = patch_coverage(masks, 16)
    share, jaccard = object_share(attention, coverage), best_head_jaccard(attention, coverage)
    for i in range(3):
        inside = [
            float(masks[i, 8 * (p // 4) : 8 * (p // 4) + 8, 8 * (p % 4) : 8 * (p % 4) + 8].double().mean())
            for p in range(16)
        ]
        assert coverage[i].tolist() == pytest.approx(inside)
        rows = attention[i].double().tolist()
        mean = [sum(row[p] for row in rows) / 2 for p in range(16)]
        assert float(share[i]) == pytest.approx(
            sum(a * c for a, c in zip(mean, inside, strict=True)) / sum(mean)
        )
        object_patches = {p for p in range(16) if inside[p] >= 0.5}
        best = max(
            len(object_patches & chosen) / len(object_patches | chosen)
            for chosen in (slow_attended(row, 0.6) for row in rows)
        )
        assert float(jaccard[i]) == pytest.approx(best)


def test_jaccard_against_torchmetrics() -> None:
    attention, masks = drawn(1, b=5, h=1, side=6)
    coverage = patch_coverage(masks, 36)
    chosen = attended_patches(attention)[:, 0]
    expected = [binary_jaccard_index(chosen[i].int(), (coverage[i] >= 0.5).int()) for i in range(5)]
    torch.testing.assert_close(best_head_jaccard(attention, coverage), torch.stack(expected))


def test_attended_by_hand() -> None:
    row = torch.tensor([0.1, 0.3, 0.3, 0.3])
    assert attended_patches(row).tolist() == [False, True, True, False]  # 0.6 exactly: no third patch
    assert attended_patches(row / 7).tolist() == [False, True, True, False]  # only shares count
    assert attended_patches(row, mass=0.61).tolist() == [False, True, True, True]
    assert attended_patches(torch.full((5,), 0.2)).sum() == 3


def test_extremes() -> None:
    coverage = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    on, off = torch.tensor([[[0.4, 0.4, 0.0, 0.0]]]), torch.tensor([[[0.0, 0.0, 0.1, 0.2]]])
    assert object_share(on, coverage).tolist() == [1.0]
    assert object_share(off, coverage).tolist() == [0.0]
    assert best_head_jaccard(on, coverage).tolist() == [1.0]
    assert best_head_jaccard(torch.cat([off, on], 1), coverage).tolist() == [1.0]  # the best head counts


def test_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        patch_coverage(torch.ones(1, 8, 8, dtype=torch.bool), 15)
