"""The search for learning rate and λ: what it tries, what it stops, and what it says."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from finetuned import arguments, run
from vitreg.train.choice import Standing
from vitreg.train.options import FinetuneOptions
from vitreg.train.search import LIST_FILE, cost, num_fitting, planned_trials, search, search_verdict
from vitreg.train.trials import OnFold, Trial

LRS = (1e-3, 1e-4, 5e-5)
FEW = ["--search", "--lams", "1", "--lrs", "1e-4", "1e-3"]


def test_each_learning_rate_is_tried_with_each_guide_and_without_the_defaults_first() -> None:
    options = FinetuneOptions(search=True, methods=["msa-output", "GTA"], lams=[1, 10], lrs=LRS)
    trials = planned_trials(options)
    assert len(trials) == len(set(trials)) == 3 * (2 * 2 + 1)
    assert trials[0] == Trial("LP-FT+GTA", 1, 1e-4)
    assert {trial.lr for trial in trials if trial.method == "LP-FT"} == set(LRS)
    assert trials.index(Trial("LP-FT+GTA", 10, 5e-5)) < trials.index(Trial("LP-FT+GTA", 10, 1e-3))
    usual = planned_trials(FinetuneOptions(search=True, methods=["BSS"]))
    assert {trial.lam for trial in usual} == {None, 1e-3, 1e-2}
    new = planned_trials(FinetuneOptions(search=True, head="new"))
    assert {trial.method for trial in new} == {"fine-tune", "GTA"}


def test_a_budget_takes_as_many_of_the_first_trials_as_fit() -> None:
    assert len(planned_trials(FinetuneOptions(search=True))) > 4
    assert cost(1, 2) == 2
    assert cost(4, 2) == 6
    assert cost(5, 3) == 5 + 3 + 2
    for minutes, number in ((0.99, 3), (1.0, 4), (0.01, 1)):
        assert num_fitting(8, 2, minutes=minutes, seconds=10) == number


def on_fold(num_right: int, num_pictures: int, loss: float = 1.0) -> OnFold:
    return OnFold((True,) * num_right + (False,) * (num_pictures - num_right), loss)


def test_the_better_half_goes_on_and_what_is_lost_is_stopped() -> None:
    right = {1e-5: 30, 2e-5: 31, 3e-5: 2, 4e-5: 29, 5e-5: None}
    trials = [Trial("LP-FT", None, lr) for lr in right]
    calls: list[tuple[float | None, int]] = []

    def measure(trials: Sequence[Trial], fold: int) -> list[OnFold]:
        calls.extend((trial.lr, fold) for trial in trials)
        numbers = [(right[trial.lr], trial.lr) for trial in trials if trial.lr is not None]
        return [on_fold(number or 0, 40, math.inf if number is None else lr) for number, lr in numbers]

    found = search(trials, 3, measure)
    assert [one.trial.lr for one in found] == [2e-5, 1e-5, 4e-5, 3e-5, 5e-5]
    assert [len(one.right) for one in found] == [120, 120, 80, 40, 40]
    assert Counter(fold for _, fold in calls) == {0: 5, 1: 3, 2: 2}
    assert found[0].top1 == pytest.approx(100 * 31 / 40)
    assert found[-1].top1 == 0
    assert math.isinf(found[-1].loss)

    calls.clear()
    right = {1e-5: 39, 2e-5: 5, 3e-5: 4}
    trials = [Trial("LP-FT", None, lr) for lr in right]
    search(trials, 2, measure)
    assert calls == [(1e-5, 0), (2e-5, 0), (3e-5, 0), (1e-5, 1)]  # the second is lost, beyond chance


def test_equals_are_told_apart_by_the_loss_then_by_their_order() -> None:
    trials = [Trial("LP-FT", None, lr) for lr in (1e-5, 2e-5, 3e-5)]
    losses = dict(zip(trials, (2.0, 1.0, 1.0), strict=True))
    found = search(trials, 1, lambda some, fold: [on_fold(5, 10, losses[one]) for one in some])
    assert [one.trial for one in found] == [trials[1], trials[2], trials[0]]


def test_the_verdict_says_what_is_chance() -> None:
    half = (True, False) * 20
    best, other = (Standing(Trial("LP-FT", None, lr), half, 1.0) for lr in (1e-5, 2e-5))
    worse = replace(other, right=(False,) * 40)
    said = search_verdict([best, other, worse])
    assert said.startswith("best of 3 trials: no guide, lr 1e-05, 50.0 % of 40 pictures; 1 more is as good")
    assert f"by up to {200 * math.sqrt(2 * 0.5 * 0.5 / 40):.1f} points" in said


@pytest.mark.slow
def test_a_search_chooses_and_then_trains_on_all(
    class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = [*arguments(class_folders, weights, out), *FEW]
    assert run(*given) == 0
    shown = capsys.readouterr().out
    assert "search: 4 trials on 12 training pictures, held out in 2 folds" in shown
    assert shown.count("← best") == 1
    assert "best of 4 trials" in shown
    found = json.loads((out / "report.json").read_text())
    assert len(found["search"]) == 4
    best = found["search"][0]
    assert best["num_pictures"] == 12
    assert all((one["num_pictures"], -one["top1"]) >= (6, -100) for one in found["search"])
    assert {key: found["fine_tuned"][key] for key in ("method", "lam", "lr")} == {
        key: best[key] for key in ("method", "lam", "lr")
    }
    assert found["num_measured"] == 6
    folds = [path.parent.name for path in out.glob("birds_*_fold*/DONE")]
    assert 2 * 2 + 4 <= len([name for name in folds if "linear-probe" not in name]) + 2 <= 4 + 2 + 2
    assert run(*given) == 0
    assert "1 run to do" not in capsys.readouterr().out


@pytest.mark.slow
def test_minutes_fix_the_list_before_the_first_trial_and_for_good(
    class_folders: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    given = [*arguments(class_folders, weights, out), *FEW, "--minutes", "1"]
    monkeypatch.setattr("vitreg.train.trials.Trials.seconds_per_fold", lambda self, trial: 25.0)
    assert run(*given) == 0
    shown = capsys.readouterr().out
    assert "search: 1 of 4 trials, what fits in 1 min at 25 s for a fold: GTA, λ = " in shown
    assert json.loads((out / LIST_FILE).read_text())["trials"] == [0]
    monkeypatch.setattr("vitreg.train.trials.Trials.seconds_per_fold", lambda self, trial: 1.0)
    assert run(*given) == 0
    assert "search: 1 of 4 trials, what fits in 1 min at 25 s" in capsys.readouterr().out  # not timed again
    assert run(*given[:-1], "2") == 0
    assert "search: 4 of 4 trials, what fits in 2 min at 1 s" in capsys.readouterr().out
