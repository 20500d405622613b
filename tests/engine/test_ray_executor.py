"""A table on Ray: the figures of the local executor, whatever happens to the processes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import table3
from engine.experiment.ray_executor import RayOptions, _run, cluster, execute_on_ray
from small_data import MODEL, SIZE
from vitreg.errors import InputError
from vitreg.files import lock
from vitreg.train.basics.progress import Progress
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.subset import Share
from vitreg.train.models.start import Start, photographed_start
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import MODEL_FILE
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.checkpoint import NAME
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.hyperparameters import Hyperparameters

AUGMENT = "rand-m9-mstd0.5-inc1"
HYPER = Hyperparameters(steps=6, batch_size=4, lr=1e-3, weight_decay=0.05, smoothing=0.1, drop_path=0.5)


# Without a cluster.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--address ray://head:10001", "--address ray://head:10001: expected HOST:PORT or auto"),
        ("--cpus-per-run 0", "--cpus-per-run 0: expected a number above 0"),
        ("--gpus-per-run 1.5", "expected 0, a share below 1 or a whole number"),
        ("--gpus-per-run 1 --device cpu", "--device cpu does not go with 1 GPUs a run"),
        ("--device cuda", "--device cuda does not go with 0 GPUs a run"),
    ],
)
def test_options_that_cannot_be_meant(
    given: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table3.main(["--executor", "ray", *given.split(), "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'needs ray; pip install "vitreg\[ray\]"'), cluster(RayOptions()):
        pass


def test_task_on_a_node(indexed: Path, weights: Path, tmp_path: Path) -> None:
    [run] = planned(indexed, weights)
    out, token = tmp_path / "out", tmp_path / "out" / "token"
    [expected] = locally([run], out)
    folder = out / run.configuration.folder
    (folder / NAME).write_bytes(b"of a kill after DONE")
    given = (workplace(out), token, RayOptions(), torch.get_num_threads())

    def report() -> Report | None:
        return _run(given, run.configuration, run.task, run.start, wait=False)

    with pytest.raises(InputError, match=f"does not see --out {out}; give a folder that all nodes share"):
        report()
    with lock(token, wait=True):
        with lock(folder, wait=True):
            assert report() is None
        assert report() == expected
    there = sorted(path.name for path in folder.iterdir())
    assert there == ["DONE", "lock", "predictions.csv", "report.json", "train.csv"]
    with pytest.raises(InputError, match=f"locks in --out {out} do not hold on"):
        report()


# On a cluster of this machine. A process of it needs many seconds to import torch.


@pytest.fixture(scope="module")
def options() -> Iterator[RayOptions]:
    """Return options without retries for a cluster of two CPUs that this process is connected to."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with ExitStack() as stack:
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        stack.callback(started.shutdown)
        options = RayOptions(str(started.address), retries=0)
        stack.enter_context(cluster(options))
        yield options


def planned(
    data: Path,
    weights: Path,
    *,
    methods: tuple[str, ...] = ("fine-tune",),
    seeds: tuple[int, ...] = (3,),
    steps: int = HYPER.steps,
) -> list[Run]:
    task = photo_task(read_folder(data), name="indexed", size=SIZE, augment=AUGMENT)
    design = Design(
        [replace(task, test_masks=None)],
        [photographed_start(str(weights), MODEL, size=SIZE)],
        methods=methods,
        lams={"GTA": (10.0,)},
        shares=[Share(rate=1.0)],
        seeds=seeds,
        hyper=replace(HYPER, steps=steps),
        augment=AUGMENT,
    )
    return plan(design)


def workplace(out: Path, **how: Any) -> Workplace:
    return Workplace(out, make_accelerator("cpu"), 0, Progress(Console(quiet=True)), **how)


def on_ray(runs: Sequence[Run], out: Path, options: RayOptions, **how: Any) -> list[Report]:
    return execute_on_ray(runs, workplace(out, **how), options)


def locally(runs: Sequence[Run], out: Path, **how: Any) -> list[Report]:
    return execute(runs, workplace(out, **how))


def figures(reports: Sequence[Report]) -> list[Any]:
    return [(report.configuration, report.metrics, report.log, report.machine) for report in reports]


