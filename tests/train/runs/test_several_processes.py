"""One run on two processes is the run of one: weights, figures, what is written and what is said."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console

import table3
from engine.demo.dataset import drawn_start
from finetuned import WRITTEN, arguments, contents, table
from small_data import MODEL, SIZE, write_index, write_picture
from vitreg.cli import main
from vitreg.errors import InputError
from vitreg.files import lock
from vitreg.train.basics import distributed as processes
from vitreg.train.basics.console import exit_code
from vitreg.train.basics.distributed import connect, disconnect, on_main, rank
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import Photos, photo_task
from vitreg.train.data.subset import Share
from vitreg.train.models.start import Start
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.report import load_report
from vitreg.train.runs.run import trained_model
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training import checkpoint
from vitreg.train.training import evaluation as evaluate
from vitreg.train.training.checkpoint import NAME, Checkpoints
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.hyperparameters import Hyperparameters

ROOT = Path(__file__).resolve().parents[3]
HYPER = Hyperparameters(steps=6, batch_size=4, lr=1e-3, weight_decay=0.05, warmup_epochs=1, smoothing=0.1)
METHODS = ("fine-tune", "GTA", "BSS", "L2-SP")

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["accelerate", "timm", "torchmetrics", "torchvision", "vitreg"])


class Outcome(NamedTuple):
    """The exit codes of the main process and of the other, and the lines that both wrote."""

    codes: list[int | None]
    said: list[str]
    errors: list[str]


def together(function: Callable[..., int], *given: Any, folder: Path) -> Outcome:
    """Return what became of `function(*given)`, of this file's top level, in two processes.

    As with torchrun the process that starts them keeps the store over which they find each other.
    """
    folder.mkdir()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = [CONTEXT.Process(target=child, args=(r, store.port, folder, function, given)) for r in range(2)]
    for process in started:
        process.start()
    deadline = time.monotonic() + 300
    for process in started:
        process.join(max(0.1, deadline - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    said, errors = (
        [line for r in range(2) for line in (folder / f"{name}{r}").read_text().splitlines()]
        for name in ("said", "errors")
    )
    return Outcome(codes, said, errors)


def child(place: int, port: int, folder: Path, function: Callable[..., int], given: tuple[Any, ...]) -> None:
    known = {"RANK": place, "LOCAL_RANK": place, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in known.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    for descriptor, name in enumerate(("said", "errors"), start=1):
        os.dup2(os.open(folder / f"{name}{place}", os.O_CREAT | os.O_WRONLY), descriptor)
    sys.exit(function(*given))


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: six training pictures of each, eleven test pictures, of which one hides its object."""
    root = tmp_path_factory.mktemp("processes") / "boxed"
    rows = []
    for label, number in itertools.product(range(2), range(12)):
        write_picture(root / f"{label}{number}.png", seed=50 * label + number)
        split = "train" if number < 6 else "test" if number + label < 12 else "none"
        size = (2, 2) if (label, number) == (0, 7) else (20, 20 + number)
        rows.append([f"{label}{number}.png", str(label), split, "1", "1", *map(str, size)])
    write_index(root, rows, ["path", "label", "split", "bbox_x", "bbox_y", "bbox_w", "bbox_h"])
    return root


def create(num_classes: int, drop_path: float) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model(MODEL, num_classes=0, img_size=SIZE, drop_path_rate=drop_path)
    model.reset_classifier(num_classes)
    return model


def task_of(data: Path) -> Task:
    return photo_task(read_folder(data), name="boxed", size=SIZE, augment="rand-m9-mstd0.5-inc1")


def planned(data: Path, methods: tuple[str, ...], hyper: Hyperparameters = HYPER) -> list[Run]:
    design = Design(
        [replace(task_of(data), test_masks=None)],
        [Start(MODEL, "seven", create)],
        methods=methods,
        lams={"GTA": (10.0,), "BSS": (0.01,), "L2-SP": (0.1,)},
        shares=[Share(rate=1.0)],
        seeds=[3],
        hyper=hyper,
        augment="rand-m9-mstd0.5-inc1",
    )
    return plan(design)


def accelerator_of(precision: str) -> Accelerator:
    connect()
    return make_accelerator("cpu", precision)


