from __future__ import annotations

from pathlib import Path

import accelerate.tracking
import pytest

from vitreg.errors import InputError
from vitreg.train.data.subset import Share
from vitreg.train.runs import tracking
from vitreg.train.runs.report import Configuration
from vitreg.train.runs.tracking import check_trackers, track
from vitreg.train.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(steps=9, batch_size=4, lr=1e-3, weight_decay=0.05)
CONFIGURATION = Configuration(
    "birds", "f", "m", "w", 32, "crop", "GTA", 1.0, Share(rate=0.15), 0, HYPER, hold_out=0.2
)


def test_every_term_is_a_scalar_of_tensorboard_once(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    check_trackers(["tensorboard"])
    for attempt in (1, 2):  # the second tells what the first one told, too: it continued from a checkpoint
        with track(["tensorboard"], CONFIGURATION, tmp_path) as tell:
            tell({"step": 0, "loss": 2.0, "gta": 0.25})
            if attempt == 2:
                tell({"step": 4, "loss": 1.0, "gta": 0.5, "top1": 60.0})
    stored = events.EventAccumulator(str(tmp_path / tracking.PROJECT))
    stored.Reload()
    assert sorted(stored.Tags()["scalars"]) == ["gta", "loss", "top1"]
    assert [(e.step, e.value) for e in stored.Scalars("gta")] == [(0, 0.25), (4, 0.5)]
    assert [(e.step, e.value) for e in stored.Scalars("top1")] == [(4, 60.0)]


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    with track((), CONFIGURATION, tmp_path) as tell:
        tell({"step": 0, "loss": 2.0})
    assert not list(tmp_path.iterdir())


def test_a_tracker_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "get_available_trackers", list)
    with pytest.raises(InputError, match="--log-with wandb: its library is not installed; pip install wandb"):
        check_trackers(["wandb"])


def test_what_can_be_chosen_is_what_accelerate_has() -> None:
    assert set(tracking.TRACKERS) == {str(name) for name in accelerate.tracking.LOGGER_TYPE_TO_CLASS}
