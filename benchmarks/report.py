"""What the benchmarks share at their edges: options, what is said about the setting, tables and JSON."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import vitreg
from side_by_side import Row
from training import model_name
from vitreg.files import write_atomically

_LIBRARIES = ("torch", "timm", "transformers", "open_clip_torch")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=at_least(1), default=15)
    made.add_argument("--warmup", type=at_least(0), default=2, help="rounds before these, not counted")
    made.add_argument("--device", type=_device, default=torch.device("cpu"))
    made.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    compiled = "torch.compile what is measured (with inductor, or BACKEND)"
    made.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND", help=compiled)
    made.add_argument("--seconds", type=at_least(1), help="begin no round after so many, but for the first")
    going = "leave out, and say, whatever cannot be measured; without: what is unexpected is an error"
    made.add_argument("--keep-going", action="store_true", help=going)
    made.add_argument("--json", type=_file, help="also write the figures here")
    return made


def add_model(made: argparse.ArgumentParser) -> None:
    """Add `--model` to a parser."""
    known = "of timm, or clip:NAME for a vision tower of open_clip"
    made.add_argument("--model", type=model_name, default="vit_small_patch16_224", metavar="NAME", help=known)


def facts(script: str, options: argparse.Namespace, argv: Sequence[str]) -> dict[str, object]:
    """Return what was measured where: the options, the command line, the machine and the versions."""
    device: torch.device = options.device
    said = {name: _plain(value) for name, value in vars(options).items() if name != "json"}
    return {
        "command": f"python benchmarks/{script}.py {shlex.join(argv)}".rstrip(),
        "options": said,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **_versions()},
        "date": str(date.today()),
    }


def print_report(setting: Mapping[str, object], rows: Mapping[str, Row]) -> None:
    """Print the setting in one line and the rows as a table."""
    versions = setting["versions"]
    assert isinstance(versions, dict)
    said = ", ".join(f"{name} {number}" for name, number in versions.items())
    print(setting["command"])
    print(f"{setting['device']}, {setting['threads']} threads, {said}, {setting['date']}")
    columns = [("step", 44), ("seconds", 10), ("ratio", 7), ("quartiles", 15), ("MB", 9), ("ratio", 7)]
    print("  ".join(f"{name:{'<' if name == 'step' else '>'}{width}}" for name, width in columns) + "  to")
    for name, row in rows.items():
        quartiles = f"{row['ratio_first_quartile']:.3f} – {row['ratio_third_quartile']:.3f}"
        memory = f"{'':9}  {'':7}"
        if "peak_bytes" in row:
            memory = f"{float(row['peak_bytes']) / 1e6:9.1f}  {row['peak_ratio']:7.3f}"
        print(
            f"{name:44}  {row['seconds']:10.5f}  {row['ratio']:7.3f}  {quartiles:>15}  {memory}  "
            f"{row['baseline']}"
        )


def write_json(
    path: Path,
    setting: Mapping[str, object],
    rows: Mapping[str, Row],
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Write the setting, the rows and why others were left out, whole or not at all."""
    written: dict[str, object] = {"setting": setting, "rows": rows}
    if left_out:
        written["left_out"] = left_out
    text = json.dumps(written, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def finish(
    script: str,
    options: argparse.Namespace,
    argv: Sequence[str],
    rows: Mapping[str, Row],
    left_out: Mapping[str, str] | None = None,
) -> None:
    """Print the rows and write them where `--json` says, with the reasons for those that were left out."""
    setting = facts(script, options, argv)
    print_report(setting, rows)
    if options.json is not None:
        write_json(options.json, setting, rows, left_out)


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"expected cpu or cuda, found {text!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu or cuda, found {text!r}, which is not measured")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"expected a device that torch finds, found {text!r}; use cpu")
    return device


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file in a folder that exists, found {text!r}")
    return path


def at_least(least: int) -> Callable[[str], int]:
    """Return what argparse calls to read a whole number of at least `least`."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text!r}")
        return int(text)

    return number


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | list | None) else str(value)


def _processor() -> str:
    """Return the processor's name, where the system tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {name: number for name in _LIBRARIES if (number := _version(name)) is not None}
    return {**found, "vitreg": vitreg.__version__}  # which runs from its folder, too


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
