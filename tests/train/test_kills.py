"""More than fifty kills, full disks and torn files of every kind: nothing is lost or used in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_nothing_is_lost(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    )
    command = [sys.executable, str(TESTS / "train" / "kills.py"), str(tmp_path), "52"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-4000:]
    did = json.loads(ended.stdout.splitlines()[-1])
    assert did["killed"] >= 52
    for what in ("continued", "torn checkpoints", "torn and refused", "torn and made again"):
        assert did[what], did
