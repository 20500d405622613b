"""How far a method may be ahead of another by chance: an interval paired over seeds and test pictures."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from vitreg.train.basics.tables import signed

RESAMPLES, AT_ONCE = 2000, 100
"""Draws of the bootstrap, and how many are held in memory at a time."""

MIN_SEEDS = 3
"""Fewer have no interval of their own."""


class Interval(NamedTuple):
    """Where a mean difference lies, in points of top-1, and over what it was drawn again."""

    low: float
    high: float
    over: str


def gain_fields(name: str, points: float | None, interval: Interval | None) -> dict[str, float | None]:
    """Return a difference and its interval as three fields of a row: NAME, NAME_low and NAME_high."""
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {name: points, f"{name}_low": low, f"{name}_high": high}


def gain_cells(rows: Sequence[object], name: str) -> list[str]:
    """Return the difference of each row with its interval as text, from the fields of `gain_fields`."""
    return [
        signed(getattr(row, name), within=(getattr(row, f"{name}_low"), getattr(row, f"{name}_high")))
        for row in rows
    ]


def picture_interval(
    first: Mapping[int, Sequence[float]], second: Mapping[int, Sequence[float]], *, level: float = 0.95
) -> Interval | None:
    r"""Return the interval of how far the first method is ahead of the second on the seeds of both.

    With $d_{si} \in [-1, 1]$ the difference on picture $i$ at seed $s$, seeds and pictures are drawn
    with replacement, independently of each other, and the percentiles of $100\,\bar d$ are returned. Of a
    single seed only the pictures are drawn. None without a common seed.

    Args:
        first: for each seed whether each test picture was right, 1 or 0, in one order.
        second: the same of the other method.
        level: the probability.

    Source: Owen 2007 (Annals of Applied Statistics 1), "The pigeonhole bootstrap", arXiv 0712.1111.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    ahead = np.array([np.asarray(first[s], float) - np.asarray(second[s], float) for s in seeds])
    means: list[float] = []
    for seeds_drawn, pictures_drawn in _draws(*ahead.shape):
        means += list(100 * np.einsum("bi,bi->b", seeds_drawn @ ahead, pictures_drawn) / ahead.size)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), "seeds and pictures" if len(seeds) > 1 else "pictures")


def _draws(*numbers: int) -> Iterator[list[NDArray[np.int64]]]:
    """Yield how often each of so many things is drawn, [draws, number] for each number, some at a time."""
    generator = np.random.default_rng(0)
    for _ in range(RESAMPLES // AT_ONCE):
        yield [generator.multinomial(number, np.full(number, 1 / number), AT_ONCE) for number in numbers]


def worst_top1(right: Sequence[float], cells: Sequence[Hashable]) -> float:
    """Return the lowest mean among the pictures of each cell, such as a class on a background, in percent."""
    return 100 * float(
        _by_cell(np.asarray(right, float)[None], _members(cells), np.ones((1, len(cells)))).min()
    )


def worst_interval(
    first: Mapping[int, Sequence[float]],
    second: Mapping[int, Sequence[float]],
    cells: Sequence[Hashable],
    objects: Sequence[int],
) -> Interval | None:
    """Return the 95 % interval of how far the first method's `worst_top1`, mean over seeds, is ahead.

    As `picture_interval`, but what is drawn are objects, with all of their pictures, and each draw has a
    worst cell of its own for each method and seed. As the worst of noisy means is lower than the lowest of
    the true ones, so is the interval of a single method. `cells` says to which cell each picture belongs,
    `objects` which object it shows.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    sides = [np.array([np.asarray(side[seed], float) for seed in seeds]) for side in (first, second)]
    members, (known, places) = _members(cells), np.unique(np.asarray(objects), return_inverse=True)
    means: list[float] = []
    for seeds_drawn, objects_drawn in _draws(len(seeds), len(known)):
        drawn = objects_drawn[:, places]
        worst = [np.stack([_by_cell(one[None], members, drawn).min(1) for one in side], 1) for side in sides]
        means += list(100 * ((worst[0] - worst[1]) * seeds_drawn).sum(1) / len(seeds))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(low), float(high), "seeds and objects" if len(seeds) > 1 else "objects")


def _members(cells: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return which pictures belong to each cell, [cells, pictures]."""
    return np.array([[float(cell == one) for cell in cells] for one in dict.fromkeys(cells)])


def _by_cell(
    right: NDArray[np.float64], members: NDArray[np.float64], weights: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted mean of each cell, [weights, cells]; infinity where a cell was not drawn."""
    drawn = weights @ members.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(drawn > 0, ((weights * right) @ members.T) / drawn, np.inf)


def seed_interval(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """Return Student's 95 % interval of the mean difference over the seeds of both; None for fewer than 3.

    For runs whose predictions were not kept. It says nothing of other test pictures, and of two seeds it
    would be so wide that it says nothing at all.
    """
    ahead = np.array([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])
    if len(ahead) < MIN_SEEDS:
        return None
    half = float(t.ppf(0.975, len(ahead) - 1) * ahead.std(ddof=1) / np.sqrt(len(ahead)))
    return Interval(float(ahead.mean()) - half, float(ahead.mean()) + half, "seeds")
