"""Runs on pictures, several processes at once on one card, until the time is up.

python -m gpu_steps.runs --data pack --weights FILE --out runs --until MONOTONIC
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gpu_steps.claims import FAILED, UNKNOWN, Claims
from gpu_steps.rows import SETS, finished_rows, planned_rows, write_rows
from gpu_steps.session import MORE_TO_DO

ON_A_GPU, ON_A_CPU = 8, 2
"""Processes that train at once: one alone leaves most of a large GPU idle with so small a model."""

RESTART = 20.0
"""Seconds that have to be left for a process to begin in place of one that failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train until the time is up; return 0 if every row is finished, 1 if none can be, else `MORE_TO_DO`."""
    options = _options(argv)
    sets = [name for name in SETS if (options.data / name).is_dir()]
    if not sets:
        print(f"expected one of {', '.join(SETS)} in {options.data}, found none", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    rows = planned_rows(sets, quick=options.quick)
    before = finished_rows(rows, options.out)
    todo = [row for row in rows if row.name not in before]
    with tempfile.TemporaryDirectory(prefix="vitreg-runs-", dir=options.out.parent) as folder:
        work = Path(folder)
        (work / "claims").mkdir()
        write_rows(work / "rows.json", todo)
        _train(options, work)
        claims = Claims(work / "claims")
        failed, unknown = claims.of_state(todo, FAILED), claims.of_state(todo, UNKNOWN)
    after = finished_rows(rows, options.out)
    for name, reason in {**failed, **unknown}.items():
        print(f"left out: {name}: {reason}")
    print(f"{len(after)} of {len(rows)} rows are finished, {len(after - before)} of them now")
    if len(after) + len(unknown) == len(rows):
        return 0
    return MORE_TO_DO if after else 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--data", type=Path, required=True)
    line.add_argument("--weights", type=Path, required=True)
    line.add_argument("--out", type=Path, required=True)
    line.add_argument("--until", type=float, required=True, help="by the monotonic clock")
    line.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    line.add_argument("--model", default="deit_tiny_patch16_224")
    line.add_argument("--size", type=int, default=224)
    line.add_argument("--processes", type=int)
    line.add_argument("--quick", action="store_true")
    options = line.parse_args(argv)
    if options.processes is None:
        options.processes = ON_A_CPU if options.device == "cpu" else ON_A_GPU
    return options


def _train(options: argparse.Namespace, work: Path) -> None:
    """Start the processes, put another in the place of one that fails, and end them when the time is up."""
    cores = os.cpu_count() or 1
    fillers = max(1, cores - options.processes)
    words = ["--data", options.data, "--weights", options.weights, "--out", options.out, "--work", work]
    words += ["--rows", work / "rows.json", "--model", options.model, "--size", options.size]
    words += ["--device", options.device, "--until", options.until, *(["--quick"] if options.quick else [])]
    command = [sys.executable, "-m", "gpu_steps.train_rows", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // options.processes))}

    def start(*more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, *more], env=environment)

    filling = [start("--fillers", str(fillers), "--process", str(number)) for number in range(fillers)]
    training = {number: start("--process", str(number)) for number in range(options.processes)}
    try:
        while training and time.monotonic() < options.until:
            for number, process in list(training.items()):
                if process.poll() is None:
                    continue
                del training[number]
                if process.returncode and options.until - time.monotonic() > RESTART:
                    # A number of its own: what the one that failed has left behind stays apart.
                    training[number + options.processes] = start("--process", str(number + options.processes))
            time.sleep(0.2)
    finally:
        for process in (*filling, *training.values()):
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
