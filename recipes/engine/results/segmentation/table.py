"""From measured Jaccard indices to the rows of table 4, and the rows as text. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from engine.results.paper import paper_rows
from engine.results.rows import mean_std, minus
from engine.results.segmentation.jaccard import Segmentation
from vitreg.train.basics.tables import TextTable, number, signed
from vitreg.train.data.official.voc import VOC
from vitreg.train.training.methods import SOURCE

PRE_TRAINED = "pre-trained (SSL)"
"""What the paper calls the model before any training."""


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
    rows = ((row["model"], float(row["jaccard"])) for row in paper_rows("table4"))
    return {SOURCE if model == PRE_TRAINED else model: value for model, value in rows}


def segmentation_rows(
    data: str, found: Mapping[str, Sequence[Segmentation]], *, block: int, mass: float
) -> list[SegmentationRow]:
    """Return a row for each method of `found`: what `segmentation_jaccard` returned for each of its seeds.

    `block` is counted from 0. The pre-trained model, measured once, is `SOURCE`.
    """
    printed, table = read_paper_jaccard(), []
    before = fmean(one.jaccard for one in found[SOURCE])
    for method, results in found.items():
        mean, std = mean_std([one.jaccard for one in results])
        table.append(
            SegmentationRow(
                data=data,
                model=method,
                num_seeds=len(results),
                block=block,
                mass=mass,
                jaccard=fmean(one.jaccard for one in results),
                std=std,
                gain=None if method == SOURCE else minus(mean, before),
                mean_attention=fmean(one.mean_attention for one in results),
                foreground=fmean(one.foreground for one in results),
                whole_picture=results[0].whole_picture,
                paper=printed.get(method),
                paper_gain=None if method == SOURCE else minus(printed.get(method), printed[SOURCE]),
                is_paper_data=data == VOC.name,
                num_pictures=results[0].num_pictures,
                num_left_out=results[0].num_left_out,
            )
        )
    return table


def notes(table: Sequence[SegmentationRow]) -> list[str]:
    """Return what has to be said below the table for it to be read rightly."""
    said = []
    if seeds := sorted({row.num_seeds for row in table if row.model != SOURCE}):
        said.append(
            f"mean ± standard deviation over {'/'.join(map(str, seeds))} seed(s); gain: over {SOURCE}."
        )
    for row in {row.data: row for row in table}.values():
        blocks = sorted({other.block for other in table if other.data == row.data})
        said.append(
            f"{row.data}: Jaccard: of each class's pixels and the patches that hold {100 * row.mass:g} % "
            f"of the [CLS] attention of its best head in block {'/'.join(map(str, blocks))} (counted from "
            "0); mean attention: of all heads instead of the best; objects as one: not class by class. The "
            f"whole picture would score {row.whole_picture:.3f}. {_count_in_words(row)}"
        )
    if any(row.is_paper_data for row in table):
        said.append(
            "paper: its model, its size of the pictures and its share of the attention are not known."
        )
    if any(row.paper is not None and not row.is_paper_data for row in table):
        said.append("paper: on PASCAL VOC 2012 val, which are other pictures: compare the gains.")
    return said


def _count_in_words(row: SegmentationRow) -> str:
    total = row.num_pictures + row.num_left_out
    if not row.num_left_out:
        return f"{total} pictures."
    return f"{row.num_pictures} of {total} pictures: {row.num_left_out} without any object are not counted."


def text_table(table: Sequence[SegmentationRow]) -> TextTable:
    """Return the rows as text."""
    columns = {
        "data": [row.data for row in table],
        "model": [row.model for row in table],
        "seeds": ["" if row.model == SOURCE else str(row.num_seeds) for row in table],
        "block": [str(row.block) for row in table],
        "Jaccard": [number(row.jaccard, digits=3, std=row.std) for row in table],
        "gain": [signed(row.gain, digits=3) for row in table],
        "paper": [number(row.paper, digits=3) for row in table],
        "paper's gain": [signed(row.paper_gain, digits=3) for row in table],
        "mean attention": [number(row.mean_attention, digits=3) for row in table],
        "objects as one": [number(row.foreground, digits=3) for row in table],
    }
    return TextTable(columns, ("data", "model"))
