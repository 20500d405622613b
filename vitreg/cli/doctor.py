"""Check the installation: versions, devices, and GTA on a small model on each device.

The exit code is 1 if a check failed."""

from __future__ import annotations

import json
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from vitreg.cli.command import Command
from vitreg.cli.self_test import Check, self_test
from vitreg.cli.versions import Version, versions

_EXAMPLE = """For example

  vitreg doctor
  vitreg doctor --json > report.json
"""


@dataclass(frozen=True)
class Device:
    """Where PyTorch can compute: as it calls the place, and what it is."""

    device: str
    description: str


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: Namespace) -> int:
    """Print what was found; return 1 if anything failed."""
    libraries, places = versions(), list(devices())
    checks = [check for place in places for check in self_test(torch.device(place.device))]
    num_failed = sum(not one.ok for one in libraries) + sum(not check.ok for check in checks)
    if options.json:
        report = {
            "platform": platform.platform(),
            "versions": [{**asdict(version), "ok": version.ok} for version in libraries],
            "devices": [asdict(place) for place in places],
            "checks": [asdict(check) for check in checks],
            "ok": not num_failed,
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(libraries, places, checks)))
        counted = len(checks) + sum(bool(version.found) for version in libraries)
        print(
            f"\n{num_failed} of {counted} checks failed." if num_failed else f"\nAll {counted} checks are ok."
        )
    return int(num_failed > 0)


def devices() -> Iterator[Device]:
    """Yield every device on which the self-test can run, the CPU first."""
    threads = torch.get_num_threads()
    yield Device("cpu", f"{platform.machine()}, {threads} thread{'s' if threads > 1 else ''}")
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield Device(f"cuda:{index}", f"{found.name}, {found.total_memory / 2**30:.1f} GiB")
    if torch.backends.mps.is_available():
        yield Device("mps", "Apple GPU")


def _lines(libraries: list[Version], places: list[Device], checks: list[Check]) -> Iterator[str]:
    yield "versions"
    for version in libraries:
        expected = f" (expected {version.expected})" if version.expected else ""
        if version.optional:
            yield f"  -       {version.library} is not installed{expected}: {version.optional}"
        else:
            yield f"  {_mark(version.ok)}  {version.library} {version.found or 'is not installed'}{expected}"
        if not version.ok:
            yield f"          {version.remedy}"
    for place in places:
        yield ""
        yield f"{place.device}: {place.description}"
        for check in (check for check in checks if check.device == place.device):
            yield f"  {_mark(check.ok)}  {check.name}: {check.found}"
            if not check.ok:
                yield f"          Expected {check.expected}. {check.remedy}"


def _mark(ok: bool) -> str:
    return "ok    " if ok else "FAILED"


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
