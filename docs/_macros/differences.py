"""The places where the code departs from a paper: the comments `NOTE[DIFF]`, collected from the source."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from functools import cache
from typing import NamedTuple

from _macros.methods import CARDS, ROOT, card

FOLDERS = ("vitreg", "recipes", "benchmarks")
MARK = "NOTE[DIFF]:"

METHODS_OF_FILE: dict[str, tuple[str, ...]] = {
    "vitreg/augment/transmix.py": ("transmix",),
    "vitreg/extractors/attn_logits.py": ("gta",),
    "vitreg/parameters/freeze.py": ("freeze",),
    "vitreg/functional/squared_distance.py": ("gta", "feature-guide"),
    "vitreg/penalties/l2sp.py": ("l2sp",),
    "vitreg/train/training/hyperparameters.py": ("transmix",),
    "vitreg/train/training/methods.py": ("l2sp",),
    "benchmarks/rivals.py": ("l2sp",),
    # The experiments, whatever the method:
    "vitreg/train/training/attention_metrics.py": (),
    "vitreg/train/data/official/aircraft.py": (),
    "vitreg/train/data/official/cub.py": (),
    "recipes/engine/data/scenes.py": (),
    "recipes/engine/results/segmentation/jaccard.py": (),
    "recipes/engine/demo/self_supervised.py": (),
    "recipes/engine/scripts/presets.py": (),
    "vitreg/train/training/loop.py": (),
    "vitreg/train/data/transforms.py": (),
}
"""On which cards the differences of a file are shown."""


class Difference(NamedTuple):
    """A departure: the file, the function, class or constant that it is in or above, and what it says."""

    file: str
    where: str
    text: str


def method_differences(name: str) -> str:
    """Return the differences that concern a method, as a list."""
    title = card(name).title
    found = [d for d in collected() if name in METHODS_OF_FILE[d.file]]
    if not found:
        return f"None: no `NOTE[DIFF]` in the code concerns {title}."
    return "\n".join(f"- {_reference(d)}: {_as_markdown(d.text)}" for d in found)


def all_differences() -> str:
    """Return every difference, by file, with the cards that show it."""
    lines: list[str] = []
    for file in dict.fromkeys(d.file for d in collected()):
        shown = ", ".join(f"[{card(name).title}]({name}.md)" for name in METHODS_OF_FILE[file])
        lines += ["", f"`{file}`{f' ({shown})' if shown else ''}", ""]
        lines += [f"- `{d.where}`: {_as_markdown(d.text)}" for d in collected() if d.file == file]
    return "\n".join(lines).strip()


@cache
def collected() -> tuple[Difference, ...]:
    """Return all differences, by file and line.

    Raises:
        ValueError: a file with one is in no list of `METHODS_OF_FILE`, or a file there has none, or a method
            there has no card.
    """
    found: list[Difference] = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found += differences_in(text, path.relative_to(ROOT).as_posix()) if "NOTE[DIFF]" in text else []
    files = {difference.file for difference in found}
    if files != METHODS_OF_FILE.keys():
        raise ValueError(
            "METHODS_OF_FILE in docs/_macros/differences.py says which method a file's NOTE[DIFF] concern; "
            f"without a line there: {sorted(files - METHODS_OF_FILE.keys())}, with one and without a "
            f"NOTE[DIFF]: {sorted(METHODS_OF_FILE.keys() - files)}."
        )
    unknown = {name for names in METHODS_OF_FILE.values() for name in names} - CARDS.keys()
    if unknown:
        raise ValueError(f"METHODS_OF_FILE names methods without a card: {sorted(unknown)}.")
    return tuple(found)


def differences_in(text: str, file: str) -> list[Difference]:
    """Return the differences that the Python file `file` with this text marks.

    One begins with a comment `# NOTE[DIFF]: …` and goes on in the comments right below it.
    """
    tree = ast.parse(text)
    found: list[tuple[int, list[str]]] = []
    last_row = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        row, said = token.start[0], token.string.removeprefix("#").strip()
        if said.startswith(MARK):
            found.append((row, [said.removeprefix(MARK).strip()]))
            last_row = row
        elif found and row == last_row + 1:
            found[-1][1].append(said)
            last_row = row
    return [Difference(file, _where(tree, row), " ".join(said)) for row, said in found]


def _where(tree: ast.Module, row: int) -> str:
    """Return the dotted name of what encloses a line; outside of all, of what the line is in or above."""
    names: list[str] = []
    body: list[ast.stmt] = tree.body
    while True:
        around = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
            and node.lineno <= row <= (node.end_lineno or 0)
        ]
        if not around:
            break
        names.append(around[0].name)
        body = around[0].body
    if names:
        return ".".join(names)
    below = next(node for node in tree.body if (node.end_lineno or 0) >= row)
    if isinstance(below, ast.ClassDef | ast.FunctionDef):
        return below.name
    targets = below.targets if isinstance(below, ast.Assign) else [getattr(below, "target", None)]
    return next((target.id for target in targets if isinstance(target, ast.Name)), "the file")


def _reference(difference: Difference) -> str:
    return f"`{difference.where}` in `{difference.file}`"


def _as_markdown(text: str) -> str:
    """Return a comment with what Markdown would take for itself written out, outside of `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", p) for p in parts)
