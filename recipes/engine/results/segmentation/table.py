"""From measured Jaccard indices to the rows of table 4, and the rows as text. Nothing is measured here."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rich.box import HORIZONTALS
from rich.markup import escape
from rich.table import Table

from engine.results.paper import PAPER
from vitreg.errors import InputError
from vitreg.train.basics.tables import csv_of, markdown
from vitreg.train.data.official.voc import VOC
from vitreg.train.training.methods import SOURCE
from vitreg.wording import listed

PRE_TRAINED = "pre-trained (SSL)"
"""What the paper calls the model before any training."""

_LEFT = ("data", "model")  # columns of words; the others are numbers


@dataclass(frozen=True)
class SegmentationRow:
    """A model on one set of pictures; Jaccard indices in [0, 1], `std` over the seeds.

    `gain` is over the pre-trained model. `paper` is the paper's number, on VOC; where `is_paper_data` is
    false the pictures are others, and only the gains can be compared.
    """

    data: str
    model: str
    num_seeds: int
    block: int
    mass: float
    jaccard: float
    std: float | None
    gain: float | None
    mean_attention: float
    foreground: float
    whole_picture: float
    paper: float | None
    paper_gain: float | None
    is_paper_data: bool
    num_pictures: int
    num_left_out: int


def read_paper_jaccard() -> dict[str, float]:
    """Return the paper's Jaccard index by method, the pre-trained model's under `SOURCE`."""
    with open(PAPER / "table4.csv", newline="") as file:
        rows = {row["model"]: float(row["jaccard"]) for row in csv.DictReader(file)}
    return {SOURCE if model == PRE_TRAINED else model: value for model, value in rows.items()}


def segmentation_rows(
    data: str, found: Mapping[str, Sequence[Mapping[str, Any]]], *, block: int
) -> list[SegmentationRow]:
    """Return a row for each method of `found`: what `segmentation_jaccard` returned for each of its seeds.

    `block` is counted from 0. The pre-trained model, measured once, is `SOURCE`.

    Raises:
        InputError: A method was never measured, not in this block, or with other pictures or another mass.
    """
    printed = read_paper_jaccard()
    first = next((one for results in found.values() for one in results), None)
    table = []
    for method, results in found.items():
        if first is None or not results:
            raise InputError(f"expected at least one measurement of {method}, found none; run it first")
        for one in results:
            if block not in one["blocks"]:
                blocks = listed(map(str, one["blocks"]), at_most=30)
                raise InputError(f"{method} was not measured in block {block}, only in {blocks}")
            for name in ("mass", "num_pictures", "num_left_out"):
                if one[name] != first[name]:
                    raise InputError(
                        f"all rows have to be measured alike: {name} is {first[name]} in one and {one[name]} "
                        f"in {method}; measure it again"
                    )
        jaccard, before = _at(block, results), found.get(SOURCE, ())
        table.append(
            SegmentationRow(
                data=data,
                model=method,
                num_seeds=len(results),
                block=block,
                mass=first["mass"],
                jaccard=fmean(jaccard),
                std=stdev(jaccard) if len(jaccard) > 1 else None,
                gain=fmean(jaccard) - fmean(_at(block, before)) if before and method != SOURCE else None,
                mean_attention=fmean(_at(block, results, "mean_attention")),
                foreground=fmean(_at(block, results, "foreground")),
                whole_picture=first["whole_picture"],
                paper=printed.get(method),
                paper_gain=None if method == SOURCE else _minus(printed.get(method), printed[SOURCE]),
                is_paper_data=data == VOC.name,
                num_pictures=first["num_pictures"],
                num_left_out=first["num_left_out"],
            )
        )
    return table


def _at(block: int, results: Sequence[Mapping[str, Any]], name: str = "jaccard") -> list[float]:
    return [one[name][one["blocks"].index(block)] for one in results]


def _minus(a: float | None, b: float) -> float | None:
    return None if a is None else a - b


def notes(table: Sequence[SegmentationRow]) -> list[str]:
    """Return what has to be said below the table for it to be read rightly."""
    said = []
    seeds = sorted({row.num_seeds for row in table if row.model != SOURCE})
    if seeds:
        said.append(
            f"mean ± standard deviation over {'/'.join(map(str, seeds))} seed(s); gain: over {SOURCE}."
        )
    for row in {row.data: row for row in table}.values():
        blocks = sorted({other.block for other in table if other.data == row.data})
        said.append(
            f"{row.data}: Jaccard: of each class's pixels and the patches that hold {100 * row.mass:g} % "
            f"of the [CLS] attention of its best head in block {'/'.join(map(str, blocks))} (counted from "
            "0); mean attention: of all heads instead of the best; objects as one: not class by class. The "
            f"whole picture would score {row.whole_picture:.3f}. {_counted(row)}"
        )
    if any(row.is_paper_data for row in table):
        said.append(
            "paper: its model, its size of the pictures and its share of the attention are not known."
        )
    if any(row.paper is not None and not row.is_paper_data for row in table):
        said.append("paper: on PASCAL VOC 2012 val, which are other pictures: compare the gains.")
    return said


def _counted(row: SegmentationRow) -> str:
    total = row.num_pictures + row.num_left_out
    if not row.num_left_out:
        return f"{total} pictures."
    return f"{row.num_pictures} of {total} pictures: {row.num_left_out} without any object are not counted."


def _cells(table: Sequence[SegmentationRow]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows as text, without the columns that no row fills."""
    columns = {
        "data": [row.data for row in table],
        "model": [row.model for row in table],
        "seeds": ["" if row.model == SOURCE else str(row.num_seeds) for row in table],
        "block": [str(row.block) for row in table],
        "Jaccard": [_number(row.jaccard) + ("" if row.std is None else f" ± {row.std:.3f}") for row in table],
        "gain": [_signed(row.gain) for row in table],
        "paper": [_number(row.paper) for row in table],
        "paper's gain": [_signed(row.paper_gain) for row in table],
        "mean attention": [_number(row.mean_attention) for row in table],
        "objects as one": [_number(row.foreground) for row in table],
    }
    kept = {name: values for name, values in columns.items() if any(values)}
    return list(kept), [list(values) for values in zip(*kept.values(), strict=True)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def as_rich(table: Sequence[SegmentationRow]) -> Table:
    """Return the table for the terminal."""
    names, body = _cells(table)
    drawn = Table(box=HORIZONTALS, pad_edge=False, padding=0)
    for name in names:
        drawn.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold")
    for texts in body:
        drawn.add_row(*map(escape, texts))
    return drawn


def as_markdown(table: Sequence[SegmentationRow], title: str, below: Sequence[str]) -> str:
    """Return the table as GitHub's Markdown, with what is to be said below it."""
    names, body = _cells(table)
    return markdown(names, body, words=_LEFT, title=title, below=below)


def as_csv(table: Sequence[SegmentationRow]) -> str:
    """Return the table as CSV, unrounded, one column per field of `SegmentationRow`."""
    return csv_of(SegmentationRow, table)
