"""Runs executed one after the other where they are not finished yet, and handed back as reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from vitreg.files import lock
from vitreg.train.basics.distributed import entered, on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import complete, finished
from vitreg.train.training.checkpoint import SECONDS, discard


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
    distinct = {run.configuration.folder: run for run in runs}
    reports = on_main(lambda: finished_runs(distinct, out, keeps_models=keeps_models))
    pending = [run for folder, run in distinct.items() if folder not in reports]
    progress.begin(sum(run.cost for run in pending), num_runs=len(pending), num_finished=len(reports))
    for wait in (False, True):
        for run in list(pending):
            with entered(lock(out / run.configuration.folder, wait=wait)) as is_held:
                if not is_held:
                    continue
                # The other may have finished it meanwhile.
                report = on_main(partial(finished, run, out, keeps_model=keeps_models))
                if report is None:
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
                else:
                    progress.advance(run.cost)
            pending.remove(run)
            reports[run.configuration.folder] = report
    return [reports[run.configuration.folder] for run in runs]


def finished_runs(runs: Mapping[str, Run], out: Path, *, keeps_models: bool) -> dict[str, Report]:
    """Return the reports of the runs that are finished, by folder."""
    found = {folder: finished(run, out, keeps_model=keeps_models) for folder, run in runs.items()}
    reports = {folder: report for folder, report in found.items() if report is not None}
    for folder in reports:
        discard(out / folder)  # it was killed after its DONE
    return reports
