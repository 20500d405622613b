"""The search for learning rate and λ: on a fold after the other, and what cannot win is stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from vitreg.files import write_atomically
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.tables import TextTable
from vitreg.train.choice import Standing, paired_difference, standing
from vitreg.train.options import SEARCHED_LRS, FinetuneOptions
from vitreg.train.trials import OnFold, Trial

LIST_FILE = "search.json"
"""The list of trials of a search with `--minutes`, which is fixed before the first of them starts."""


def planned_trials(options: FinetuneOptions) -> list[Trial]:
    """Return what a search tries: each learning rate with each guide and λ, those near the defaults first.

    Each learning rate is tried without a guide, too.
    """
    lrs = dict.fromkeys(options.lrs or SEARCHED_LRS)
    near = sorted(lrs, key=lambda lr: (abs(math.log(lr / options.lr)), lr))
    kinds = sorted(options.searched, key=lambda guide: guide != (options.used_method, options.used_lam))
    kinds.insert(1, (options.unguided, None))
    places = [(i + j, i, j) for i in range(len(near)) for j in range(len(kinds))]
    return list(dict.fromkeys(Trial(*kinds[j], near[i]) for _, i, j in sorted(places)))


def cost(num_trials: int, num_folds: int) -> int:
    """Return how many trainings on a fold a search of so many trials takes at most."""
    total = 0
    for _ in range(num_folds):
        total += num_trials
        num_trials = math.ceil(num_trials / 2)
    return total


def num_fitting(num_trials: int, num_folds: int, *, minutes: float, seconds: float) -> int:
    """Return how many of the first trials can be searched, at least one, where a fold takes `seconds`."""
    fitting = [n for n in range(1, num_trials + 1) if cost(n, num_folds) * seconds <= 60 * minutes]
    return max(fitting, default=1)


def fix_trials(
    trials: Sequence[Trial],
    num_folds: int,
    minutes: float,
    *,
    out: Path,
    asked: dict[str, Any],
    time: Callable[[], float],
) -> tuple[list[Trial], float]:
    """Return those of the first trials that fit into `minutes`, and the seconds of a fold, from `time()`.

    Both are fixed in `out` before the first trial starts, for a later start that `asked` the same.
    """
    path = out / LIST_FILE

    def earlier() -> tuple[list[Trial], float] | None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["asked"] != json.loads(json.dumps(asked)):
                return None
            return [trials[place] for place in stored["trials"]], float(stored["seconds"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    if (found := on_main(earlier)) is not None:
        return found
    seconds = time()
    places = list(range(num_fitting(len(trials), num_folds, minutes=minutes, seconds=seconds)))
    text = json.dumps({"asked": asked, "trials": places, "seconds": seconds}, indent=1)
    on_main(lambda: write_atomically(path, text + "\n"))
    return [trials[place] for place in places], seconds


def search(
    trials: Sequence[Trial], num_folds: int, measure: Callable[[Sequence[Trial], int], Sequence[OnFold]]
) -> list[Standing]:
    """Return how the trials do, the best first; those that were stopped come after those of all folds.

    Successive halving over folds: all trials are trained without the first fold and measured on it. Then the
    better half goes on to the next one, without those that are behind the best by more than chance, and so
    on. Equals are told apart by the loss, then by the order of the trials.

    Source: Jamieson and Talwalkar 2016 (AISTATS), "Non-stochastic Best Arm Identification and Hyperparameter
    Optimization", arXiv 1502.07943, with folds in place of epochs: a learning rate is not judged by a shorter
    training than it is for.
    """
    going, stopped = list(trials), list[Standing]()
    on_folds: dict[Trial, list[OnFold]] = {trial: [] for trial in trials}
    ranked: list[Standing] = []
    for fold in range(num_folds):
        for trial, measured in zip(going, measure(going, fold), strict=True):
            on_folds[trial].append(measured)
        found = [standing(trial, on_folds[trial]) for trial in going]
        ranked = sorted(found, key=lambda one: (-sum(one.right), one.loss))
        if fold < num_folds - 1:
            kept = [one for one in ranked[: math.ceil(len(ranked) / 2)] if not _is_lost(one, ranked[0])]
            stopped = [one for one in ranked if one not in kept] + stopped
            going = [one.trial for one in kept]
    return ranked + stopped


def _is_lost(one: Standing, best: Standing) -> bool:
    """Return whether a trial is behind the best by more than chance."""
    behind = paired_difference(best.right, one.right)
    return behind.points > behind.chance


def search_table(found: Sequence[Standing]) -> Table:
    """Return the search for the terminal, the best first, with how far each is behind it."""
    best, *others = found
    behind = [paired_difference(one.right, best.right[: len(one.right)]) for one in others]
    columns = {
        "trial": [str(one.trial) for one in found],
        "pictures": [str(len(one.right)) for one in found],
        "top-1": [f"{one.top1:.1f}" for one in found],
        "behind the best": ["← best", *(f"{one.points:+.1f} ± {one.chance:.1f}" for one in behind)],
    }
    return TextTable(columns, words=("trial",)).rich()


def search_verdict(found: Sequence[Standing]) -> str:
    """Return what the search would use, and how much of its lead may be chance."""
    best, *others = found
    equal = [one for one in others if len(one.right) == len(best.right) and not _is_lost(one, best)]
    n = len(best.right)
    noise = 200 * math.sqrt(2 * (p := best.top1 / 100) * (1 - p) / n)
    said = f"best of {len(found)} trials: {best.trial}, {best.top1:.1f} % of {n} pictures"
    if equal:
        said += f"; {len(equal)} more {'is' if len(equal) == 1 else 'are'} as good as far as these can tell"
    return (
        f"{said} (two equally good models that err independently differ by up to {noise:.1f} points on {n} "
        "pictures by chance, and the best of several is flattered)"
    )
