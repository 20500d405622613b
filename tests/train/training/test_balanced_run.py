"""`--balance`: the penalty's gradient keeps its size beside the loss's, also in a run that goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpointed import same, stopped_run, trained
from small_runs import HYPER, count_steps, planned, with_hyper
from vitreg.errors import InputError
from vitreg.train.runs.plan import Run
from vitreg.train.training.device import check_batch

STEPS, STOPPED = 24, 15
"""The factor is measured after 10 steps, and after 20."""


@pytest.fixture
def balanced(data: Path) -> Run:
    return with_hyper(planned(data, ("GTA",))[0], steps=STEPS, balance=0.5)


def test_a_stopped_run_goes_on_with_its_factor(
    balanced: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, log, _, _ = trained(balanced, None)
    factors = [entry["balance"] for entry in log if "balance" in entry]
    assert factors[0] == 1.0
    assert factors[-1] != 1.0
    count_steps(monkeypatch)
    stopped_run(balanced, tmp_path, stop_after=STOPPED)
    weights, found, said, _ = trained(balanced, tmp_path)
    assert said == [f"continued from step {STOPPED - 1}"]
    assert same(weights, expected)
    assert found == log


def test_it_is_another_run(balanced: Run) -> None:
    assert balanced.configuration.folder != with_hyper(balanced, balance=0.0).configuration.folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": 1}, "--micro-batch takes apart"),
        ({"compile": True}, "--compile makes one graph of a step, which does not go with --balance"),
    ],
)
def test_what_takes_a_batch_apart_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_batch(replace(HYPER, balance=0.1, **options), ["GTA"])  # type: ignore[arg-type]
