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
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from vitreg.errors import InputError
from vitreg.files import prepare_out, write_atomically
from vitreg.train.basics.console import say
from vitreg.train.basics.progress import duration

INTERRUPTED = 130
"""The exit code of a script that was stopped by its user."""

REFUSED = 2
"""The exit code of a script that cannot use its input."""


class ScriptResult(NamedTuple):
    """What is said of a script, when it began, and its exit code, or None if it was not called."""

    text: str
    began: float = 0.0
    code: int | None = None


SOURCES: Mapping[str, tuple[str, ...]] = {"table6": ("SL", "SSL"), "table_a": ("DINO", "iBOT")}
"""The labels of the scripts that compare several sources."""

_LABELS = {label.lower(): label for labels in SOURCES.values() for label in labels}

FIRST = ("iBOT", "SSL")
"""The labels of the source that the other scripts take, if it is there; else they take the first."""

KEEPING = ("figure1", "figure3", "table4", "appendix_b")
"""The scripts that need trained models, and come first: the others then find those runs finished."""

SEGMENTS = ("table4", "figure3")
"""The scripts that look at the outlines of objects: in PASCAL VOC if it is given."""


def run_all(scripts: Sequence[str], *, description: str, argv: Sequence[str] | None = None) -> int:
    """Run the scripts, write `all.md` into `--out`, and return 0, 1 if one failed, or 2 if none could run."""
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
            raise InputError("all.py is one process; start each table with accelerate launch instead")
        prepare_out(out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told: dict[str, ScriptResult] = {}
    for script in sorted(known.only, key=lambda script: script not in KEEPING):
        given, why_not = arguments_of(script, known.weights, known.data, known.voc)
        if why_not:
            told[script] = ScriptResult(f"left out: {why_not}")
            continue
        command = [*given, *(passed if script != "table1" else []), "--out", str(out)]
        console.rule(escape(f"{script}.py {' '.join(command)}"))
        began, clock = time.time(), time.monotonic()
        code = _code(script, command)
        if code == INTERRUPTED:
            return code
        text = f"`python recipes/{script}.py {' '.join(command)}`, {duration(time.monotonic() - clock)}"
        if code == REFUSED:
            text += "; left out: it cannot use what is given, as it says above"
        elif code:
            text += f"; failed with exit code {code}"
        told[script] = ScriptResult(text, began, code)
    told = {script: told[script] for script in scripts if script in told}
    write_atomically(out / "all.md", page(out, told))
    say(console, *(f"{script}: {one.text}" for script, one in told.items()), f"written: {out / 'all.md'}")
    codes = [one.code for one in told.values()]
    if any(code not in (None, 0, REFUSED) for code in codes):
        return 1
    return 0 if 0 in codes else REFUSED


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
    places: dict[str, str] = {}
    for text in weights:
        label, _, place = text.partition("=")
        if place and label.lower() in _LABELS:
            places[_LABELS[label.lower()]] = place
        else:
            places.setdefault("", text)
    if script in SOURCES:
        if missing := [label for label in SOURCES[script] if label not in places]:
            return given, f"no --weights {' '.join(f'{label}=FILE' for label in missing)}"
        return [*given, "--weights", *(f"{label}={places[label]}" for label in SOURCES[script])], ""
    first = next((label for label in FIRST if label in places), next(iter(places)))
    return [*given, "--weights", places[first]], ""


def page(out: Path, told: Mapping[str, ScriptResult]) -> str:
    """Return the page: of each script what was run, its table and the pictures that it has drawn."""
    lines = ["# All tables and figures", ""]
    for script, one in told.items():
        lines += [f"## {script}", "", one.text, ""]
        if one.code != 0:
            continue
        if (out / f"{script}.md").exists():
            # The table brings its own heading, one level too high for this page.
            lines += [re.sub(r"^### ", "", (out / f"{script}.md").read_text(), count=1), ""]
        drawn = [*out.glob(f"{script}.png"), *out.glob(f"{script}-*.png")]
        pictures = sorted(path.name for path in drawn if path.stat().st_mtime >= one.began - 1)
        lines += [f"![{script}]({name})" for name in pictures]
        lines.append("")
    return "\n".join(lines)
