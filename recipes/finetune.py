"""Fine-tune one model on your labelled photographs.

You need a folder with your pictures and the weights of a pre-trained Vision Transformer of timm:

    DIR/train/CLASS/*.jpg beside DIR/test/CLASS/*.jpg, or DIR/CLASS/*.jpg alone

Without test pictures a fifth of each class is held out from training, to measure on. For example

    python recipes/finetune.py --data photos --weights deit_tiny.safetensors --out result

trains with GTA, which keeps the attention where the pre-trained model had it, and writes into `result` the
model, predictions.csv, confusion.png, attention.png and report.json. Which method is best for your pictures?

    python recipes/finetune.py --data photos --weights deit_tiny.safetensors --out result --search

tries plain fine-tuning and two guides on a part of the training pictures, then trains with the best of them.
New pictures: python recipes/predict.py --help. Without --data everything happens in a small drawn world, as a
demo. What is finished is never done again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from engine.experiment.drawn_pictures import drawn_pictures
from engine.scripts.console import exit_code
from engine.scripts.options import (
    Parser,
    at_least_0,
    below_one,
    not_negative,
    positive,
    rate,
    whole,
)
from engine.scripts.prepare import say_what_is_missing, settings_of
from vitreg.errors import InputError
from vitreg.files import lock, prepare_out, write_atomically
from vitreg.train.basics.distributed import entered, on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.confusion_matrix import accuracies
from vitreg.train.data.subset import Share
from vitreg.train.finetune import Pictures, check_block, choose, photographs, search_table, summary, verdict
from vitreg.train.models.pretrained import FORMS
from vitreg.train.models.stored import MODEL_FILE, load_stored, model_file
from vitreg.train.predictions import probabilities
from vitreg.train.result import WRITTEN, write_result
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.report import Report, load_report, store_report
from vitreg.train.runs.run import checkpoints_of, machine, measured_task, readings_in, trained_model
from vitreg.train.training.checkpoint import discard
from vitreg.train.training.device import check_batch, make_accelerator, workers_for
from vitreg.train.training.methods import BASELINE, METHODS, SOURCE, check_methods, is_guided

DEFAULT = ("GTA", 1.0)
SEARCHED = (("GTA", "msa-output"), (0.1, 1.0, 10.0))


def parser() -> argparse.ArgumentParser:
    """Return the parser; options that are not given are None."""
    options = Parser("finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    add("--data", type=Path, metavar="DIR", help="your pictures; without: the demo")
    add("--weights", metavar="FILE", help=f"of the pre-trained model: {FORMS}")
    add("--model", help="name of a timm model with a class token (deit_tiny_patch16_224)")
    add("--out", type=Path, metavar="DIR", help="where results go (runs/finetune-DATA)")
    known = ", ".join(METHODS)
    add("--method", help=f"{known} ({DEFAULT[0]})")
    add("--lam", type=not_negative, help=f"λ, how strongly a guide holds ({DEFAULT[1]:g})")
    add("--search", action="store_true", help="try methods and λ on held-out training pictures, use the best")
    add("--methods", nargs="+", metavar="METHOD", help=f"of the search ({' '.join(SEARCHED[0])})")
    lams = " ".join(f"{lam:g}" for lam in SEARCHED[1])
    add("--lams", nargs="+", type=not_negative, metavar="LAM", help=f"of the search ({lams})")
    held = "share of each class that is held out, for the search or where there are no test pictures (0.2)"
    add("--hold-out", type=rate, default=0.2, metavar="RATE", help=held)
    add("--seed", type=at_least_0, default=0, help="of everything random (0)")
    add("--size", type=whole, help="side of the network's input in pixels (224)")
    add("--steps", type=whole, help="training steps (200)")
    add("--batch-size", type=whole, help="pictures of a step (64)")
    add("--lr", type=positive, help="highest learning rate (1e-4)")
    add("--weight-decay", type=not_negative)
    add(
        "--warmup-epochs",
        type=not_negative,
        help="passes over the pictures with a rising learning rate",
    )
    add("--smoothing", type=below_one, help="label smoothing")
    add("--drop-path", type=below_one, help="stochastic depth")
    add("--augment", help="timm's augmentation string, `crop` for crop and flip alone, or `none`")
    add(
        "--views",
        type=at_least_0,
        metavar="K",
        help="augment each picture in K ways only (0: anew each time)",
    )
    add("--every", type=whole, metavar="K", help="take the penalty on every K-th step, K times as strong (1)")
    norm = "mean and deviation of the input: ImageNet's, or those that timm notes for the model"
    add("--normalise", choices=("imagenet", "model"), help=norm)
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--precision", choices=("no", "bf16"), default="no", help="automatic mixed precision")
    add("--workers", type=at_least_0, help="processes that read pictures; the figures do not depend on it")
    block = "of attention.png, from 0 (where the objects are known the one that looks at them, else the last)"
    add("--block", type=int, help=block)
    options.set_defaults(preset=None, quick=False, mixup=None, cutmix=None)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Search, train and write what was asked for, and return the exit code."""

    def finetune(console: Console) -> None:
        options = parser().parse_args(argv)
        method, lam = _wanted(options)
        is_demo = options.data is None
        settings = settings_of(options, is_demo=is_demo)
        accelerator = make_accelerator(options.device, options.precision)
        check_batch(settings.hyper, options.methods if options.search else (method,))
        with Progress(console) as progress:
            say_what_is_missing(options, {} if is_demo else {"data": options.data}, progress)
            name = "demo" if is_demo else options.data.resolve().name
            out = options.out or Path("runs") / f"finetune-{name}"
            on_main(lambda: prepare_out(out))
            pictures = drawn_pictures(out, progress) if is_demo else photographs(options, settings, progress)
            check_block(pictures, options.block)
            workers = (
                workers_for(has_gpu=accelerator.device.type != "cpu" and not is_demo)
                if options.workers is None
                else options.workers
            )

            def planned(methods: Sequence[str], lams: Sequence[float], hold_out: float = 0.0) -> list[Run]:
                design = Design(
                    (pictures.task,),
                    (pictures.start,),
                    methods=methods,
                    lams=dict.fromkeys(filter(is_guided, methods), tuple(dict.fromkeys(lams))),
                    shares=(Share(rate=1.0),),
                    seeds=(options.seed,),
                    hyper=settings.hyper,
                    augment=settings.augment,
                    precision=options.precision,
                    hold_out=hold_out,
                )
                return [run for run in plan(design) if run.configuration.method != SOURCE]

            searched: list[Report] = []
            if options.search:
                methods = check_methods((BASELINE, *options.methods))
                runs = planned(methods, options.lams, options.hold_out)
                num_pictures = len(measured_task(runs[0]).test)
                progress.say(f"search: {num_pictures} of the training pictures held out to choose by")
                searched = execute(runs, out, accelerator=accelerator, workers=workers, progress=progress)
                console.print(search_table(searched))
                progress.say(verdict(searched, num_pictures))
                chosen = choose(searched).configuration
                method, lam = chosen.method, chosen.lam
            (run,) = planned((method,), () if lam is None else (lam,))
            with entered(lock(out, wait=True)):  # one command at a time writes the results
                model, shares, report = _fitted(run, pictures, out, accelerator, workers, progress)
                on_main(
                    lambda: write_result(
                        model, shares, report, searched, pictures, out, accelerator, options.block
                    )
                )
        for line in [*summary(shares, report, pictures), f"written: {out}: {', '.join(WRITTEN)}"]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return exit_code(finetune)


