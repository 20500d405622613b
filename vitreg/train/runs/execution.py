"""Runs executed one after the other where they are not finished yet, and handed back as reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vitreg.files import lock
from vitreg.train.basics.distributed import enter_on_main, on_main
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report
from vitreg.train.runs.run import complete, load_finished
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.checkpoint import discard


def execute(runs: Sequence[Run], place: Workplace) -> list[Report]:
    """Return the reports of all runs, after running those that are not finished.

    Another process may work on the same folder: a run it holds is left for last, and then waited for. An
    interrupted run continues from its checkpoint. Several processes that were launched together do each run
    together.
    """
    reports, pending = find_unfinished(runs, place)
    for wait in (False, True):
        for run in list(pending):
            report = complete_once(run, place, wait=wait)
            if report is not None:
                pending.remove(run)
                reports[run.configuration.folder] = report
    return [reports[run.configuration.folder] for run in runs]


def find_unfinished(runs: Sequence[Run], place: Workplace) -> tuple[dict[str, Report], list[Run]]:
    """Return the reports of the finished runs by folder, and the others, each once; the progress is told."""
    distinct = {run.configuration.folder: run for run in runs}
    found = on_main(lambda: {folder: finished_report(run, place) for folder, run in distinct.items()})
    reports = {folder: report for folder, report in found.items() if report is not None}
    pending = [run for folder, run in distinct.items() if folder not in reports]
    place.progress.begin(sum(run.cost for run in pending), num_runs=len(pending), num_finished=len(reports))
    return reports, pending


def complete_once(run: Run, place: Workplace, *, wait: bool) -> Report | None:
    """Return the report of `run`, computed unless it is finished; without `wait` None if another is at it."""
    with enter_on_main(lock(place.out / run.configuration.folder, wait=wait)) as is_held:
        if not is_held:
            return None
        # The other may have finished it meanwhile, or this one before it was killed.
        if (report := on_main(partial(finished_report, run, place))) is not None:
            place.progress.advance(run.cost)
            return report
        place.progress.start_run(run.title)
        report = complete(run, place)
        place.progress.finish_run(run.title, report.metrics, report.seconds)
        return report


def finished_report(run: Run, place: Workplace) -> Report | None:
    """Return the report of a run that is finished, or None."""
    report = load_finished(run, place.out, keeps_model=place.keeps_models)
    if report is not None:
        discard(place.out / run.configuration.folder)  # it was killed after its DONE
    return report
