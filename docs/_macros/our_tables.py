"""Our own tables as Markdown, and what made them. `docs/_write_tables.py` writes those that pages include."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from _macros.stored_results import BASELINE, DOCS, Row, course_of, made, read_result, runs_of, spread

TABLES = DOCS / "_tables"

WORDS = ("data", "source", "trained on", "method", "model", "object", "views a picture", "penalty on")
"""The headings of columns that are no numbers, and stand to the left."""


def our_table(name: str) -> str:
    """Return one of our tables as Markdown, without the columns that no row fills."""
    rows = read_result(name)
    kind = _accuracies if "method" in rows[0] else _jaccards if "model" in rows[0] else _counts
    columns = {heading: cells for heading, cells in kind(rows).items() if any(cells)}
    if set(columns.get("data", ())) == {"demo"}:
        del columns["data"]
    return markdown(list(columns), zip(*columns.values(), strict=True))


def course_table(name: str) -> str:
    """Return what was measured in the course of the training as Markdown, at the steps in made.json."""
    block = next(int(row["block"]) for row in read_result(name) if row["method"] == "source")
    found: dict[tuple[str, str, int], list[list[float]]] = {}
    for at in course_of(name):
        shares = [float(share) for share in at["object_share"].split()]
        measured = [float(at["top1"]), shares[block], *([shares[-1]] if block < len(shares) - 1 else [])]
        if int(at["step"]) in made()[name]["shown"]:
            found.setdefault((at["share"], at["method"], int(at["step"])), []).append(measured)
    rows = []
    for (share, method, step), seeds in sorted(found.items(), key=lambda one: _order(*one[0])):
        cells = [plus_minus(fmean(each), spread(each)) for each in zip(*seeds, strict=True)]
        rows.append([share, method, str(step), str(len(seeds)), *cells])
    headings = ["trained on", "method", "steps", "seeds", "top-1", "on object", "in the last block"]
    return markdown(headings[: len(rows[0])], rows)


def markdown(headings: list[str], body: Iterable[Iterable[str]]) -> str:
    """Return a table as Markdown; columns of words stand to the left, of numbers to the right."""
    rule = "|".join("---" if heading in WORDS else "--:" for heading in headings)
    lines = [f"| {' | '.join(headings)} |", f"|{rule}|", *(f"| {' | '.join(cells)} |" for cells in body)]
    return "\n".join(lines) + "\n"


def _accuracies(rows: Sequence[Row]) -> dict[str, list[str]]:
    return {
        "data": [row["data"] for row in rows],
        "source": [row.get("source", "") for row in rows],
        "trained on": [row["share"] for row in rows],
        "method": [row["method"] for row in rows],
        "λ": [f"{float(row['lam']):g}" if row["lam"] else "" for row in rows],
        "seeds": ["" if row["method"] == "source" else row["num_seeds"] for row in rows],
        "top-1": [plus_minus(row["top1"], row["std"]) for row in rows],
        "gain": [_gain(row, "gain") for row in rows],
        "paper": [plus_minus(row["paper"]) for row in rows],
        "paper's gain": [_gain(row, "paper_gain") for row in rows],
        "on object": [plus_minus(row["object_share"], row["object_share_std"]) for row in rows],
        "Jaccard": [plus_minus(row["jaccard"], row["jaccard_std"]) for row in rows],
    }


def _order(share: str, method: str, step: int) -> tuple[float, int, bool]:
    return float(share.split()[0]), step, method != BASELINE


def _gain(row: Row, column: str) -> str:
    return "" if row["method"] == BASELINE else signed(row[column])


def _jaccards(rows: Sequence[Row]) -> dict[str, list[str]]:
    return {
        "model": [row["model"] for row in rows],
        "seeds": ["" if row["model"] == "source" else row["num_seeds"] for row in rows],
        "block": [row["block"] for row in rows],
        "Jaccard": [plus_minus(row["jaccard"], row["std"], digits=3) for row in rows],
        "gain": [signed(row["gain"], digits=3) for row in rows],
        "paper": [plus_minus(row["paper"], digits=3) for row in rows],
        "paper's gain": [signed(row["paper_gain"], digits=3) for row in rows],
        "mean attention": [plus_minus(row["mean_attention"], digits=3) for row in rows],
        "objects as one": [plus_minus(row["foreground"], digits=3) for row in rows],
    }


def _counts(rows: Sequence[Row]) -> dict[str, list[str]]:
    named = {"data": "data", "classes": "classes", "training": "train", "test": "test"}
    named |= {f"{rate} %": f"at_{rate}" for rate in (15, 30, 50, 100)} | {"object": "objects"}
    return {heading: [row[column] for row in rows] for heading, column in named.items()}


def signed(value: str | float, *, digits: int = 1) -> str:
    """Return a difference with its sign, or nothing for nothing."""
    return f"{round(float(value), digits) + 0.0:+.{digits}f}" if value != "" else ""  # no negative zero


def plus_minus(mean: str | float, std: str | float | None = "", *, digits: int = 1) -> str:
    """Return `mean ± std`, or nothing for nothing."""
    if mean == "":
        return ""
    return f"{float(mean):.{digits}f}" + (f" ± {float(std):.{digits}f}" if std not in ("", None) else "")


def made_by(name: str) -> str:
    """Return the command that made a table, and with what, as Markdown."""
    entry = made()[name]
    block = "\n".join(["```sh", *entry["command"], "```"])
    if "folder" not in entry:
        return block + "\n"
    runs = runs_of(name)
    alike = {column: {run[column] for run in runs} for column in ("date", "threads", "torch", "timm")}
    if any(len(found) != 1 for found in alike.values()):
        raise ValueError(f"{name}: expected runs of one day and one machine, found {alike}")
    date, threads, torch, timm = (found.pop() for found in alike.values())
    several = "threads" if threads != "1" else "thread"
    where = f"{date}, {entry['device']}, {threads} {several} a run, torch {torch}, timm {timm}."
    return f"{block}\n\n{where}\n"


MACROS = (our_table, made_by)
"""What pages may ask for."""


def write_tables(names: Sequence[str] = ()) -> list[Path]:
    """Write these tables into `docs/_tables`, or without names all that are there, and return their files.

    Raises:
        ValueError: There is no such table in made.json, or it is not known how to show it.
    """
    paths = [TABLES / f"{name}.md" for name in names or made() if names or (TABLES / f"{name}.md").exists()]
    for path in paths:
        text = course_table(path.stem) if path.stem.startswith("steps") else our_table(path.stem)
        path.write_text(text, encoding="utf-8")
    return paths
