"""One model fine-tuned on a folder of labelled pictures, from the files to the files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from vitreg.files import lock, prepare_out
from vitreg.train.basics.console import make_console, say
from vitreg.train.basics.distributed import enter_on_main, on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.choice import Choice, Standing, standing
from vitreg.train.data.test_sets import TestSet
from vitreg.train.finetuned import Finetuned, Tested
from vitreg.train.labelled_folder import read_labelled
from vitreg.train.losses import describe_losses
from vitreg.train.models.start import check_block
from vitreg.train.options import FinetuneOptions
from vitreg.train.result import WRITTEN, predictions_of, summary, write_result
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import stored_model
from vitreg.train.runs.workplace import Workplace
from vitreg.train.search import fix_trials, planned_trials, search, search_table, search_verdict
from vitreg.train.trained_model import TrainedModel
from vitreg.train.training.device import check_batch, make_accelerator, workers_for
from vitreg.train.trials import PROBE, Trial, Trials, trial_of


def finetune(
    data: str | Path,
    *,
    weights: str | Path,
    out: str | Path | None = None,
    options: FinetuneOptions | None = None,
    console: Console | None = None,
) -> Finetuned:
    """Fine-tune a model on a folder of labelled pictures, and write it with all that shows how good it is.

    The linear probe is computed first; training starts from its head. Which of the two is delivered, and with
    `options.search` the learning rate and λ, is chosen on training pictures alone, by folds that are held out
    in turn: the pictures that are reported on choose nothing, and all training pictures are trained on in
    the end. What is finished is never done again: the same call goes on where an earlier one was stopped.

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
    accelerator = make_accelerator(options.device, options.precision)
    tried = [method for method, _ in options.searched] if options.search else [options.used_method]
    check_batch(options.hyper(1), tried)
    workers = workers_for(options.workers, has_gpu=accelerator.device.type != "cpu")
    with Progress(console) as progress:
        on_main(lambda: prepare_out(out))
        pictures = read_labelled(data, str(weights), options, progress, but_not=out)
        check_block(pictures.start, options.block)
        trials = Trials(pictures, options, Workplace(out, accelerator, workers, progress))
        searched = _search(trials) if options.search and trials.folds else []
        trial = searched[0].trial if searched else trial_of(options)
        is_chosen = options.select == "folds" and trial != PROBE
        choice = _choice(trials, trial) if is_chosen else None
        runs, (probe, fine_tuned) = zip(*trials.trained_on_all([PROBE, trial]), strict=True)
        is_probe = trial == PROBE or (choice is not None and choice.is_probe)
        run, report = (runs[0], probe) if is_probe else (runs[1], fine_tuned)
        model = stored_model(run, out).eval()
        probabilities = TrainedModel(model, pictures.card, accelerator).probabilities_of(run.task.test)
        losses = _losses(fine_tuned, choice)
        both = (report, probe, fine_tuned, trial)
        models = [TrainedModel(stored_model(one, out), pictures.card, accelerator) for one in runs]
        tests = [_test(test, *models, is_probe=is_probe) for test in pictures.tests]
        found = Finetuned(model, pictures.card, *both, choice, searched, losses, probabilities, out, tests)
        with enter_on_main(lock(out, wait=True)):  # one command at a time writes the results
            on_main(lambda: write_result(found, pictures, accelerator, options.block))
    written = ", ".join([*WRITTEN, *map(predictions_of, found.tests)])
    say(console, *summary(found, pictures), f"written: {out}: {written}")
    return found


def _test(test: TestSet, probe: TrainedModel, fine_tuned: TrainedModel, *, is_probe: bool) -> Tested:
    """Return how both models do on a test set, and what the delivered one makes of it."""
    found = [model.probabilities_of(test.pictures) for model in (probe, fine_tuned)]
    right = [tuple((one.argmax(1) == torch.tensor(test.labels)).tolist()) for one in found]
    return Tested(test, found[0 if is_probe else 1], *right)


def _search(trials: Trials) -> list[Standing]:
    """Return how the trials of the search did, the best first."""
    options, progress = trials.options, trials.place.progress
    listed, num_folds = planned_trials(options), len(trials.folds)
    if options.minutes is not None:
        asked = {"options": repr(replace(options, test=())), "data": trials.pictures.task.fingerprint}
        time = partial(trials.seconds_per_fold, listed[0])
        fixed, seconds = fix_trials(
            listed, num_folds, options.minutes, out=trials.place.out, asked=asked, time=time
        )
        progress.say(
            f"search: {len(fixed)} of {len(listed)} trials, what fits in {options.minutes:g} min at "
            f"{seconds:.0f} s for a fold: {'; '.join(map(str, fixed))}"
        )
        listed = fixed
    num_pictures = len(trials.pictures.task.train_labels)
    progress.say(
        f"search: {len(listed)} trials on {num_pictures} training pictures, held out in {num_folds} folds"
    )
    searched = search(listed, num_folds, trials.on_fold)
    progress.console.print(search_table(searched))
    progress.say(search_verdict(searched))
    return searched


def _choice(trials: Trials, trial: Trial) -> Choice | None:
    """Return the choice between the probe and a trial, or None where a class has a single picture."""
    folds = trials.folds
    if not folds:
        trials.place.progress.say(
            "a class has a single training picture, so that none can be held out to choose by: "
            "the fine-tuned model is delivered"
        )
        return None
    both = trials.on_folds([PROBE, trial], range(len(folds)))
    probe, fine_tuned = (standing(one, found) for one, found in zip((PROBE, trial), both, strict=True))
    return Choice(probe, fine_tuned, len(folds))


def _losses(fine_tuned: Report, choice: Choice | None) -> str | None:
    """Return what the losses say of the fine-tuned model's training, in a sentence."""
    c = fine_tuned.configuration
    if c.hyper is None:
        return None
    held_out = {}
    if choice is not None:
        held_out = {"held_out": choice.fine_tuned.loss, "held_out_before": choice.probe.loss}
    num_classes = len(fine_tuned.metrics["per_class"])
    return describe_losses(fine_tuned.log, c.hyper, num_classes, **held_out)
