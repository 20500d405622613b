"""Commands that are launched as two processes, those that fail, and those that are killed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import table3
from finetuned import WRITTEN, arguments, contents, table
from launched import (
    HYPER,
    executed,
    planned,
    stored,
    together,
)
from two_processes import FSDP2_ON_CPU
from vitreg.cli import main
from vitreg.errors import InputError
from vitreg.train.basics.distributed import rank
from vitreg.train.basics.progress import Progress
from vitreg.train.data.photographs import Photos
from vitreg.train.runs.execution import execute
from vitreg.train.runs.report import load_report
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.checkpoint import NAME
from vitreg.train.training.device import make_accelerator

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.mark.slow
@FSDP2_ON_CPU
def test_sharded_run_that_is_killed_goes_on_with_any_number(boxed: Path, tmp_path: Path) -> None:
    hyper = replace(HYPER, fsdp=True)
    whole, broken, alone = (tmp_path / name for name in ("whole", "broken", "alone"))
    whole.mkdir()
    assert together(executed, boxed, whole, hyper, 0, folder=tmp_path / "1").codes == [0, 0]
    broken.mkdir()
    killed = together(executed, boxed, broken, hyper, HYPER.steps + 4, folder=tmp_path / "2")
    assert killed.codes == [-signal.SIGKILL] * 2
    shutil.copytree(broken, alone)

    resumed = together(executed, boxed, broken, hyper, 0, folder=tmp_path / "3")
    assert resumed.codes == [0, 0]
    assert [line.split(": ")[-1] for line in resumed.said if "continued" in line] == ["continued from step 2"]
    unbroken, found = stored(whole, "0"), stored(broken, "1")
    assert [report[:2] for report in found] == [report[:2] for report in unbroken]

    out = io.StringIO()
    second = planned(boxed, ("fine-tune", "GTA"), hyper)[1]
    place = Workplace(alone, make_accelerator("cpu"), 0, Progress(Console(file=out, width=500)))
    [report] = execute([second], place)
    assert "continued from step 2" in out.getvalue()
    for entry, expected in zip(report.log, unbroken[1][1], strict=True):
        assert entry == pytest.approx(expected, rel=2e-4, abs=2e-4)


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
