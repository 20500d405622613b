"""A run that is interrupted, anywhere, ends with the weights and figures of one that was not."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from small_data import MODEL
from small_runs import HYPER, METHODS, count_steps, create, planned, quiet
from vitreg.errors import InputError
from vitreg.files import lock
from vitreg.train.data.batches import Batches
from vitreg.train.data.photographs import Photos
from vitreg.train.models.start import Start
from vitreg.train.runs import report as runs
from vitreg.train.runs import run as run_module
from vitreg.train.runs.execution import execute
from vitreg.train.runs.machine import machine
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report, load_report
from vitreg.train.runs.run import checkpoints_of, trained_model
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training import checkpoint
from vitreg.train.training.checkpoint import NAME, Checkpoints

EVERY = 2
"""Steps between two checkpoints: the tests' clock counts steps."""

Weights = dict[str, Tensor]


class StoppedError(Exception):
    pass


def trained(
    run: Run, out: Path | None, *, workers: int = 0, stop_after: int = -1
) -> tuple[Weights, list[dict[str, float]], list[str], int]:
    """Return weights, log, what was said, and how many times it was continued."""
    accelerator, said = Accelerator(cpu=True), list[str]()
    checkpoints = None
    if out is not None:
        (out / run.configuration.folder).mkdir(parents=True, exist_ok=True)
        place = Workplace(out, accelerator, workers, quiet(), checkpoint_seconds=EVERY)
        checkpoints = checkpoints_of(run, place)
        checkpoints.say = said.append
    steps = itertools.count(1)

    def on_step() -> None:
        if next(steps) == stop_after:
            raise StoppedError

    model, log = trained_model(
        run, accelerator=accelerator, workers=workers, on_step=on_step, checkpoints=checkpoints
    )
    return dict(model.state_dict()), log, said, 0 if checkpoints is None else checkpoints.continued


