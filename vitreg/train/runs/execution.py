"""Runs executed one after the other where they are not finished yet, and handed back as reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from vitreg.files import lock
from vitreg.train.basics.distributed import enter_on_main, on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import complete, load_finished
from vitreg.train.training.checkpoint import SECONDS, discard
from vitreg.train.training.plugins import load_plugins


def execute(
    runs: Sequence[Run],
    out: Path,
    *,
    accelerator: Accelerator,
    workers: int,
    progress: Progress,
    checkpoint_seconds: float = SECONDS,
    keeps_models: bool = False,
    trackers: Sequence[str] = (),
) -> list[Report]:
    """Return the reports of all runs, after running those that are not finished.

    Another process may work on the same folder: a run it holds is left for last, and then waited for.
    An interrupted run continues from its checkpoint, written every `checkpoint_seconds`, or never for 0.
    With `keeps_models` the trained weights stay beside each report. Several processes that were launched
    together do each run together.
    """
    reports, pending = find_unfinished(runs, out, progress, keeps_models=keeps_models)
    for wait in (False, True):
        for run in list(pending):
            report = complete_once(
                run,
                out,
                wait=wait,
                accelerator=accelerator,
                workers=workers,
                progress=progress,
                checkpoint_seconds=checkpoint_seconds,
                keeps_models=keeps_models,
                trackers=trackers,
            )
            if report is not None:
                pending.remove(run)
                reports[run.configuration.folder] = report
    return [reports[run.configuration.folder] for run in runs]


def find_unfinished(
    runs: Sequence[Run], out: Path, progress: Progress, *, keeps_models: bool
) -> tuple[dict[str, Report], list[Run]]:
    """Return the reports of the finished runs by folder, and the others, each once; `progress` is told."""
    distinct = {run.configuration.folder: run for run in runs}
    reports = on_main(lambda: finished_runs(distinct, out, keeps_models=keeps_models))
    pending = [run for folder, run in distinct.items() if folder not in reports]
    progress.begin(sum(run.cost for run in pending), num_runs=len(pending), num_finished=len(reports))
    return reports, pending


def complete_once(
    run: Run,
    out: Path,
    *,
    wait: bool,
    accelerator: Accelerator,
    workers: int,
    progress: Progress,
    checkpoint_seconds: float = SECONDS,
    keeps_models: bool = False,
    trackers: Sequence[str] = (),
    plugins: Sequence[Path] = (),
) -> Report | None:
    """Return the report of `run`, computed unless it is finished; without `wait` None if another is at it.

    `plugins` are loaded first, for a process that has only just begun.
    """
    load_plugins(plugins)
    with enter_on_main(lock(out / run.configuration.folder, wait=wait)) as is_held:
        if not is_held:
            return None
        # The other may have finished it meanwhile, or this one before it was killed.
        reports = on_main(partial(finished_runs, {"": run}, out, keeps_models=keeps_models))
        if reports:
            progress.advance(run.cost)
            return reports[""]
        progress.start_run(run.title)
        report = complete(
            run,
            out,
            accelerator=accelerator,
            workers=workers,
            progress=progress,
            checkpoint_seconds=checkpoint_seconds,
            keeps_model=keeps_models,
            trackers=trackers,
        )
        progress.finish_run(run.title, report.metrics, report.seconds)
        return report


def finished_runs(runs: Mapping[str, Run], out: Path, *, keeps_models: bool) -> dict[str, Report]:
    """Return the reports of the runs that are finished, by their keys."""
    found = {key: load_finished(run, out, keeps_model=keeps_models) for key, run in runs.items()}
    reports = {key: report for key, report in found.items() if report is not None}
    for key in reports:
        discard(out / runs[key].configuration.folder)  # it was killed after its DONE
    return reports