def wait_for(happened: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 600
    while not (found := happened()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


@contextmanager
def meanwhile(what: Callable[[], None]) -> Iterator[None]:
    """Run `what` in a thread beside the block; its failure is the block's."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            what()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join(600)
        assert not failures


def with_start(run: Run, before: Callable[[], None]) -> Run:
    """Return the run with a source that calls `before` each time it is created, wherever that is."""
    create = run.start.create

    def created(num_classes: int, drop_path: float) -> torch.nn.Module:
        before()
        return create(num_classes, drop_path)

    return replace(run, start=Start(run.start.name, run.start.fingerprint, created))


@pytest.mark.slow
def test_figures_are_those_of_the_local_executor(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path
) -> None:
    runs = planned(indexed, weights, methods=("fine-tune", "GTA"))
    local, out = tmp_path / "local", tmp_path / "out"
    expected = locally(runs, local, keeps_models=True)
    finished = runs[0].configuration.folder
    shutil.copytree(local / finished, out / finished)
    before = (out / finished / "DONE").stat().st_mtime_ns
    reports = on_ray([*runs, runs[0]], out, options, keeps_models=True)
    assert figures(reports) == figures([*expected, expected[0]])
    assert (out / finished / "DONE").stat().st_mtime_ns == before
    folder = runs[1].configuration.folder
    assert (out / folder / MODEL_FILE).read_bytes() == (local / folder / MODEL_FILE).read_bytes()
    assert {path.name for path in out.iterdir()} == {run.configuration.folder for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 1])
def test_the_run_of_a_killed_process_goes_on(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path, retries: int
) -> None:
    [run] = planned(indexed, weights, methods=("GTA",), steps=60)
    out, note = tmp_path / "out", tmp_path / "process"
    noted = with_start(run, lambda: None if note.exists() else note.write_text(str(os.getpid())))

    def kill() -> None:
        wait_for((out / run.configuration.folder / NAME).exists)
        os.kill(int(note.read_text()), signal.SIGKILL)

    with meanwhile(kill):
        if retries:
            [report] = on_ray([noted], out, replace(options, retries=1), checkpoint_seconds=0.05)
        else:
            with pytest.raises(InputError, match=r"GTA.*its process was lost, and 0 retries did not help"):
                on_ray([noted], out, options, checkpoint_seconds=0.05)
    if not retries:
        [report] = on_ray([run], out, options)
    assert report.continued == 1
    assert figures([report]) == figures(locally([run], tmp_path / "local"))


@pytest.mark.slow
def test_the_error_of_a_run_ends_the_table(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path
) -> None:
    bad, long = planned(indexed, weights, methods=("fine-tune", "GTA"), steps=20_000)
    out, folder = tmp_path / "out", tmp_path / "out" / long.configuration.folder
    bad = replace(bad, configuration=replace(bad.configuration, hyper=replace(HYPER, lr=1e30)))
    checkpoint = folder / NAME

    def wait() -> None:  # names nothing of this file, which the processes do not have
        while not checkpoint.exists():
            time.sleep(0.05)

    bad = with_start(bad, wait)
    with pytest.raises(InputError) as caught:
        on_ray([long, bad], out, options, checkpoint_seconds=0.05)
    assert str(caught.value).startswith(f"{bad.title}: the loss is not finite at step")

    def is_free() -> bool:
        with lock(folder, wait=False) as is_held:
            return is_held

    wait_for(is_free)
    assert not list(out.glob("*/DONE"))
    assert not list(out.glob(".ray.*"))


@pytest.mark.slow
def test_a_run_that_another_process_holds_comes_last(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path
) -> None:
    runs, out = planned(indexed, weights, seeds=(3, 4)), tmp_path / "out"
    held, other = (out / run.configuration.folder for run in runs)

    def hold() -> None:
        with lock(held, wait=True):
            wait_for((other / "DONE").exists)
            assert not (held / "DONE").exists()

    with meanwhile(hold):
        wait_for((held / "lock").exists)
        reports = on_ray(runs, out, options)
    assert [report.configuration.seed for report in reports] == [3, 4]


@pytest.mark.slow
def test_what_cannot_be_had(options: RayOptions, indexed: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no node has 100 CPU and 0 GPU for a run; ask for less"):
        on_ray(planned(indexed, weights), tmp_path / "out", replace(options, cpus=100.0))
    import ray

    ray.shutdown()
    nobody = cluster(RayOptions("127.0.0.1:1"))
    with pytest.raises(InputError, match=r"Ray cannot reach the cluster at 127.0.0.1:1 \(Conn"), nobody:
        pass