@pytest.fixture(scope="session")
def unbroken(pair: dict[str, Run]) -> dict[str, tuple[Weights, list[dict[str, float]]]]:
    return {method: trained(run, None)[:2] for method, run in pair.items()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stopped_run(run: Run, out: Path, *, stop_after: int = 5) -> Path:
    """Stop a run and return its checkpoint, of the last even step."""
    with pytest.raises(StoppedError):
        trained(run, out, stop_after=stop_after)
    return out / run.configuration.folder / NAME


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_training_ends_as_the_unbroken_one(
    pair: dict[str, Run],
    unbroken: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    workers: int,
) -> None:
    count_steps(monkeypatch)
    run = pair[method]
    stopped_run(run, tmp_path, stop_after=3)
    stopped_run(run, tmp_path, stop_after=7)
    drawn: list[int] = []
    picture = Photos.picture

    def counted(self: Photos, index: int, *, seed: int) -> Tensor:
        drawn.append(index)
        return picture(self, index, seed=seed)

    monkeypatch.setattr(Photos, "picture", counted)
    weights, log, said, continued = trained(run, tmp_path, workers=workers)
    assert said == ["continued from step 6"]
    assert continued == 2
    assert len(drawn) == (2 * HYPER.batch_size if workers == 0 else 0)  # of the two steps that were left
    expected_weights, expected_log = unbroken[method]
    assert log == expected_log
    assert same(weights, expected_weights)
    # After its end only the evaluation is left: no step is taken, and the weights are there.
    drawn.clear()
    again, log, said, _ = trained(run, tmp_path, workers=workers)
    assert said == ["continued from step 8"]
    assert not drawn
    assert log == expected_log
    assert same(again, expected_weights)


def test_batches_go_on_from_a_step() -> None:
    whole = list(Batches(range(10), batch_size=4, steps=9, seed=1))
    rest = Batches(range(10), batch_size=4, steps=9, seed=1, first=5)
    assert list(rest) == whole[5:]
    assert len(rest) == 4


def test_told_steps_are_those_of_the_whole_run(
    pair: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_steps(monkeypatch)
    stopped_run(pair["fine-tune"], tmp_path)
    told: list[None] = []
    accelerator = Accelerator(cpu=True)
    place = Workplace(tmp_path, accelerator, 0, quiet(), checkpoint_seconds=EVERY)
    trained_model(
        pair["fine-tune"],
        accelerator=accelerator,
        workers=0,
        on_step=lambda: told.append(None),
        checkpoints=checkpoints_of(pair["fine-tune"], place),
    )
    assert len(told) == HYPER.steps


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    stored = torch.load(path, weights_only=True)
    change(stored)
    torch.save(stored, path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["blocks.3.attn.qkv.weight"]
    content[content.index(weight.numpy().tobytes()) + 1000] ^= 1
    path.write_bytes(content)


class _Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def harmful(path: Path) -> None:
    torch.save({"owner": _Harmful(path.parent / "executed")}, path)


def other_rate(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["configuration"]["hyper"].update(lr=0.5))


def other_torch(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["machine"]["versions"].update(torch="1.0"))


def other_vitreg(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["machine"]["versions"].update(vitreg="0.0.1"))


def other_threads(path: Path) -> None:
    changed(path, lambda stored: stored["owner"]["machine"].update(threads=77))


def other_source(path: Path) -> None:
    changed(path, lambda stored: stored["owner"].update(start="0123"))


REFUSED = {
    truncated: "it cannot be read: BadZipFile",
    empty: "it cannot be read: BadZipFile",
    one_bit: "it cannot be read: BadZipFile",
    harmful: "it cannot be read: UnpicklingError",
    other_rate: f"lr was 0.5, is {HYPER.lr}",
    other_torch: "torch was 1.0, is ",
    other_vitreg: "vitreg was 0.0.1, is ",
    other_threads: "threads was 77, is ",
    other_source: "start was 0123, is ",
}


@pytest.fixture(scope="session")
def half(pair: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        count_steps(patch)
        return stopped_run(pair["GTA"], tmp_path_factory.mktemp("half")).read_bytes()


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__)
def test_checkpoint_that_does_not_fit_is_not_used(
    pair: dict[str, Run],
    unbroken: dict[str, Any],
    half: bytes,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    folder = tmp_path / pair["GTA"].configuration.folder
    folder.mkdir()
    (folder / NAME).write_bytes(half)
    damage(folder / NAME)
    weights, log, said, continued = trained(pair["GTA"], tmp_path)
    assert len(said) == 1
    assert said[0].startswith(f"{folder / NAME} is not used, the run starts anew ({REFUSED[damage]}")
    assert continued == 0
    assert log == unbroken["GTA"][1]
    assert same(weights, unbroken["GTA"][0])
    assert not (folder / "executed").exists()


def test_source_that_is_not_the_same_bit_by_bit(pair: dict[str, Run], half: bytes, tmp_path: Path) -> None:
    def another(num_classes: int, drop_path: float) -> torch.nn.Module:
        model = create(num_classes, drop_path)
        weight = model.blocks[2].mlp.fc1.weight.data
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1.0))
        return model

    run = pair["GTA"]
    (tmp_path / run.configuration.folder).mkdir()
    (tmp_path / run.configuration.folder / NAME).write_bytes(half)
    _, _, said, continued = trained(replace(run, start=Start(MODEL, "seven", another)), tmp_path)
    assert "start was" in said[0]
    assert continued == 0
    (tmp_path / run.configuration.folder / NAME).write_bytes(half)
    assert trained(run, tmp_path)[2:] == (["continued from step 4"], 1)


def test_checkpoint_that_fits_and_cannot_be_loaded_is_an_error(
    pair: dict[str, Run], half: bytes, tmp_path: Path
) -> None:
    path = tmp_path / pair["GTA"].configuration.folder / NAME
    path.parent.mkdir()
    path.write_bytes(half)
    changed(path, lambda stored: stored["model"].pop("cls_token"))
    with pytest.raises(InputError, match=r"cannot continue from .*checkpoint\.pt .*delete it"):
        trained(pair["GTA"], tmp_path)


def test_full_disk_is_told_once_and_the_training_goes_on(
    pair: dict[str, Run], unbroken: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_steps(monkeypatch)
    fsync, calls = os.fsync, itertools.count()

    def full(descriptor: int) -> None:
        if next(calls) >= 2:  # the first checkpoint is whole: its file and its folder
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    weights, _, said, _ = trained(pair["GTA"], tmp_path)
    assert next(calls) == 5  # it was tried again at steps 4, 6 and 8
    folder = tmp_path / pair["GTA"].configuration.folder
    told = f"cannot write {folder / NAME}: No space left on device; the training goes on without it"
    assert said == [told]
    assert same(weights, unbroken["GTA"][0])
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert torch.load(folder / NAME, weights_only=True)["step"] == 2
    monkeypatch.undo()
    weights, log, said, _ = trained(pair["GTA"], tmp_path)
    assert said == ["continued from step 2"]
    assert log == unbroken["GTA"][1]
    assert same(weights, unbroken["GTA"][0])


def test_report_that_cannot_be_written_is_an_error_and_goes_on_later(
    pair: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device")

    run = pair["fine-tune"]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            executed([run], tmp_path)
    assert load_report(tmp_path, run.configuration) is None
    folder = tmp_path / run.configuration.folder
    (folder / f".{NAME}.torn").write_bytes(b"half")
    [report] = executed([run], tmp_path)
    assert report.continued == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "DONE",
        "lock",
        "predictions.csv",
        "report.json",
        "train.csv",
    ]
    (folder / NAME).write_bytes(b"of a kill after DONE")
    assert executed([run], tmp_path) == [report]
    assert not (folder / NAME).exists()


def executed(some: list[Run], out: Path, *, workers: int = 0, every: float = EVERY) -> list[Report]:
    place = Workplace(out, Accelerator(cpu=True), workers, quiet(), checkpoint_seconds=every)
    return execute(some, place)


def test_none_is_written_or_read_at_zero(
    pair: dict[str, Run], half: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pair["GTA"]
    (tmp_path / run.configuration.folder).mkdir()
    (tmp_path / run.configuration.folder / NAME).write_bytes(half)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(checkpoint, "write_atomically", never)
    [report] = executed([run], tmp_path, every=0)
    assert report.continued == 0
    assert not (tmp_path / run.configuration.folder / NAME).exists()


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
    assert killed("done") == ["DONE", NAME, "lock", "predictions.csv", "report.json"]  # continued from 8
    assert ended(start(data, broken, (method,), workers=workers)) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "DONE",
        "lock",
        "predictions.csv",
        "report.json",
    ]

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


def test_machine_says_what_the_figures_depend_on() -> None:
    found = machine(Accelerator(cpu=True))
    assert {"torch", "vitreg", "numpy", "pillow"} <= found["versions"].keys()
    assert {"device", "cpu", "threads", "python"} <= found.keys()