def trained(data: Path, out: Path, precision: str, methods: tuple[str, ...]) -> int:
    accelerator, picture, drawn = accelerator_of(precision), Photos.picture, list[int]()

    def counted(self: Photos, index: int, *, seed: int) -> torch.Tensor:
        drawn.append(seed)
        return picture(self, index, seed=seed)

    setattr(Photos, "picture", counted)  # noqa: B010
    for run in planned(data, methods):
        model, log = trained_model(run, accelerator=accelerator, workers=0)
        assert "forward" not in vars(model)
        torch.save((dict(model.state_dict()), log, drawn), out / f"{run.configuration.method}{rank()}.pt")
        drawn.clear()
    setattr(Photos, "picture", picture)  # noqa: B010
    disconnect()
    return 0


def stored(out: Path, name: str) -> Any:
    return torch.load(out / f"{name}.pt", weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "methods", "near"), [("no", METHODS, 2e-4), ("bf16", ("GTA",), 5e-3)], ids=["no", "bf16"]
)
def test_weights_and_log_are_those_of_one_process(
    boxed: Path, tmp_path: Path, precision: str, methods: tuple[str, ...], near: float
) -> None:
    outs = one, two = tmp_path / "one", tmp_path / "two"
    for out in outs:
        out.mkdir()
    assert together(trained, boxed, two, precision, methods, folder=tmp_path / "said").codes == [0, 0]
    AcceleratorState._reset_state(True)  # which keeps the precision of the tests before
    trained(boxed, one, precision, methods)
    AcceleratorState._reset_state(True)
    for method in methods:
        weights, log, drawn = stored(one, f"{method}0")
        theirs, their_log, first = stored(two, f"{method}0")
        others, others_log, second = stored(two, f"{method}1")
        assert their_log == others_log
        assert len(first) == len(second) == HYPER.steps * HYPER.batch_size // 2
        assert sorted(first + second) == sorted(drawn)
        assert len(log) == len(their_log) == HYPER.steps
        for entry, theirs_entry in zip(log, their_log, strict=True):
            assert theirs_entry == pytest.approx(entry, rel=near, abs=near)
        for name, weight in weights.items():
            assert torch.equal(theirs[name], others[name])
            # A bias of the keys changes nothing: its gradient is rounding, which AdamW makes large.
            torch.testing.assert_close(theirs[name], weight, rtol=0, atol=near)


def measured(data: Path, out: Path, sizes: tuple[int, ...]) -> int:
    accelerator, task, told = accelerator_of("no"), task_of(data), []
    for size in sizes:
        setattr(evaluate, "BATCH_SIZE", size)  # noqa: B010
        model = create(2, 0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            torch.nn.init.normal_(model.head.weight)
        seen: list[int] = []
        metrics = evaluate.evaluate(model, task, accelerator=accelerator, on_batch=seen.append)
        alone = on_main(lambda: evaluate.evaluate(create(2, 0.0), task, accelerator=accelerator))
        told.append((metrics, seen, alone["object_share"]))
    drawn_start(out / f"cache{rank()}", is_quick=True, on_step=lambda done, total: None)
    torch.save(told, out / f"{rank()}.pt")
    disconnect()
    return 0


@pytest.mark.slow
def test_metrics_are_those_of_one_process(boxed: Path, tmp_path: Path) -> None:
    sizes = (100, 3)
    assert together(measured, boxed, tmp_path, sizes, folder=tmp_path / "said").codes == [0, 0]
    main, other = stored(tmp_path, "0"), stored(tmp_path, "1")
    assert [path.name for path in tmp_path.glob("cache*")] == ["cache0"]  # pre-trained by one
    before = evaluate.BATCH_SIZE
    measured(boxed, tmp_path, sizes)
    evaluate.BATCH_SIZE = before
    for (metrics, seen, alone), theirs, others in zip(stored(tmp_path, "0"), main, other, strict=True):
        assert (theirs[0], theirs[2]) == (others[0], others[2])
        assert (sum(seen), sum(theirs[1])) == (11, 10)  # which is what the bar needs
        assert theirs[0].keys() == metrics.keys()
        assert theirs[0]["per_class"] == metrics["per_class"]
        assert 0 < metrics["top1"] < 100
        assert theirs[0]["top1"] == metrics["top1"]
        for name in ("object_share", "jaccard"):
            assert theirs[0][name] == pytest.approx(metrics[name])
        assert theirs[2] == alone == pytest.approx(metrics["object_share"])


def executed(data: Path, out: Path, hyper: Hyperparameters, death: int) -> int:
    """Execute runs with a checkpoint every other step; at step `death` all processes are killed."""
    accelerator, save, steps = accelerator_of("no"), Checkpoints.save, itertools.count(1)
    now = [0]

    def counted(self: Checkpoints, training: Any, *, is_last: bool) -> None:
        now[0] = next(steps)
        if now[0] == death:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, training, is_last=is_last)

    # Two clocks that do not agree: the main process alone looks at its own.
    clock = SimpleNamespace(monotonic=lambda: now[0] * (1 if rank() == 0 else 100))
    setattr(checkpoint, "time", clock)  # noqa: B010
    setattr(Checkpoints, "save", counted)  # noqa: B010

    def script(console: Console) -> None:
        place = Workplace(out, accelerator, 0, Progress(console), checkpoint_seconds=2)
        reports = execute(planned(data, ("fine-tune", "GTA"), hyper), place)
        torch.save([(r.metrics, r.log, r.continued) for r in reports], out / f"{rank()}.pt")

    return exit_code(script)


