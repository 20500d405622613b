"""A table on Ray: the figures of the local executor, whatever happens to the processes."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_data import MODEL, SIZE

from engine.experiment.ray_cluster import RayOptions, SharedTable, cluster
from engine.experiment.ray_executor import _run, execute_on_ray
from engine.experiment.ray_news import TableNews
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
from vitreg.train.training.checkpoint import NAME
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.hyperparameters import Hyperparameters

AUGMENT = "rand-m9-mstd0.5-inc1"
HYPER = Hyperparameters(steps=6, batch_size=4, lr=1e-3, weight_decay=0.05, smoothing=0.1, drop_path=0.5)
ON_CPU = Namespace(device="cpu", precision="no")


# Without a cluster.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"address": "ray://head:10001"},
            "ray://head:10001 is no address of Ray's: expected",
        ),
        ({"address": "head"}, "expected HOST:PORT or auto"),
        ({"cpus": 0.0}, "0 CPUs a run: expected more than 0"),
        ({"cpus": float("nan")}, "nan CPUs a run"),
        ({"gpus": -1.0}, "-1 GPUs a run: expected 0"),
        ({"gpus": 1.5}, "1.5 GPUs a run: expected 0, a share below 1 or a whole number"),
        ({"retries": -1}, "-1 retries of a run: expected 0 or more"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        RayOptions(**options)


def test_device_of_a_run() -> None:
    assert RayOptions().run_device == RayOptions(device="cpu").run_device == "cpu"
    assert RayOptions(gpus=0.5).run_device == RayOptions(gpus=2.0, device="cuda").run_device == "cuda"
    with pytest.raises(InputError, match="--device cuda, and 0 GPUs a run; ask for 1"):
        RayOptions(device="cuda")
    with pytest.raises(InputError, match="--device cpu does not use the 1 GPUs of each run"):
        RayOptions(gpus=1.0, device="cpu")


def test_ray_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=re.escape('needs ray; pip install "vitreg[ray]"')):
        on_ray([], tmp_path, RayOptions())


def test_progress_of_several_runs(indexed: Path, weights: Path) -> None:
    first, second, third = planned(indexed, weights, seeds=(3, 4, 5))
    report = Report(first.configuration, {"top1": 50.0}, [], 2.0, {})
    folders = [run.configuration.folder for run in (first, second, third)]
    shown = Progress(Console(file=io.StringIO(), force_terminal=True, width=200))
    show = TableNews(shown)
    with shown:
        shown.begin(3 * first.cost, num_runs=3, num_finished=0)
        show.hear(folders[0], first.title, 30, "")
        show.hear(folders[1], second.title, 20, "")
        assert shown.done == 50
        assert shown._bars.tasks[0].description == f"run 1 of 3 · {first.title} and 1 more at once"
        show.hear(folders[1], second.title, 5, "its process was lost, it began again")
        assert shown.done == 35
        show.finish(second, report)
        assert shown.done == 30 + second.cost
        assert shown._bars.tasks[0].description == f"run 2 of 3 · {first.title}"
        show.finish(first, report)
        show.finish(third, report)
    assert shown.done == shown.total
    said = shown.console.file.getvalue()  # type: ignore[attr-defined]
    assert "its process was lost" in said
    order = re.findall(r"run (\d) of 3 · [^:]*: \S+ 100 %, seed (\d): top-1", said)
    assert order == [("1", "4"), ("2", "3"), ("3", "5")]


def test_task_on_a_node(indexed: Path, weights: Path, tmp_path: Path) -> None:
    [run] = planned(indexed, weights)
    out, token = tmp_path / "out", tmp_path / "out" / "token"
    [expected] = locally([run], out)
    folder = out / run.configuration.folder
    (folder / NAME).write_bytes(b"of a kill after DONE")
    table = SharedTable(out, token, "cpu", "no", torch.get_num_threads(), 0, 60.0, False, (), None)

    def report() -> Report | None:
        return _run(table, run.configuration, run.task, run.start, wait=False)

    with pytest.raises(InputError, match=f"does not see the --out {out} of this table"):
        report()  # also on a node that joined later than the table began
    with lock(token, wait=True):
        with lock(folder, wait=True):
            assert report() is None
        assert report() == expected
    assert sorted(path.name for path in folder.iterdir()) == ["DONE", "lock", "report.json"]
    with pytest.raises(InputError, match=f"locks in --out {out} do not hold on"):
        report()


# On a cluster of this machine. A process of it needs many seconds to import torch.


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def address(stack: ExitStack) -> str:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    stack.callback(started.shutdown)
    return str(started.address)


@pytest.fixture
def options(address: str, stack: ExitStack) -> RayOptions:
    """Return options without retries for a cluster of two CPUs that this process is connected to."""
    import ray

    options = RayOptions(address, retries=0)
    if not ray.is_initialized():
        stack.enter_context(cluster(options))
    return options


def planned(
    data: Path,
    weights: Path,
    *,
    methods: tuple[str, ...] = ("fine-tune",),
    seeds: tuple[int, ...] = (3,),
    steps: int = HYPER.steps,
    has_masks: bool = False,
) -> list[Run]:
    task = photo_task(read_folder(data), name="indexed", size=SIZE, augment=AUGMENT)
    design = Design(
        [task if has_masks else replace(task, test_masks=None)],
        [photographed_start(str(weights), MODEL, size=SIZE)],
        methods=methods,
        lams={"GTA": (10.0,)},
        shares=[Share(rate=1.0)],
        seeds=seeds,
        hyper=replace(HYPER, steps=steps),
        augment=AUGMENT,
    )
    return plan(design)


def with_start(run: Run, before: Callable[[], None]) -> Run:
    """Return the run with a source that calls `before` each time it is created, wherever that is."""
    create = run.start.create

    def created(num_classes: int, drop_path: float) -> torch.nn.Module:
        before()
        return create(num_classes, drop_path)

    return replace(run, start=Start(run.start.name, run.start.fingerprint, created))


def on_ray(
    runs: Sequence[Run],
    out: Path,
    options: RayOptions,
    *,
    every: float = 60.0,
    said: list[str] | None = None,
    keeps_models: bool = False,
) -> list[Report]:
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    try:
        return execute_on_ray(
            runs,
            out,
            options=options,
            workers=0,
            progress=Progress(console),
            checkpoint_seconds=every,
            keeps_models=keeps_models,
        )
    finally:
        if said is not None:
            said += console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def locally(runs: Sequence[Run], out: Path, *, keeps_models: bool = False) -> list[Report]:
    return execute(
        runs,
        out,
        accelerator=make_accelerator(ON_CPU),
        workers=0,
        progress=Progress(Console(quiet=True)),
        keeps_models=keeps_models,
    )


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


def holders(folder: Path) -> list[int]:
    """Return the processes that have the lock file of a run's folder open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target == str(folder / "lock"):
            found.append(int(link.parts[2]))
    return found


