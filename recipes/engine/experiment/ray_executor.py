"""A table's runs as tasks on Ray: on the GPUs of a machine, or on several machines that share a folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from typing import Any

import torch

from engine.experiment.ray_cluster import (
    RayOptions,
    SharedTable,
    check_nodes,
    cluster,
    first_line,
    is_own,
    library,
    this_node,
    token_in,
)
from engine.experiment.ray_news import TELL, RunNews, TableNews
from vitreg.errors import InputError
from vitreg.files import lock, prepare_out
from vitreg.train.basics.distributed import count
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.models.start import Start
from vitreg.train.runs.execution import finished_runs
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Configuration, Report
from vitreg.train.runs.run import complete, finished
from vitreg.train.training.checkpoint import SECONDS, discard

GRACE = 10.0
"""Seconds that a cancelled run has to end by itself, before its process is ended."""


def execute_on_ray(
    runs: Sequence[Run],
    out: Path,
    *,
    options: RayOptions,
    workers: int,
    progress: Progress,
    checkpoint_seconds: float = SECONDS,
    keeps_models: bool = False,
    trackers: Sequence[str] = (),
) -> list[Report]:
    """Return the reports of all runs, after running those that are not finished, several at once.

    As `execute` in `vitreg.train.runs.execution`, to the same figures: each run has the threads and the
    deterministic torch of this process. Its task writes checkpoints and report into `out` itself, so
    `out` is a folder that all nodes see at the same place, with locks that hold between them (NFS;
    Lustre with `flock`). Pictures and weights go to the nodes once, from this process; photographs that
    do not fit into memory are read again from the data's folder, which then has to be there, too.

    The nodes need the packages of `vitreg[recipes,ray]` in the versions of this machine. The code of the
    recipes and of vitreg itself is sent to them. On another kind of processor or GPU figures differ in
    their last digits, and a checkpoint from there is not continued; `machine` in each report says what
    it was.

    Args:
        runs: those of the table.
        out: the folder of all runs.
        options: where, and with what.
        workers: processes that read pictures, of each run.
        progress: is told of all runs together.
        checkpoint_seconds: between two checkpoints of a run; 0 for none.
        keeps_models: whether the trained weights stay beside each report.
        trackers: are told the log of each run as it comes, on its node.

    Raises:
        InputError: Ray is not installed or not reached, no node has what a run takes, a node does not see
            `out`, or a run cannot be ended. The other runs are then stopped, and go on with the next call.
    """
    ray, out = library(), Path(os.path.abspath(out))
    if count() > 1:
        raise InputError(f"one process gives a table to Ray, found {count()}; start it without a launcher")
    prepare_out(out)
    distinct = {run.configuration.folder: run for run in runs}
    reports = finished_runs(distinct, out, keeps_models=keeps_models)
    pending = [run for folder, run in distinct.items() if folder not in reports]
    with ExitStack() as stack:
        if pending:
            from ray.util.queue import Queue

            with progress.stage("connecting to Ray"):
                stack.enter_context(cluster(options))
                table = SharedTable(
                    out,
                    stack.enter_context(token_in(out)),
                    options.run_device,
                    options.precision,
                    torch.get_num_threads(),
                    workers,
                    checkpoint_seconds,
                    keeps_models,
                    tuple(trackers),
                    Queue(actor_options={"num_cpus": 0, "scheduling_strategy": this_node()}),
                )
                check_nodes(table, options, progress)
        progress.begin(sum(run.cost for run in pending), num_runs=len(pending), num_finished=len(reports))
        if pending:
            show = TableNews(progress)
            task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)(_run)
            flight = _Flight(task, ray.put(table), show, _sent(pending), options.retries)
            held = flight.reports(pending, reports, wait=False)
            flight.reports(held, reports, wait=True)
    return [reports[run.configuration.folder] for run in runs]


def _run(
    table: SharedTable, configuration: Configuration, task: Task, start: Start, *, wait: bool
) -> Report | None:
    """Return the report of a run, on whichever node this is, or None if another process is at it."""
    from vitreg.train.training.device import make_accelerator  # which may itself import this file

    table.check()
    torch.set_num_threads(table.threads)  # Ray's own number is that of the task's CPUs
    run, folder = Run(configuration, task, start), table.out / configuration.folder
    accelerator = make_accelerator(Namespace(device=table.device, precision=table.precision))
    with lock(folder, wait=wait) as is_held:
        if not is_held:
            return None
        report = finished(run, table.out, keeps_model=table.keeps_models)
        if report is not None:  # by another process, or by this task before it was lost
            discard(folder)
            return report
        return complete(
            run,
            table.out,
            accelerator=accelerator,
            workers=table.workers,
            progress=RunNews(table.news, run),
            checkpoint_seconds=table.checkpoint_seconds,
            keeps_model=table.keeps_models,
            trackers=table.trackers,
        )


@dataclass(frozen=True)
class _Flight:
    """Tasks under way: the remote function, what they are given by reference, and who is told."""

    task: Any
    table: Any
    show: TableNews
    sent: dict[int, Any]
    retries: int

    def reports(self, runs: Sequence[Run], reports: dict[str, Report], *, wait: bool) -> list[Run]:
        """Add the report of each run to `reports` and return the runs that other processes hold.

        Whatever ends this, an interrupt too, ends the runs.
        """
        ray = library()
        news = ray.get(self.table).news
        held, flying = [], {}
        try:
            for run in runs:
                given = (self.table, run.configuration, self.sent[id(run.task)], self.sent[id(run.start)])
                flying[self.task.remote(*given, wait=wait)] = run
            while flying:
                landed, _ = ray.wait(list(flying), timeout=TELL)
                for heard in news.get_nowait_batch(news.qsize()):
                    self.show.hear(*heard)
                for task in landed:
                    run = flying[task]
                    report = self._report(run, task)
                    del flying[task]
                    if report is None:
                        held.append(run)
                    else:
                        reports[run.configuration.folder] = report
                        self.show.finish(run, report)
        finally:
            _cancel(list(flying))
        return held

    def _report(self, run: Run, task: Any) -> Report | None:
        from ray.exceptions import RayError, RayTaskError

        try:
            report: Report | None = library().get(task)
        except RayTaskError as error:
            if is_own(error.cause):
                raise InputError(f"{run.title}: {error.cause}") from error
            raise
        except RayError as error:
            raise InputError(
                f"{run.title}: its process was lost, and {self.retries} retries did not help "
                f"({type(error).__name__}); the same command goes on from its checkpoint"
            ) from error
        return report


def _cancel(tasks: list[Any]) -> None:
    """End the tasks: those under way as an interrupt does, and those that do not listen by force."""
    ray = library()
    for has_force in (False, True):
        for task in tasks:
            ray.cancel(task, force=has_force)
        if tasks:
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=GRACE)


def _sent(runs: Sequence[Run]) -> dict[int, Any]:
    """Return references to the tasks and starts of `runs`, each sent once, by its `id`."""
    things = {id(thing): thing for run in runs for thing in (run.task, run.start)}
    try:
        return {key: library().put(thing) for key, thing in things.items()}
    except (TypeError, PicklingError) as error:
        raise InputError(f"a task or source cannot be sent to the nodes ({first_line(error)})") from error
