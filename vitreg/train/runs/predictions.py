"""What a model makes of each test picture, as a small file: methods are compared picture by picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vitreg.errors import InputError
from vitreg.train.basics.tables import csv_text
from vitreg.train.runs.report import Configuration, Report
from vitreg.wording import cell

PREDICTIONS = "predictions.csv"
"""The name of the file in a run's folder."""


RANKS = {"predicted": "probability", "second": "second_probability", "third": "third_probability"}
"""The columns of the most probable classes, and those of their probabilities."""


def predictions(
    names: Sequence[str], classes: Sequence[str], probabilities: Tensor, labels: Sequence[int] | None = None
) -> str:
    """Return a CSV: path, true class (where it is known), and the three most probable classes.

    The first is `predicted`, with its `probability`, the others `second` and `third`. `names` are the
    pictures' files, `probabilities` [pictures, classes], and `labels` the indices of the true classes.
    """
    values, places = most_probable(probabilities, min(len(RANKS), len(classes)))
    ranks = [column for rank in list(RANKS)[: places.shape[1]] for column in (rank, RANKS[rank])]
    rows = [["path", *([] if labels is None else ["true"]), *ranks]]
    for index, name in enumerate(names):
        true = [] if labels is None else [cell(classes[labels[index]])]
        best = zip(places[index].tolist(), values[index].tolist(), strict=True)
        ranked = [entry for place, value in best for entry in (cell(classes[place]), f"{value:.4f}")]
        rows.append([cell(name), *true, *ranked])
    return csv_text(rows)


def most_probable(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest of each row, and their places; of equals the first comes first, as in argmax.

    In bfloat16 equals are common, and `topk` returns them in any order.
    """
    values, places = probabilities.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], places[..., :k]


def kept_right(out: Path, report: Report) -> tuple[bool, ...] | None:
    """Return `stored_right` of a run in `out`, or None where its predictions were not kept."""
    c = report.configuration
    return stored_right(out, c) if (out / c.folder / PREDICTIONS).is_file() else None


def stored_right(out: Path, configuration: Configuration) -> tuple[bool, ...]:
    """Return for each picture that a run in `out` was measured on whether it was right, in their order.

    Raises:
        InputError: The run's predictions cannot be read.
    """
    path = out / configuration.folder / PREDICTIONS
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return tuple(row["true"] == row["predicted"] for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise InputError(
            f"{path} is broken ({type(error).__name__}); delete the run's folder to run it again"
        ) from error