def is_free(folder: Path) -> bool:
    with lock(folder, wait=False) as is_held:
        return is_held


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_figures_are_those_of_the_local_executor(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    runs = planned(indexed, weights, methods=("fine-tune", "GTA"), has_masks=True)
    local, out = tmp_path / "local", tmp_path / "out"
    expected = locally(runs, local, keeps_models=True)
    finished = runs[1].configuration.folder
    shutil.copytree(local / finished, out / finished)
    (out / finished / NAME).write_bytes(b"of a kill after DONE")
    before = (out / finished / "DONE").stat().st_mtime_ns
    sent: list[Any] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda thing: sent.append(thing) or put(thing))
    said: list[str] = []
    reports = on_ray([*runs, runs[0]], out, options, said=said, keeps_models=True)
    assert figures(reports) == figures([*expected, expected[0]])
    assert reports[0].machine["threads"] == 2  # Ray gives one to a task of one CPU
    assert [thing for thing in sent if thing in (runs[0].task, runs[0].start)] == [
        runs[0].task,
        runs[0].start,
    ]
    assert (out / finished / "DONE").stat().st_mtime_ns == before
    for run in runs[1:]:
        folder = run.configuration.folder
        names = sorted(path.name for path in (out / folder).iterdir())
        assert names == ["DONE", "lock", MODEL_FILE, "report.json"]
        assert (out / folder / MODEL_FILE).read_bytes() == (local / folder / MODEL_FILE).read_bytes()
    assert {path.name for path in out.iterdir()} == {run.configuration.folder for run in runs}
    assert "2 runs to do, 1 finished before" in said
    ended = [line for line in said if line.startswith("run ")]
    assert [line[: len("run 1 of 2 ·")] for line in ended] == ["run 1 of 2 ·", "run 2 of 2 ·"]
    assert any("2 threads" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("retries", [0, 1])
def test_killed_process(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path, retries: int
) -> None:
    [run] = planned(indexed, weights, methods=("GTA",), steps=60)
    out = tmp_path / "out"
    folder = out / run.configuration.folder
    killed: list[int] = []

    def kill() -> None:
        wait_for((folder / NAME).exists)
        killed.extend(holders(folder))
        assert os.getpid() not in killed
        for process in killed:
            os.kill(process, signal.SIGKILL)

    said: list[str] = []
    with meanwhile(kill):
        if retries:
            [report] = on_ray([run], out, replace(options, retries=1), every=0.05, said=said)
        else:
            message = (
                r"fine-tune|GTA.*its process was lost, and 0 retries did not help \(WorkerCrashedError\)"
            )
            with pytest.raises(InputError, match=message):
                on_ray([run], out, options, every=0.05)
    assert len(killed) == 1
    if not retries:
        assert is_free(folder)
        assert not (folder / "DONE").exists()
        [report] = on_ray([run], out, options, said=said)
    assert report.continued == 1
    assert figures([report]) == figures(locally([run], tmp_path / "local"))
    assert any(f"{run.title}: continued from step" in line for line in said)


@pytest.mark.slow
def test_error_of_a_run_ends_the_table(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path
) -> None:
    bad, long = planned(indexed, weights, methods=("fine-tune", "GTA"), steps=20_000)
    out, tries = tmp_path / "out", tmp_path / "tries"
    folder = out / long.configuration.folder
    checkpoint = folder / NAME

    def wait() -> None:
        with open(tries, "a") as file:
            file.write("tried\n")
        while not checkpoint.exists():
            time.sleep(0.05)

    hyper = replace(HYPER, lr=1e30)
    bad = with_start(replace(bad, configuration=replace(bad.configuration, hyper=hyper)), wait)
    with pytest.raises(InputError) as caught:
        on_ray([long, bad], out, replace(options, retries=2), every=0.05)
    assert str(caught.value).startswith(f"{bad.title}: the loss is not finite at step")
    assert "\n" not in str(caught.value)
    assert tries.read_text() == "tried\n"
    assert is_free(folder)
    assert checkpoint.exists()
    assert not list(out.glob("*/DONE"))
    assert not list(out.glob(".ray.*"))


@pytest.mark.slow
def test_interrupted_table_goes_on(options: RayOptions, indexed: Path, weights: Path, tmp_path: Path) -> None:
    runs = planned(indexed, weights, seeds=(3, 4), steps=200)
    out = tmp_path / "out"

    def interrupt() -> None:
        wait_for(lambda: list(out.glob(f"*/{NAME}")))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with meanwhile(interrupt), pytest.raises(KeyboardInterrupt):
            on_ray(runs, out, options, every=0.05)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(list(out.glob("*/DONE"))) < len(runs)
    assert all(is_free(out / run.configuration.folder) for run in runs)
    reports = on_ray(runs, out, options)
    assert sum(report.continued for report in reports) >= 1
    assert figures(reports) == figures(locally(runs, tmp_path / "local"))


@pytest.mark.slow
def test_run_that_another_process_holds_comes_last(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path
) -> None:
    held, other = planned(indexed, weights, seeds=(3, 4))
    out = tmp_path / "out"
    done = {run.configuration.seed: out / run.configuration.folder / "DONE" for run in (held, other)}
    done[3].parent.mkdir(parents=True)
    with open(done[3].parent / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def let_go() -> None:
            wait_for(done[4].exists)
            time.sleep(0.5)
            assert not done[3].exists()
            fcntl.flock(file, fcntl.LOCK_UN)

        with meanwhile(let_go):
            reports = on_ray([held, other], out, options)
    assert [report.configuration.seed for report in reports] == [3, 4]
    assert done[3].exists()


@pytest.mark.slow
def test_shares_of_a_cpu_and_the_state_of_torch(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path
) -> None:
    runs = planned(indexed, weights, seeds=(3, 4, 5))
    places = [tmp_path / str(number) for number in range(3)]

    def meeting(place: Path) -> Callable[[], None]:
        def wait() -> None:
            state = [os.environ["OMP_WAIT_POLICY"], os.environ["CUBLAS_WORKSPACE_CONFIG"]]
            place.write_text(f"{state} {torch.are_deterministic_algorithms_enabled()}")
            began = time.monotonic()
            while not all(other.exists() for other in places):
                if time.monotonic() > began + 600:
                    raise InputError("the three are not at once")
                time.sleep(0.05)

        return wait

    met = [with_start(run, meeting(place)) for run, place in zip(runs, places, strict=True)]
    assert len(on_ray(met, tmp_path / "out", replace(options, cpus=0.5))) == 3
    assert {place.read_text() for place in places} == {"['passive', ':4096:8'] True"}


@pytest.mark.slow
def test_folder_that_the_nodes_do_not_see(
    options: RayOptions, indexed: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("/proc/self/cwd/out")  # of each process another folder
    with pytest.raises(InputError, match="does not see the --out /proc/self/cwd/out of this table; give a"):
        on_ray(planned(indexed, weights), out, options)
    assert list(out.iterdir()) == []
    # Locks that do not hold: those of this process are not taken.
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda *_: None)
        with pytest.raises(InputError, match=f"locks in --out {tmp_path} do not hold on"):
            on_ray(planned(indexed, weights), tmp_path, options)


@pytest.mark.slow
def test_things_that_cannot_be_had(options: RayOptions, indexed: Path, weights: Path, tmp_path: Path) -> None:
    runs = planned(indexed, weights)
    with pytest.raises(InputError, match="no node has 100 CPU and 0 GPU for a run, but 2 CPU; 0 GPU; ask"):
        on_ray(runs, tmp_path / "out", RayOptions(None, cpus=100.0))
    file = open(tmp_path / "open", "w")  # noqa: SIM115
    with file, pytest.raises(InputError, match=r"a task or source cannot be sent to the nodes \("):
        on_ray([with_start(runs[0], file.flush)], tmp_path / "out", options)


@pytest.mark.slow
def test_cluster_of_this_machine(
    options: RayOptions, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    ray.shutdown()  # of the connection to the other cluster
    with pytest.raises(InputError, match=r"Ray cannot reach the cluster at 127.0.0.1:1 \(Conn"):
        cluster(RayOptions("127.0.0.1:1")).__enter__()
    monkeypatch.setenv("RAY_ADDRESS", options.address or "")  # is not asked
    with cluster(RayOptions()):
        assert ray.get_runtime_context().gcs_address != options.address
        with cluster(RayOptions()):
            assert ray.is_initialized()
        assert ray.is_initialized()
    assert not ray.is_initialized()
    # Ray's own process may still speak of a worker that an earlier test has killed.
    said = [line for text in capfd.readouterr() for line in text.splitlines()]
    assert [line for line in said if "(raylet)" not in line] == []