def _wanted(options: Namespace) -> tuple[str, float | None]:
    """Return method and λ, with the search's grid filled in."""
    if options.search and (options.method is not None or options.lam is not None):
        raise InputError("--search chooses method and λ itself; narrow it by --methods and --lams instead")
    if not options.search and (options.methods is not None or options.lams is not None):
        raise InputError("--methods and --lams are the search's: add --search, or use --method and --lam")
    options.methods = check_methods(options.methods or SEARCHED[0])
    options.lams = options.lams or SEARCHED[1]
    (method,) = check_methods((options.method or DEFAULT[0],))
    if not is_guided(method) and options.lam is not None:
        raise InputError(f"--lam {options.lam:g}: {method} has no λ")
    return method, (DEFAULT[1] if options.lam is None else options.lam) if is_guided(method) else None


def _fitted(
    run: Run, pictures: Pictures, out: Path, accelerator: Accelerator, workers: int, progress: Progress
) -> tuple[nn.Module, Tensor, Report]:
    """Return the trained model, from `out` where the run is finished, what it predicts, and the report."""
    folder, path = run.configuration.folder, out / MODEL_FILE
    report = on_main(lambda: _finished(run, out))
    if report is not None:
        progress.say(f"{run.title}: finished before")
        model, _ = load_stored(path)
        return model, probabilities(model, run.task, accelerator=accelerator), report
    done, steps = itertools.count(1), 0 if run.configuration.hyper is None else run.configuration.hyper.steps
    with entered(lock(out / folder, wait=True)), progress.stage(run.title) as update:
        checkpoints = checkpoints_of(run, out, accelerator, progress)
        model, log = trained_model(
            run,
            accelerator=accelerator,
            workers=workers,
            on_step=lambda: update(next(done), steps),
            checkpoints=checkpoints,
            readings=readings_in(out, run),
        )
        on_main(lambda: write_atomically(path, model_file(model, replace(pictures.card, run=folder))))
        shares = probabilities(model, run.task, accelerator=accelerator)
        metrics = accuracies(shares, run.task.test_labels, run.task.classes)
        where, seconds = machine(accelerator), checkpoints.seconds
        report = Report(run.configuration, metrics, log, seconds, where, checkpoints.continued)
        on_main(lambda: _store(report, out))
    return model, shares, report


def _finished(run: Run, out: Path) -> Report | None:
    """Return the report of `run` if it is finished and the model in `out` is its own."""
    report, path = load_report(out, run.configuration), out / MODEL_FILE
    is_here = report is not None and path.exists() and load_stored(path)[1].run == run.configuration.folder
    return report if is_here else None


def _store(report: Report, out: Path) -> None:
    store_report(out, report)
    discard(out / report.configuration.folder)


if __name__ == "__main__":
    sys.exit(main())
