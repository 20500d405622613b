"""All scripts, each with the options that it can use, and the page of their results."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
import traceback
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from engine.errors import RecipeError
from engine.progress import duration
from engine.runs import prepare_out, write_atomically

INTERRUPTED = 130
"""The exit code of a script that was stopped by its user."""

SOURCES: Mapping[str, tuple[str, ...]] = {"table6": ("SL", "SSL"), "table_a": ("DINO", "iBOT")}
"""The labels of the scripts that compare several sources."""

FIRST = ("iBOT", "SSL")
"""The labels of the source that the other scripts take, if it is there."""

SEGMENTS = ("table4", "figure3")
"""The scripts that look at the outlines of objects: in PASCAL VOC if it is given."""


def run_all(scripts: Sequence[str], *, description: str, argv: Sequence[str] | None = None) -> int:
    """Run the scripts, write `all.md` into `--out`, and return 0, or 2 if one of them failed."""
    options = ArgumentParser(
        "all", description=description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--weights", nargs="+", default=[], metavar="[LABEL=]FILE")
    options.add_argument("--data", nargs="+", default=[], metavar="[NAME=]DIR")
    options.add_argument("--voc", metavar="DIR", help="PASCAL VOC 2012, for table 4 and figure 3")
    options.add_argument("--out", type=Path, help="folder of runs, tables and the page (runs/all)")
    options.add_argument("--only", nargs="+", choices=scripts, default=scripts, help="some of the scripts")
    known, passed = options.parse_known_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    out: Path = known.out or Path("runs/all")
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RecipeError("all.py is one process; start each table with accelerate launch instead")
        prepare_out(out)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told: dict[str, str] = {}
    failed = False
    for script in known.only:
        given, why_not = arguments_of(script, known.weights, known.data, known.voc)
        if why_not:
            told[script] = f"left out: {why_not}"
        else:
            command = [*given, *(passed if script != "table1" else []), "--out", str(out)]
            console.rule(f"{script}.py {' '.join(command)}")
            began = time.monotonic()
            code = _code(script, command)
            if code == INTERRUPTED:
                return code
            failed |= code != 0
            spent = duration(time.monotonic() - began)
            told[script] = f"`python recipes/{script}.py {' '.join(command)}`, {spent}"
            if code:
                told[script] += f", failed with exit code {code}"
    write_atomically(out / "all.md", page(out, told))
    for script, text in told.items():
        console.print(f"{script}: {text}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"written: {out / 'all.md'}", markup=False, soft_wrap=True)
    return 2 if failed else 0


def _code(script: str, arguments: Sequence[str]) -> int:
    """Return the exit code of a script; an error that it did not expect stops no other script."""
    try:
        code: int = importlib.import_module(script).main(arguments)
    except Exception:
        traceback.print_exc()
        return 1
    return code


def arguments_of(
    script: str, weights: Sequence[str], data: Sequence[str], voc: str | None
) -> tuple[list[str], str]:
    """Return the script's own options, and why it cannot run, or nothing."""
    given = ["--data", *data] if data else []
    if script == "table1":
        return given, "" if data else "no --data to count"
    if script in SEGMENTS and voc is not None:
        given += ["--voc", voc]
    if not weights:
        return given, ""
    labelled = {label: text for text in weights for label, _, place in [text.partition("=")] if place}
    if script in SOURCES:
        missing = [label for label in SOURCES[script] if label not in labelled]
        if missing:
            return given, f"no --weights {' '.join(f'{label}=FILE' for label in missing)}"
        return [*given, "--weights", *(labelled[label] for label in SOURCES[script])], ""
    label = next((label for label in FIRST if label in labelled), None)
    text = labelled[label] if label else weights[0]
    return [*given, "--weights", text.partition("=")[2] if text in labelled.values() else text], ""


def page(out: Path, told: Mapping[str, str]) -> str:
    """Return the page: of each script what was run, its table and its pictures."""
    lines = ["# All tables and figures", ""]
    for script, text in told.items():
        lines += [f"## {script}", "", text, ""]
        if "left out" in text or "failed" in text:
            continue
        if (out / f"{script}.md").exists():
            # The table brings its own heading, one level too high for this page.
            lines += [re.sub(r"^### ", "", (out / f"{script}.md").read_text(), count=1), ""]
        pictures = sorted(path.name for path in out.glob(f"{script}*.png"))
        lines += [f"![{script}]({name})" for name in pictures]
        lines.append("")
    return "\n".join(lines)