@pytest.mark.slow
def test_killed_processes_go_on_to_the_figures_of_unbroken_ones(boxed: Path, tmp_path: Path) -> None:
    hyper = replace(HYPER, drop_path=0.5)  # so that every step depends on the random numbers drawn in it
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert together(executed, boxed, whole, hyper, 0, folder=tmp_path / "1").codes == [0, 0]
    killed = together(executed, boxed, broken, hyper, HYPER.steps + 4, folder=tmp_path / "2")
    assert killed.codes == [-signal.SIGKILL] * 2
    first, second = planned(boxed, ("fine-tune", "GTA"), hyper)
    assert load_report(broken, first.configuration) is not None
    path = broken / second.configuration.folder / NAME
    content = torch.load(path, weights_only=True)
    assert content["step"] == 2
    states = content["random"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])

    # A single process does not use it, and starts anew.
    alone = tmp_path / "alone" / second.configuration.folder
    alone.mkdir(parents=True)
    (alone / NAME).write_bytes(path.read_bytes())
    out = io.StringIO()
    progress = Progress(Console(file=out, width=500))
    [report] = execute([second], Workplace(tmp_path / "alone", make_accelerator("cpu"), 0, progress))
    assert f"{alone / NAME} is not used, the run starts anew (processes was 2, is 1" in out.getvalue()

    resumed = together(executed, boxed, broken, hyper, 0, folder=tmp_path / "3")
    assert resumed.codes == [0, 0]
    assert [line.split(": ")[-1] for line in resumed.said if "continued" in line] == ["continued from step 2"]
    main, other = stored(broken, "0"), stored(broken, "1")
    assert main == other
    assert [report[:2] for report in main] == [report[:2] for report in stored(whole, "0")]
    assert [report[2] for report in main] == [0, 1]
    assert report.log[0] == pytest.approx(main[1][1][0], abs=0.5)
    assert report.log != main[1][1]


def command(script: str, data: Path, weights: Path, out: Path) -> list[str]:
    many = ["--methods", "fine-tune", "GTA", "--rates", "1.0", "--seeds", "0", "--lam", "10"]
    few = ["--search", "--methods", "GTA", "--lams", "1", "--lrs", "1e-4"]
    words = arguments(data, weights, out)
    return [*words, *many] if script == "table3" else ["finetune", *words, *few]


