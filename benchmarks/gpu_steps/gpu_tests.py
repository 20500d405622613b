"""The tests marked `gpu`, each with its outcome in one file; on a CPU they are rehearsed.

python -m gpu_steps.gpu_tests --device cuda --json tests.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "gpu"


def outcomes(junit: Path) -> dict[str, dict[str, str]]:
    """Return each test's outcome from pytest's report: passed, failed or skipped, and why."""
    found: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        failure = next((case.find(tag) for tag in ("failure", "error") if case.find(tag) is not None), None)
        skipped = case.find("skipped")
        if failure is not None:
            found[name] = {"outcome": "failed", "reason": (failure.get("message") or "")[:500]}
        elif skipped is not None:
            found[name] = {"outcome": "skipped", "reason": skipped.get("message") or ""}
        else:
            found[name] = {"outcome": "passed"}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests, write their outcomes, and return pytest's exit code."""
    line = argparse.ArgumentParser(description=__doc__)
    line.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    line.add_argument("--json", type=Path, required=True)
    options = line.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", str(FOLDER), f"--confcutdir={FOLDER}", "-m", "gpu", "-q"]
        # The options of the project are for its own environment: here other versions may warn, and pytest may
        # be without its plugins.
        command += ["-o", "addopts=", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "-rs"]
        command += ["-o", "junit_family=xunit2", f"--junitxml={junit}", "--durations=5"]
        environment = {**os.environ, "VITREG_GPU_TESTS_ON": options.device}
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        if not junit.is_file():
            print(f"pytest ended with exit code {code} and left no report", file=sys.stderr)
            return code or 1
        found = outcomes(junit)
    half = options.json.with_name(options.json.name + ".part")
    half.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(half, options.json)
    counted = Counter(one["outcome"] for one in found.values())
    print(", ".join(f"{number} {kind}" for kind, number in sorted(counted.items())))
    return code


if __name__ == "__main__":
    sys.exit(main())
