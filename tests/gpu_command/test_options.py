"""What the command line cannot mean is said before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpu
from gpu_steps.options import read_options
from gpu_steps.plan import planned_steps

NAMES = [
    *("facts", "tests", "overhead-vit_small-224", "overhead-vit_small-224-compiled"),
    *("overhead-vit_small-224-full", "overhead-vit_small-512", "overhead-clip_vit_b-224"),
    *("overhead-vit_large-224", "scaling", "penalties", "loop", "loop-views", "runs"),
]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expected --out DIR for the results"),
        (["--out", "o", "--minutes", "0"], "expected minutes above 0, found 0"),
        (["--out", "o", "--data", "nowhere"], "expected a folder, found no nowhere"),
        (["--out", "o", "--weights", "nowhere"], "expected a file, found no nowhere"),
        (["--out", "o", "--have", "nowhere"], "expected an archive or a folder, found no nowhere"),
        (["--pack", "p"], "--pack needs --data DIR and --weights FILE"),
        (["--out", "o", "--quick"], "--quick is the rehearsal on a CPU"),
    ],
)
def test_what_cannot_be_meant(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(argv)
    assert message in capsys.readouterr().err


def test_an_unknown_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"expected steps of facts, tests, .*, found speed"):
        gpu.main(["--out", str(tmp_path), "--only", "speed"])


def test_the_packages_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--help"])
    said = capsys.readouterr().out
    assert all(
        name in said for name in ("torchmetrics", "safetensors", "transformers", "open_clip", "pytest")
    )


@pytest.mark.parametrize("quick", [False, True])
def test_the_steps_come_in_the_order_of_their_worth(tmp_path: Path, quick: bool) -> None:
    more = ["--device", "cpu", "--quick"] if quick else []
    steps = planned_steps(read_options(["--out", str(tmp_path), *more], ""), tmp_path)
    assert [step.name for step in steps] == NAMES
    assert sum(step.seconds or 0 for step in steps) < 8 * 60  # so that the runs have their part
    assert steps[-1].seconds is None
    assert steps[-1].skip.startswith("no pictures")
    assert all("cpu" in step.script if quick else "cuda" in step.script for step in steps)
