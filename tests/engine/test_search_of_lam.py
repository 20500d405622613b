from __future__ import annotations

import pytest

from engine.experiment.search import choices, describe_choices, keep_chosen, lams_of
from vitreg.train.data.subset import Share
from vitreg.train.runs.report import Configuration, Report
from vitreg.train.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(steps=2, batch_size=4, lr=1e-3, weight_decay=0.05)
SMALL, ALL = Share(rate=0.15), Share(rate=1.0)


def report(method: str, lam: float | None, top1: float, *, seed: int = 0, share: Share = SMALL) -> Report:
    configuration = Configuration(
        "birds", "f", "m", "w", 32, "crop", method, lam, share, seed, HYPER, hold_out=0.2
    )
    return Report(configuration, {"top1": top1}, [], 1.0, {})


def test_the_mean_over_seeds_decides_in_each_cell_alone() -> None:
    reports = [
        report("GTA", 1.0, 40.0),
        report("GTA", 10.0, 30.0),
        report("GTA", 1.0, 20.0, seed=1),
        report("GTA", 10.0, 38.0, seed=1),
        report("GTA", 1.0, 80.0, share=ALL),
        report("GTA", 10.0, 79.0, share=ALL),
        report("BSS", 0.001, 10.0),
        report("fine-tune", None, 99.0),
    ]
    found = choices(reports)
    assert lams_of(found) == {("w", "birds", SMALL, "GTA"): 10.0, ("w", "birds", ALL, "GTA"): 1.0}
    assert dict(found[0].top1) == {1.0: 30.0, 10.0: 34.0}
    kept = keep_chosen(reports, found)
    assert [(r.configuration.lam, r.configuration.share) for r in kept[:2]] == [(10.0, SMALL), (10.0, SMALL)]
    assert [r.configuration.method for r in kept] == ["GTA", "GTA", "GTA", "BSS", "fine-tune"]


@pytest.mark.parametrize("order", [(0.1, 1.0, 10.0), (10.0, 1.0, 0.1)])
def test_among_equals_the_smallest_is_chosen(order: tuple[float, ...]) -> None:
    (choice,) = choices(report("GTA", lam, 50.0 if lam < 5 else 49.0) for lam in order)
    assert choice.lam == 0.1


def test_what_was_tried_is_said() -> None:
    found = choices([report("GTA", 1.0, 40.0), report("GTA", 10.0, 30.0)])
    (line,) = describe_choices(found, {"w": "DINO"}, "held-out training pictures")
    assert line == "birds from DINO, 15 %, GTA: λ = 1 by held-out training pictures (top-1 1: 40.0, 10: 30.0)"
