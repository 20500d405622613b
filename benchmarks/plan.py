"""How right `--plan` is: what it says that a table takes, beside what the table's runs then take.

    taskset -c 0 python benchmarks/plan.py
    taskset -c 0 python benchmarks/plan.py --views 2 --every 2

The table is small: fine-tuning, L2-SP and GTA from random weights on drawn pictures. The exit code is 1 where
the two differ by more than a fifth of what it took.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

from engine.experiment.job import Job, Table
from engine.presets import PAPER
from engine.scripts.forecast import forecast
from engine.scripts.stand_ins import stand_in_starts
from loop import drawn_task
from vitreg.train.basics.progress import Progress
from vitreg.train.data.subset import Share
from vitreg.train.runs.plan import Design, plan
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.device import make_accelerator

METHODS = ("fine-tune", "L2-SP", "GTA")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="deit_tiny_patch16_224")
    made.add_argument("--device", default="cpu")
    for name, default in (("size", 64), ("steps", 30), ("batch-size", 16), ("views", 0), ("every", 1)):
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--beside-others", action="store_true", help="by this process's own seconds, on a CPU")
    options = made.parse_args(argv)
    clock = time.process_time if options.beside_others else time.monotonic
    task = drawn_task(options.size, PAPER.augment)
    tests = torch.zeros(100, 3, options.size, options.size, dtype=torch.uint8)
    settings = replace(PAPER, model=options.model, size=options.size)
    given = {name: getattr(options, name) for name in ("steps", "batch_size", "views", "every")}
    design = Design(
        [replace(task, test=tests, test_labels=(0,) * len(tests))],
        stand_in_starts({"": options.model}, options.size),
        methods=METHODS,
        lams=dict.fromkeys(METHODS, (1.0,)),
        shares=[Share(rate=0.5)],
        seeds=[0],
        hyper=replace(settings.hyper, **given),
        augment=settings.augment,
    )
    with tempfile.TemporaryDirectory() as folder, Progress(Console(file=io.StringIO())) as progress:
        place = Workplace(Path(folder), make_accelerator(options.device), 0, progress)
        job = Job(Table("plan", METHODS), "", design, place, "none", 0.0)
        said = forecast(job, clock=clock)
        runs, began = plan(design), clock()
        job.execute(runs)
        took = clock() - began
    estimate = sum(part.seconds for part in said.parts)
    print(f"said {estimate:.1f} s, after {said.measured:.1f} s; took {took:.1f} s: {estimate / took:.3f}")
    return 0 if abs(estimate / took - 1) <= 0.2 else 1


if __name__ == "__main__":
    sys.exit(main())
