"""Everything that only a GPU can tell, in a few minutes, with one archive as its result.

In the order of their worth: what the device is, the tests marked `gpu`, what a training step costs, the
recipes' loop, and runs on pictures until the time is up. Each step is a process of its own with its own share
of the time: one that fails or hangs costs only itself, and leaves its log. What is finished is kept at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from gpu_steps.archive import unpack_into, write_archive
from gpu_steps.options import Options, read_options
from gpu_steps.plan import planned_steps
from gpu_steps.session import ROOT, take_steps
from gpu_steps.step import FAILED

BEGAN = time.monotonic()
ARCHIVE = "gpu.tar.gz"
REHEARSED = 4
"""How many times its share of the time a step may take in a rehearsal."""

KEEPING = 6.0
"""Seconds that are kept for the last writing of the archive."""


def main(argv: Sequence[str] | None = None) -> int:
    """Take the steps, pack or collect; return 1 if a step failed, and 0 otherwise."""
    options = read_options(argv, __doc__)
    # Whoever ends this process ends the step's as well, which would outlive it in a group of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.path[1:1] = [str(ROOT), str(ROOT / "recipes")]  # vitreg itself need not be installed
    if options.pack is not None:
        from gpu_steps.pack import pack  # needs Pillow, which the steps' processes import themselves

        pack(options)
        return 0
    if options.collect is not None:
        from gpu_steps.collect import collect

        collect(options.collect, ROOT)
        return 0
    return _measure(options)


def _measure(options: Options) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # models so small gain nothing by more
    archive = options.out / ARCHIVE
    until = BEGAN + 60 * options.minutes - KEEPING
    work = Path(tempfile.mkdtemp(prefix="vitreg-gpu-"))
    try:
        for earlier in (*options.have, *([archive] if archive.is_file() else [])):
            unpack_into(work, earlier)
        steps = planned_steps(options, work)
        names = [step.name for step in steps]
        if unknown := sorted({*options.only, *options.again} - set(names)):
            raise SystemExit(f"expected steps of {', '.join(names)}, found {', '.join(unknown)}")
        outcomes = take_steps(
            [step for step in steps if not options.only or step.name in options.only],
            work,
            until=until,
            # A rehearsal is about what works, on a processor that may be slow: steps may wait for it.
            minutes=options.minutes * (REHEARSED if options.quick else 1),
            again=options.again,
            keep=lambda: write_archive(work, archive),
        )
        write_archive(work, archive)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{archive}, {archive.stat().st_size / 2**20:.2f} MiB, after {time.monotonic() - BEGAN:.0f} s")
    return int(any(outcome.status == FAILED for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
