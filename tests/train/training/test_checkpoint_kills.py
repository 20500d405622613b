"""A training that is killed, at any step, goes on from its checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from checkpointed import executed, same
from small_runs import METHODS, planned
from vitreg.files import lock
from vitreg.train.runs import run as run_module
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import load_report
from vitreg.train.training import checkpoint
from vitreg.train.training.checkpoint import NAME, Checkpoints


def kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    kill()


def child(data: Path, out: Path, methods: tuple[str, ...], workers: int, death: str, at: int) -> None:
    """Execute runs in a process of its own, which kills itself when `death` comes."""
    multiprocessing.set_start_method("fork", force=True)  # of the pictures' readers, as outside of this test
    torch.use_deterministic_algorithms(True, warn_only=True)
    now, save, evaluate = [0], Checkpoints.save, run_module.evaluate

    def counted(self: Checkpoints, training: Any, *, is_last: bool) -> None:
        now[0] += 1
        if training.step == at:
            if death == "step":
                kill()
            if death == "write":
                os.fsync = half_written
            if death == "rename":
                os.replace = kill
        save(self, training, is_last=is_last)

    def kept(model: torch.nn.Module, *args: Any, **options: Any) -> Any:
        if death == "evaluate":
            kill()
        kind = "GTA" if hooked else "fine-tune"
        torch.save(dict(model.state_dict()), out / f"{kind}.weights")
        return evaluate(model, *args, **options)

    hooked = methods == ("GTA",)
    setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))  # noqa: B010
    setattr(Checkpoints, "save", counted)  # noqa: B010
    setattr(run_module, "evaluate", kept)  # noqa: B010
    if death == "done":
        setattr(run_module, "discard", kill)  # noqa: B010
    executed(planned(data, methods), out, workers=workers)


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["accelerate", "timm", "torchmetrics", "torchvision", "vitreg"])


def start(
    data: Path, out: Path, methods: tuple[str, ...], *, workers: int = 0, death: str = "", at: int = -1
) -> Any:
    out.mkdir(exist_ok=True)
    process = CONTEXT.Process(target=child, args=(data, out, methods, workers, death, at))
    process.start()
    return process


def ended(process: Any) -> int | None:
    process.join(120)
    code: int | None = process.exitcode
    return code


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_run_that_is_killed_everywhere(
    pair: dict[str, Run], data: Path, tmp_path: Path, method: str, workers: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    folder = broken / pair[method].configuration.folder
    assert ended(start(data, whole, (method,), workers=workers)) == 0

    def killed(death: str, at: int = -1) -> list[str]:
        code = ended(start(data, broken, (method,), workers=workers, death=death, at=at))
        assert code == -signal.SIGKILL
        with lock(folder, wait=False) as is_held:
            assert is_held  # although the readers of the pictures live a little longer
        names = sorted(path.name for path in folder.iterdir())
        return [".torn" if name.startswith(f".{NAME}") else name for name in names]

    assert killed("step", 1) == ["lock"]  # before any checkpoint
    assert killed("step", 3) == [NAME, "lock"]
    assert killed("write", 6) == [".torn", NAME, "lock"]  # continued from 2; 4 is the last good one
    assert killed("rename", 6) == [".torn", NAME, "lock"]  # continued from 4
    assert killed("evaluate") == [NAME, "lock"]  # continued from 4, 8 is written
    written = ["lock", "predictions.csv", "report.json", "train.csv"]
    assert killed("done") == ["DONE", NAME, *written]  # continued from 8
    assert ended(start(data, broken, (method,), workers=workers)) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["DONE", *written]

    reports = [load_report(out, pair[method].configuration) for out in (whole, broken)]
    assert reports[0] is not None
    assert reports[1] is not None
    assert reports[0].continued == 0
    assert reports[1].continued == 3
    assert reports[1].metrics == reports[0].metrics
    assert reports[1].log == reports[0].log
    weights = [torch.load(out / f"{method}.weights", weights_only=True) for out in (whole, broken)]
    assert same(*weights)


@pytest.mark.slow
def test_two_processes_take_over_from_one_that_is_killed(
    pair: dict[str, Run], data: Path, tmp_path: Path
) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    expected = executed(list(pair.values()), whole)
    assert ended(start(data, shared, METHODS, death="step", at=5)) == -signal.SIGKILL
    processes = [start(data, shared, METHODS) for _ in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    reports = [load_report(shared, run.configuration) for run in pair.values()]
    assert [report and (report.metrics, report.log) for report in reports] == [
        (report.metrics, report.log) for report in expected
    ]
    assert [report and report.continued for report in reports] == [1, 0]
    assert not list(shared.glob(f"*/*{NAME}*"))
