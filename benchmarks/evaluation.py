"""What evaluation in bfloat16 changes: predictions and top-1 of trained models, beside those of float32.

The models are linear probes of five pictures a class, fitted in float32; with `--steps` they are trained on
with GTA before the test pictures are predicted in both precisions.

    python benchmarks/evaluation.py --weights FILE --data DIR --json benchmarks/results/evaluation-cpu.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "recipes"))

from engine.experiment.job import Table
from engine.scripts.options import TableOptions
from engine.scripts.prepare import prepare
from report import facts, parser
from vitreg.files import write_atomically
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.runs.plan import plan
from vitreg.train.runs.run import trained_model
from vitreg.train.training.evaluation import evaluate

PROBE, TRAINED = "linear-probe", "LP-FT+GTA"


def difference(model: nn.Module, task: Task, accelerator: Accelerator) -> dict[str, float]:
    """Return how many predictions differ, of how many, and top-1 in percent in both precisions."""
    said, top1 = {}, {}
    for name in ("float32", "bfloat16"):
        autocast = partial(torch.autocast, accelerator.device.type, torch.bfloat16, enabled=name != "float32")
        found: list[Tensor] = []
        place: Any = SimpleNamespace(device=accelerator.device, autocast=autocast)
        top1[name] = evaluate(model, task, accelerator=place, on_logits=found.append)["top1"]
        said[name] = torch.cat(found).argmax(1)
    changed = int((said["float32"] != said["bfloat16"]).sum())
    return {"pictures": len(task.test_labels), "changed": changed, **top1}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    made = parser(__doc__)
    made.add_argument("--weights", required=True)
    made.add_argument("--data", nargs="+", required=True)
    made.add_argument("--model", default="deit_tiny_patch16_224")
    made.add_argument("--size", type=int, default=224)
    made.add_argument("--steps", type=int, default=0)
    options = made.parse_args(given)
    names = [Path(word).name for word in given]  # of files and folders, wherever they lie
    method = TRAINED if options.steps else PROBE
    table = TableOptions(
        data=options.data,
        weights=[options.weights],
        model=[options.model],
        size=options.size,
        steps=options.steps or None,
        batch_size=32,
        shots=[5],
        methods=[method],
        lam=["1"] if options.steps else [],
        seeds=[0],
        device=options.device.type,
        precision="no",
        workers=0,
    )
    rows = {}
    with Progress(Console()) as progress:
        job = prepare(Table("table3", methods=[method]), table, progress)
        accelerator = job.place.accelerator
        runs = [run for run in plan(job.design) if run.configuration.share is not None]
        for run in runs:
            model, _ = trained_model(run, accelerator=accelerator, workers=0)
            rows[run.task.name] = row = difference(model, run.task, accelerator)
            progress.say(f"{run.task.name}: {row}")
    if options.json:
        setting = facts("evaluation", made.parse_args(names), names)
        report = {"setting": setting, "rows": rows}
        write_atomically(options.json, f"{json.dumps(report, indent=1)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
