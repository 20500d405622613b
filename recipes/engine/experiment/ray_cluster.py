"""A cluster of Ray's: reached or started, and looked at before a table's runs are sent to it."""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine
import vitreg
from vitreg.errors import InputError
from vitreg.files import lock, prepare_out
from vitreg.train.basics.progress import Progress

PATIENCE = 10.0
"""Seconds in which somebody has to answer at an address."""

VARIABLES = (
    "OMP_WAIT_POLICY",
    "CUBLAS_WORKSPACE_CONFIG",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
)
"""Of the environment, read when torch is first imported, and able to change figures: the nodes get ours."""


@dataclass(frozen=True)
class RayOptions:
    """Where the runs of a table are computed, and what each of them takes.

    Attributes:
        address: HOST:PORT of a cluster, or `auto` on a machine that belongs to one; None starts one of this
            machine alone.
        cpus: of a run, for the scheduler; below 1, several runs share one.
        gpus: of a run; 0 for none, below 1 if several share one, whose memory has to do for all of them.
        retries: how many times a run is taken up again, from its checkpoint, after it lost its process.
        device: as `--device`. With GPUs a run is on `cuda`, whatever this machine has; without, `auto` is the
            CPU.
        precision: as `--precision`.

    Raises:
        InputError: One of them cannot be meant.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    device: str = "auto"
    precision: str = "no"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|[^\s/]+:\d{1,5}", self.address or "auto"):
            raise InputError(f"{self.address} is no address of Ray's: expected HOST:PORT or auto")
        if not 0 < self.cpus < float("inf"):
            raise InputError(f"{self.cpus:g} CPUs a run: expected more than 0, such as 1 or 0.5")
        if not 0 <= self.gpus < float("inf") or (self.gpus > 1 and self.gpus % 1):
            raise InputError(f"{self.gpus:g} GPUs a run: expected 0, a share below 1 or a whole number")
        if self.retries < 0:
            raise InputError(f"{self.retries} retries of a run: expected 0 or more")
        if self.gpus and self.device not in ("auto", "cuda"):
            raise InputError(
                f"--device {self.device} does not use the {self.gpus:g} GPUs of each run; ask for 0"
            )
        if not self.gpus and self.device == "cuda":
            raise InputError("--device cuda, and 0 GPUs a run; ask for 1, or for a share of one")

    @property
    def run_device(self) -> str:
        """The device of a run: Ray hides the GPUs that it was not asked for."""
        return "cuda" if self.gpus else "cpu" if self.device == "auto" else self.device


@contextmanager
def cluster(options: RayOptions) -> Iterator[None]:
    """Connect to the cluster of `options`, or start one here and shut it down afterwards.

    Inside of it, `execute_on_ray` and further calls use that connection.

    Raises:
        InputError: There is no such cluster, or it has another Ray or Python.
    """
    ray = library()
    if ray.is_initialized():
        yield
        return
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    code = [str(Path(module.__path__[0])) for module in (engine, vitreg)]
    environment = {"py_modules": code, "excludes": ["**/__pycache__"], "env_vars": variables}
    chosen: dict[str, Any] = {"address": options.address or "local"}
    if options.address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to Ray's makers
        chosen["include_dashboard"] = False
    try:
        _knock(options.address)
        ray.init(**chosen, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        where = f"reach the cluster at {options.address}" if options.address else "start a cluster here"
        raise InputError(
            f"Ray cannot {where} ({first_line(error)}); `ray start --head` starts one and says its address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise `OSError` if nobody is at `address`: Ray itself would wait for minutes, and then exit."""
    if address is not None and address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


@dataclass(frozen=True)
class SharedTable:
    """What all runs of a table have in common; `token` is a folder in `out` that we hold the lock of."""

    out: Path
    token: Path
    device: str
    precision: str
    threads: int
    workers: int
    checkpoint_seconds: float
    keeps_models: bool
    trackers: tuple[str, ...]
    news: Any

    def check(self) -> None:
        """Raise `InputError` if this machine does not see `out` as ours does."""
        host = platform.node()
        if not self.token.is_dir():
            raise InputError(
                f"{host} does not see the --out {self.out} of this table; give a folder that all nodes "
                "share, at the same place on each"
            )
        with lock(self.token, wait=False) as is_held:
            if is_held:
                raise InputError(
                    f"locks in --out {self.out} do not hold on {host}, so a run could be done twice at once; "
                    "mount the folder with locks for all machines (Lustre: -o flock; NFS: no local_lock)"
                )
        prepare_out(self.out)


@contextmanager
def token_in(out: Path) -> Iterator[Path]:
    """Yield a new folder in `out`, held by this process; a kill leaves it behind, empty but for its lock."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".ray.") as name, lock(Path(name), wait=True):
        yield Path(name)


def check_nodes(table: SharedTable, options: RayOptions, progress: Progress) -> None:
    """Raise `InputError` if no node has what a run takes, or one that has cannot run it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray = library()
    wanted = {"CPU": options.cpus, "GPU": options.gpus}
    nodes = [node for node in ray.nodes() if node["Alive"]]
    able = [node for node in nodes if all(node["Resources"].get(k, 0) >= v for k, v in wanted.items())]
    if not able:
        has = "; ".join(f"{node['Resources'].get(k, 0):g} {k}" for node in nodes for k in wanted)
        lacking = f"no node has {options.cpus:g} CPU and {options.gpus:g} GPU for a run, but {has}"
        if options.address is None:
            raise InputError(f"{lacking}; ask for less")
        progress.say(f"{lacking}; waiting for one that has")
    if table.device == "cpu" and table.threads > options.cpus:
        progress.say(
            f"each run has {table.threads} threads, as this process, on {options.cpus:g} CPU; "
            "OMP_NUM_THREADS makes them fewer, and changes the last digits"
        )
    check = ray.remote(num_cpus=0, max_retries=0)(SharedTable.check)
    checks = []
    for node in able:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        checks.append(check.options(scheduling_strategy=there).remote(table))
    for node, task in zip(able, checks, strict=True):
        _pass(task, node["NodeManagerHostname"])


def _pass(check: Any, host: str) -> None:
    from ray.exceptions import RayError, RayTaskError

    try:
        library().get(check)
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if is_own(cause):
            raise InputError(str(cause)) from error
        raise InputError(
            f"{host} cannot run the recipes ({first_line(cause)}); install vitreg[recipes,ray] there, in "
            "the versions of this machine"
        ) from error


def this_node() -> Any:
    """Return Ray's strategy to stay on this machine, whose end is that of the table, too."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(library().get_runtime_context().get_node_id(), soft=False)


def is_own(error: BaseException | None) -> bool:
    """Return whether an error speaks for itself, in one line."""
    return isinstance(error, (InputError, vitreg.VitregError, OSError))


def first_line(error: object) -> str:
    """Return the kind of an error and the beginning of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def library() -> Any:
    """Return the module `ray`.

    Raises:
        InputError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError('a table on Ray needs ray; pip install "vitreg[ray]"') from error
    return ray