@pytest.mark.slow
def test_launched_table_is_that_of_one_process(boxed: Path, weights: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0"]  # the launcher takes a free one
    ended = subprocess.run(
        [*launch, str(ROOT / "recipes" / "table3.py"), *command("table3", boxed, weights, two)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert table3.main(command("table3", boxed, weights, one)) == 0
    assert ended.stdout.count("\nrun ") == 3
    assert ended.stdout.count("written: ") == 1
    reports = sorted(path.relative_to(one) for path in one.glob("*/report.json"))
    assert len(reports) == 3
    for path in reports:
        ours, theirs = (json.loads((out / path).read_text()) for out in (one, two))
        assert [r["machine"]["processes"] for r in (ours, theirs)] == [1, 2]
        assert theirs["metrics"].keys() == ours["metrics"].keys()
        for name in ours["metrics"].keys() - {"per_class"}:
            assert theirs["metrics"][name] == pytest.approx(ours["metrics"][name], rel=1e-3)
        assert theirs["log"] == [pytest.approx(entry, rel=1e-3, abs=1e-6) for entry in ours["log"]]
    predictions = sorted(path.relative_to(one) for path in one.glob("*/predictions.csv"))
    assert len(predictions) == 2  # the source's head is new, and says nothing
    for path in predictions:
        ours, theirs = ((out / path).read_text().splitlines() for out in (one, two))
        assert len(ours) == len(theirs) > 2
        assert [line.split(",")[:3] for line in theirs] == [line.split(",")[:3] for line in ours]
    assert {path.name for path in two.glob("table3.*")} == {"table3.csv", "table3.md", "table3.png"}


def fine_tuned(argv: list[str]) -> int:
    return main(argv)


@pytest.mark.slow
def test_fine_tuning_writes_what_one_process_writes(boxed: Path, weights: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ended = together(fine_tuned, command("finetune", boxed, weights, two), folder=tmp_path / "said")
    assert ended == ([0, 0], ended.said, [])
    assert sum(line.startswith("written: ") for line in ended.said) == 1
    assert sum(line.startswith("run ") for line in ended.said) == len(list(two.glob("*/DONE"))) >= 7
    assert main(command("finetune", boxed, weights, one)) == 0
    assert {path.name for path in two.iterdir() if path.is_file()} == WRITTEN | {"lock"}
    rows = [table(out / "predictions.csv") for out in (one, two)]
    columns = [[(row["path"], row["true"], row["predicted"]) for row in some] for some in rows]
    assert columns[0] == columns[1]
    before = contents(two)
    again = together(fine_tuned, command("finetune", boxed, weights, two), folder=tmp_path / "again")
    assert again.codes == [0, 0]
    assert not any(line.startswith("run ") for line in again.said)
    assert contents(two) == before


def failing(data: Path, weights: Path, out: Path, words: list[str], where: int | None) -> int:
    """Run table 3 with `words`; process `where` meets a picture that it cannot use."""
    picture = Photos.picture

    def broken(self: Photos, index: int, *, seed: int) -> torch.Tensor:
        if rank() == where:
            raise InputError("no picture")
        return picture(self, index, seed=seed)

    setattr(Photos, "picture", broken)  # noqa: B010
    return table3.main([*command("table3", data, weights, out), *words])


FAILURES: dict[str, tuple[list[str], int | None, str]] = {
    "unknown": (
        ["--stepz", "4"],
        None,
        "error: unrecognized arguments: --stepz 4 (see `python recipes/table3.py --help`)",
    ),
    "batch": (["--batch-size", "5"], None, "error: --batch-size 5 has to be divisible by the number of"),
    "pairs": (["--mixup", "0.8", "--batch-size", "2"], None, "error: fine-tune mixes pictures in pairs, and"),
    "out": (["--out", "{weights}"], None, "error: cannot write to --out"),
    "main": ([], 0, "error: no picture"),
    "other": ([], 1, "error: no picture"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "where", "said"), FAILURES.values(), ids=FAILURES)
def test_failure_is_said_once_and_ends_both(
    boxed: Path, weights: Path, tmp_path: Path, words: list[str], where: int | None, said: str
) -> None:
    given = (boxed, weights, tmp_path / "out", [word.format(weights=weights) for word in words], where)
    ended = together(failing, *given, folder=tmp_path / "said")
    assert [line[: len(said)] for line in ended.errors] == [said]
    if where is None:
        assert ended.codes == [2, 2]
    else:
        assert ended.codes[where] == 2
        assert ended.codes[1 - where] == 1


@pytest.mark.slow
def test_run_of_another_command_is_left_for_last(boxed: Path, tmp_path: Path) -> None:
    first, second = (tmp_path / run.configuration.folder for run in planned(boxed, ("fine-tune", "GTA")))
    with ThreadPoolExecutor() as pool:
        with lock(first, wait=False):
            ended = pool.submit(together, executed, boxed, tmp_path, HYPER, 0, folder=tmp_path / "said")
            while not (second / "DONE").exists():
                assert not ended.done()
                time.sleep(0.05)
            assert not (first / "report.json").exists()
        assert ended.result().codes == [0, 0]
    assert (first / "DONE").exists()
    assert stored(tmp_path, "0") == stored(tmp_path, "1")


@pytest.mark.parametrize(("variable", "name"), processes.REFUSED.items())
def test_shared_out_models_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str, name: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(InputError, match=f"expected to work with DDP, found {name} .* --multi_gpu"):
        make_accelerator("cpu")
