"""A table's runs as tasks on Ray: on the GPUs of a machine, or on several machines that share a folder."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import engine
import vitreg
from vitreg.errors import InputError, VitregError, import_library
from vitreg.files import lock, prepare_out
from vitreg.train.basics.distributed import world_size
from vitreg.train.basics.progress import Progress
from vitreg.train.runs.execution import complete_once, find_unfinished
from vitreg.train.runs.plan import Run
from vitreg.train.runs.report import Report
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.plugins import load_plugins
from vitreg.wording import first_line


@dataclass(frozen=True)
class RayOptions:
    """Where runs are computed, and what each takes; `gpus` and `cpus` below 1 are shared by several.

    `address` is HOST:PORT of a cluster, or `auto` on a machine of one; None starts one of this machine alone.
    A run that lost its process is taken up again from its checkpoint, up to `retries` times.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    precision: str = "no"
    plugins: Sequence[Path] = ()


def execute_on_ray(runs: Sequence[Run], place: Workplace, options: RayOptions) -> list[Report]:
    """Return the reports of all runs, after running those that are not finished, several at once.

    As `execute`, and to the same figures. A run's folder in `place.out` is its state: all nodes see it at the
    same place, with locks that hold, and have vitreg's packages in the same versions.

    Raises:
        InputError: No node has what a run takes, a node does not see the folder, or a run fails. The other
            runs are then stopped, and go on with the next call.
    """
    if world_size() > 1:
        raise InputError(f"one process gives a table to Ray, found {world_size()}; use no launcher")
    import ray

    prepare_out(out := Path(os.path.abspath(place.out)))
    reports, pending = find_unfinished(runs, place)
    needed, nodes = {"CPU": options.cpus, "GPU": options.gpus}, [node["Resources"] for node in ray.nodes()]
    if pending and not any(all(n.get(kind, 0) >= wanted for kind, wanted in needed.items()) for n in nodes):
        raise InputError(f"no node has {options.cpus:g} CPU and {options.gpus:g} GPU for a run; ask for less")
    sent = {id(thing): ray.put(thing) for run in pending for thing in (run.task, run.start)}
    nothing: Any = None  # neither a device nor a terminal can be sent
    bare = replace(place, out=out, accelerator=nothing, progress=nothing)
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries)(_run)
    with tempfile.TemporaryDirectory(dir=out, prefix=".ray.") as token, lock(Path(token), wait=True):
        given = (bare, Path(token), options, torch.get_num_threads())
        for wait in (False, True):  # what another command is at comes last
            flying = {}
            for run in pending:
                things = (run.configuration, sent[id(run.task)], sent[id(run.start)])
                flying[task.remote(given, *things, wait=wait)] = run
            for run, report in _collect(ray, flying, options.retries):
                if report is not None:
                    pending.remove(run)
                    reports[run.configuration.folder] = report
                    place.progress.start_run(run.title)
                    place.progress.advance(run.cost)
                    place.progress.finish_run(run.title, report.metrics, report.seconds)
    return [reports[run.configuration.folder] for run in runs]


def _run(given: tuple[Any, ...], configuration: Any, task: Any, start: Any, *, wait: bool) -> Report | None:
    """Return the report of a run, on whichever node this is, or None if another process is at it."""
    place, token, options, threads = given
    node = socket.gethostname()
    if not token.is_dir():
        raise InputError(f"{node} does not see --out {place.out}; give a folder that all nodes share")
    with lock(token, wait=False) as is_held:
        if is_held:
            raise InputError(f"locks in --out {place.out} do not hold on {node}; mount it with locks")
    load_plugins(options.plugins)  # this process has only just begun
    torch.set_num_threads(threads)  # Ray's own number is that of the task's CPUs
    accelerator = make_accelerator("cuda" if options.gpus else "cpu", options.precision)
    here = replace(place, accelerator=accelerator, progress=Progress(Console(quiet=True)))
    return complete_once(Run(configuration, task, start), here, wait=wait)


def _collect(ray: Any, flying: dict[Any, Run], retries: int) -> Iterator[tuple[Run, Report | None]]:
    """Yield each run and its report as it ends; whatever ends this, an interrupt too, ends the runs."""
    try:
        while flying:
            (task,), _ = ray.wait(list(flying))
            run = flying.pop(task)
            try:
                yield run, ray.get(task)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, (VitregError, OSError)):
                    raise InputError(f"{run.title}: {error.cause}") from error
                raise
            except ray.exceptions.RayError as error:
                lost = f"{run.title}: its process was lost, and {retries} retries did not help"
                raise InputError(f"{lost}; the same command goes on from its checkpoint") from error
    finally:
        for task in flying:
            ray.cancel(task, force=True)


@contextmanager
def cluster(options: RayOptions) -> Iterator[None]:
    """Connect to the cluster of `options`, or to one here that ends with the block, for `execute_on_ray`.

    Raises:
        InputError: Ray is not installed or not reached.
    """
    ray = import_library("ray", 'a table on Ray needs ray; pip install "vitreg[ray]"')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to Ray's makers
    code = [str(Path(module.__path__[0])) for module in (engine, vitreg)]
    environment = {"py_modules": code, "excludes": ["**/__pycache__"]}
    settings: dict[str, Any] = {} if options.address else {"include_dashboard": False}
    settings |= {"runtime_env": environment, "log_to_driver": False, "logging_level": logging.ERROR}
    try:
        try:
            if options.address not in (None, "auto"):  # Ray waits minutes where nobody answers, then exits
                host, _, port = options.address.rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            ray.init(address=options.address or "local", **settings)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"reach the cluster at {options.address}" if options.address else "start a cluster here"
            raise InputError(f"Ray cannot {where} ({first_line(error)}); see `ray start --help`") from error
        yield
    finally:
        ray.shutdown()
