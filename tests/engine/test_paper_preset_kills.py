"""The paper's protocol at small size, killed between two parts of a batch, ends as if it had not been."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import table2
from checkpointed import same
from engine.scripts import prepare
from launched import CONTEXT
from small_data import MODEL, SIZE
from vitreg.train.runs import run as run_module
from vitreg.train.runs.predictions import PREDICTIONS
from vitreg.train.runs.report import REPORT
from vitreg.train.runs.workplace import Workplace

STEPS, BATCH, PART = 6, 24, 10
PARTS = 3
"""Of a batch: ten pictures, ten, and the four that are left."""


def child(words: list[str], saved: Path, death: int) -> None:
    """Run table 2, with a checkpoint after each step; the backward pass number `death` is a kill."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    passes, backward, evaluate = [0], Accelerator.backward, run_module.evaluate

    def counted(self: Accelerator, loss: torch.Tensor, **options: Any) -> None:
        passes[0] += 1
        if passes[0] == death:
            os.kill(os.getpid(), signal.SIGKILL)
        backward(self, loss, **options)

    def kept(model: torch.nn.Module, *given: Any, **options: Any) -> Any:
        torch.save(dict(model.state_dict()), saved)
        return evaluate(model, *given, **options)

    setattr(Accelerator, "backward", counted)  # noqa: B010
    setattr(run_module, "evaluate", kept)  # noqa: B010
    setattr(prepare, "Workplace", functools.partial(Workplace, checkpoint_seconds=1e-9))  # noqa: B010
    code = table2.main(words)
    assert passes[0] in (STEPS * PARTS, 4 * PARTS)  # of the whole run, or of what a kill left
    sys.exit(code)


@pytest.mark.slow
def test_run_that_is_killed_ends_bit_for_bit(indexed: Path, weights: Path, tmp_path: Path) -> None:
    given = ["--preset", "paper", "--data", f"pictures={indexed}", "--weights", weights, "--model", MODEL]
    given += ["--size", SIZE, "--steps", STEPS, "--batch-size", BATCH, "--micro-batch", PART]
    given += ["--methods", "GTA", "--lam", 10, "--rates", 1, "--seeds", 3, "--device", "cpu", "--out"]

    def ended(name: str, death: int = 0) -> int | None:
        words = [*map(str, given), str(tmp_path / name)]
        process = CONTEXT.Process(target=child, args=(words, tmp_path / f"{name}.pt", death))
        process.start()
        process.join(120)
        code: int | None = process.exitcode
        return code

    assert ended("whole") == 0
    assert ended("broken", death=2 * PARTS + 2) == -signal.SIGKILL  # in the third step
    assert ended("broken") == 0
    whole, broken = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "broken"))
    assert same(whole, broken)
    found, reports = [], []
    for name in ("whole", "broken"):
        (folder,) = (path.parent for path in (tmp_path / name).glob(f"*/{PREDICTIONS}"))
        found.append((folder.name, (folder / PREDICTIONS).read_bytes()))
        reports.append(json.loads((folder / REPORT).read_text()))
    assert found[0] == found[1]
    assert [report["continued"] for report in reports] == [0, 1]
    assert reports[0]["log"] == reports[1]["log"]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    hyper = reports[0]["configuration"]["hyper"]
    assert (hyper["warmup_epochs"], hyper["drop_path"], hyper["micro_batch"]) == (5, 0.1, PART)
