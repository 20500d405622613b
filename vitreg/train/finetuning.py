"""One model fine-tuned on a folder of labelled pictures, from the files to the files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor, nn

from vitreg.files import lock, prepare_out
from vitreg.train.basics.console import make_console
from vitreg.train.basics.distributed import enter_on_main, on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.choice import choose, kind, search_table, verdict
from vitreg.train.confusion_matrix import commonest_mistakes, confusion
from vitreg.train.data.subset import Share
from vitreg.train.labelled_folder import Pictures, check_block, read_labelled
from vitreg.train.models.stored import Card
from vitreg.train.options import FinetuneOptions
from vitreg.train.predictions import probabilities
from vitreg.train.result import WRITTEN, write_result
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import measured_task, stored_model
from vitreg.train.training.device import check_batch, make_accelerator, workers_for
from vitreg.train.training.methods import BASELINE, SOURCE, check_methods, is_guided


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning left behind.

    Attributes:
        model: the trained model, in eval mode.
        card: what it takes to use it: architecture, size, mean, deviation, class names.
        report: the run's configuration, metrics and log.
        probabilities: of the measured pictures, float32 [pictures, classes].
        searched: the reports of what a search tried.
        out: the folder of all files.
    """

    model: nn.Module
    card: Card
    report: Report
    probabilities: Tensor
    searched: Sequence[Report]
    out: Path


def finetune(
    data: str | Path,
    *,
    weights: str | Path,
    out: str | Path | None = None,
    options: FinetuneOptions | None = None,
    console: Console | None = None,
) -> Finetuned:
    """Fine-tune a model on a folder of labelled pictures, and write it with all that shows how good it is.

    What is finished is never done again: the same call goes on where an earlier one was stopped.

    Args:
        data: `train/CLASS` beside `test/CLASS`, or `CLASS` alone; then a fifth of each class is held out.
        weights: of the pre-trained model: a .safetensors or .pth file, "timm", "hf-hub:OWNER/NAME",
            "open_clip:MODEL/TAG" or "https://HOST/FILE".
        out: where results go; None for `runs/finetune-DATA`.
        options: everything that has a default.
        console: where progress and results are printed, by default to the terminal; `Console(quiet=True)`
            prints nothing.

    Raises:
        InputError: The pictures, the weights or an option cannot be used, or the loss is no longer finite.
    """
    options, data, console = options or FinetuneOptions(), Path(data), console or make_console()
    out = Path("runs") / f"finetune-{data.resolve().name}" if out is None else Path(out)
    method, lam = options.used_method, options.used_lam
    accelerator = make_accelerator(options.device, options.precision)
    check_batch(options.hyper, options.searched[0] if options.search else (method,))
    workers = options.workers
    if workers is None:
        workers = workers_for(has_gpu=accelerator.device.type != "cpu")
    searched: list[Report] = []
    with Progress(console) as progress:
        on_main(lambda: prepare_out(out))
        pictures = read_labelled(data, str(weights), options, progress, but_not=out)
        check_block(pictures, options.block)
        if options.search:
            methods, lams = options.searched
            runs = _plan(pictures, options, (BASELINE, *methods), lams, hold_out=options.hold_out)
            num_pictures = len(measured_task(runs[0]).test)
            progress.say(f"search: {num_pictures} of the training pictures held out to choose by")
            searched = execute(runs, out, accelerator=accelerator, workers=workers, progress=progress)
            console.print(search_table(searched))
            progress.say(verdict(searched, num_pictures))
            chosen = choose(searched).configuration
            method, lam = chosen.method, chosen.lam
        (run,) = _plan(pictures, options, (method,), () if lam is None else (lam,))
        (report,) = execute(
            [run], out, accelerator=accelerator, workers=workers, progress=progress, keeps_models=True
        )
        model = stored_model(run, out).eval()
        shares = probabilities(model, run.task, accelerator=accelerator)
        with enter_on_main(lock(out, wait=True)):  # one command at a time writes the results
            on_main(
                lambda: write_result(
                    model, shares, report, searched, pictures, out, accelerator, options.block
                )
            )
    for line in [*_summary(shares, report, pictures), f"written: {out}: {', '.join(WRITTEN)}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return Finetuned(model, pictures.card, report, shares, searched, out)


def _plan(
    pictures: Pictures,
    options: FinetuneOptions,
    methods: Sequence[str],
    lams: Sequence[float],
    hold_out: float = 0.0,
) -> list[Run]:
    methods = check_methods(methods)
    design = Design(
        (pictures.task,),
        (pictures.start,),
        methods=methods,
        lams=dict.fromkeys(filter(is_guided, methods), tuple(dict.fromkeys(lams))),
        shares=(Share(rate=1.0),),
        seeds=(options.seed,),
        hyper=options.hyper,
        augment=options.augment,
        precision=options.precision,
        hold_out=hold_out,
    )
    return [run for run in plan(design) if run.configuration.method != SOURCE]


def _summary(shares: Tensor, report: Report, pictures: Pictures) -> list[str]:
    """Return top-1 with its standard error, and the commonest mistakes, as lines of text."""
    task, top1 = pictures.task, report.metrics["top1"]
    error = math.sqrt(top1 * (100 - top1) / len(task.test))
    said = f"{kind(report)}: top-1 {top1:.1f} % ± {error:.1f} on {pictures.measured_on} ({len(task.test)})"
    if "class_mean" in report.metrics:
        said += f"; balanced accuracy {report.metrics['class_mean']:.1f} %"
    return [
        said,
        *(
            f"  {mistake}"
            for mistake in commonest_mistakes(confusion(shares, task.test_labels), task.classes)
        ),
    ]
