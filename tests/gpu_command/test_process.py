"""A step's process and all of its children are gone when its time is over."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from gpu_steps.process import Ended, run_for

CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(60)"])
print(child.pid, flush=True)
"""


def run(seconds: float, code: str, folder: Path, *, grace: float = 0.5) -> tuple[Ended, str]:
    log = folder / "log.txt"
    command = [sys.executable, "-c", code]
    ended = run_for(seconds, command, log=log, folder=folder, environment={"WORD": "said"}, grace=grace)
    return ended, log.read_text()


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_ends_by_itself(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['WORD'], os.getcwd()); print('no', file=sys.stderr); sys.exit(3)"
    ended, said = run(30, code, tmp_path)
    assert ended.code == 3
    assert said.splitlines() == [f"said {os.path.realpath(tmp_path)}", "no"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes by /proc")
@pytest.mark.parametrize("end", ["", "time.sleep(60)"])
def test_no_child_outlives_it(tmp_path: Path, end: str) -> None:
    began = time.monotonic()
    ended, said = run(4, CHILD + end, tmp_path)
    assert (ended.code is None) == bool(end)
    assert time.monotonic() - began < 30
    for _ in range(50):
        if not is_alive(int(said)):
            break
        time.sleep(0.1)
    assert not is_alive(int(said))


def test_one_that_is_asked_to_end_may_write_what_it_has(tmp_path: Path) -> None:
    code = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(print('kept')))\ntime.sleep(60)"
    ended, said = run(4, code, tmp_path, grace=2)
    assert ended.code is None
    assert said == "kept\n"


def test_one_that_does_not_listen_is_ended_all_the_same(tmp_path: Path) -> None:
    ended, _ = run(3, "import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(60)", tmp_path)
    assert ended.code is None
    assert ended.seconds < 30
