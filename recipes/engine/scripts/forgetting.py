"""What fine-tuned models still know of their source's own task: the script of `forgetting.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

import vitreg
from engine.experiment.job import Job, Table
from engine.results.forgetting_rows import Forgotten, draw, forgotten_rows, notes, text_table
from engine.scripts.console import measure
from engine.scripts.options import TableOptions
from engine.scripts.prepare import prepare
from vitreg.errors import InputError
from vitreg.files import write_atomically
from vitreg.functional import linear_cka, shared_neighbours
from vitreg.measure import attention_drift
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task, evenly
from vitreg.train.data.test_sets import TestSet, read_source_pictures
from vitreg.train.models.weights import new_heads, num_outputs
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import start_model, stored_model
from vitreg.train.training.evaluation import BATCH_SIZE, evaluate
from vitreg.train.training.methods import METHODS

NUM_LOOKED = 100
"""Pictures whose attention is compared, taken evenly."""


@dataclass(frozen=True)
class ForgettingOptions(TableOptions):
    """What `forgetting.py` is told.

    Attributes:
        source_data: pictures of the source's own task, with its classes.
        alphas: places of the curve between a training's start, 0, and its end, 1.
    """

    source_data: Path | None = None
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)


def measure_forgetting(table: Table, console: Console, options: ForgettingOptions, command: str) -> None:
    """Measure each kept model on the pictures of its source's task."""
    if options.source_data is None or options.is_demo:
        raise InputError("missing: --data, --weights and pictures of the source's task (--source-data DIR)")
    with Progress(console) as progress:
        job = prepare(table, options, progress)
        wholes = {start.fingerprint: start.whole() for start in job.design.starts}
        size = job.design.tasks[0].size
        known = {
            key: read_source_pictures(options.source_data, num_outputs(whole), size=size)
            for key, whole in wholes.items()
        }
        results = measure(job, job.design, keeps_models=True)
        found, before = [], {}
        with progress.stage("measuring what was forgotten") as update:
            for done, (run, report) in enumerate(trained := results.trained_runs):
                key = run.start.fingerprint
                if key not in before:
                    before[key] = _Seen.of(wholes[key], known[key], run.task, job.place.accelerator)
                found.append(_forgotten(run, report, wholes[key], known[key], before[key], options, job))
                update(done + 1, len(trained))
    body, drawn = forgotten_rows(found, results.labels), job.place.out / f"{table.name}.png"
    on_main(lambda: write_atomically(drawn, draw(found, results.labels, job.title)))
    said = notes(len(next(iter(known.values())).labels))
    results.show(console, text_table(body), body, said, command, written=".md, .csv, .png")


@dataclass(frozen=True)
class _Seen:
    """What a model with the source's head makes of the source's pictures."""

    right: Tensor
    features: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, known: TestSet, task: Task, accelerator: Accelerator) -> _Seen:
        model.to(accelerator.device).eval()
        said, features = [], []
        for part in known.pictures.split(BATCH_SIZE):
            with vitreg.trace(model, "features") as seen, accelerator.autocast():
                logits = model(task.normalise(part.to(accelerator.device)))
            said.append(logits.float().argmax(1).cpu())
            features.append(seen["features"][0].float().cpu())
        return cls(torch.cat(said) == torch.tensor(known.labels), torch.cat(features))


def _forgotten(
    run: Run,
    report: Report,
    whole: nn.Module,
    known: TestSet,
    before: _Seen,
    options: ForgettingOptions,
    job: Job,
) -> Forgotten:
    """Return what a run's model has forgotten; measured once, and kept beside the run's report."""
    c, top1 = run.configuration, report.metrics["top1"]
    source = before.right.tolist()
    if not METHODS[c.method].is_trained:
        return Forgotten(c, top1, source, source, 1.0, 1.0, 0.0)
    alphas = tuple(sorted({*options.alphas, 1.0}))
    kept = job.place.out / c.folder / f"forgotten-{known.fingerprint[:12]}-{len(alphas)}.json"
    if kept.is_file() and (said := json.loads(kept.read_text())).pop("alphas") == list(alphas):
        return Forgotten(c, **said)
    accelerator, task = job.place.accelerator, run.task
    model, start = stored_model(run, job.place.out), start_model(run, accelerator=accelerator)
    state = {name: value.cpu() for name, value in start.state_dict().items()}

    def with_head(model: nn.Module) -> nn.Module:
        """Return the source with the body of `model`, and its own head."""
        body = {k: v for k, v in model.state_dict().items() if not k.startswith(new_heads(model))}
        whole = run.start.whole()
        whole.load_state_dict(body, strict=False)
        return whole

    def measure_point(model: nn.Module) -> tuple[float, _Seen]:
        """Return the new top-1, and what the body with the source's head makes of the source's pictures."""
        now = _Seen.of(with_head(model), known, task, accelerator)
        return evaluate(model, task, accelerator=accelerator)["top1"], now

    inside = [alpha for alpha in alphas if 0 < alpha < 1]
    points = vitreg.interpolation_curve(model.to(accelerator.device), state, measure_point, inside)
    end = _Seen.of(with_head(model), known, task, accelerator)
    points[1.0] = top1, end
    if 0 in alphas:  # the start's body is the source's
        points[0.0] = evaluate(start, task, accelerator=accelerator)["top1"], before
    some = known.pictures[evenly(len(known.labels), at_most=NUM_LOOKED)]
    looked = task.normalise(some.to(accelerator.device))
    with accelerator.autocast():
        drift = float(attention_drift(model, whole, looked).mean())
    found = Forgotten(
        c,
        top1,
        end.right.tolist(),
        source,
        float(shared_neighbours(end.features, before.features).mean()),
        float(linear_cka(end.features, before.features)),
        drift,
        curve=[
            (alpha, new, 100 * float(now.right.float().mean()))
            for alpha, (new, now) in sorted(points.items())
        ],
    )
    text = json.dumps({"alphas": alphas, **{k: v for k, v in asdict(found).items() if k != "configuration"}})
    on_main(lambda: write_atomically(kept, text))
    return found
