"""What a model makes of each test picture, as a small file: methods are compared picture by picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vitreg.errors import InputError
from vitreg.train.basics.tables import csv_text
from vitreg.train.data.dataset import Task
from vitreg.train.runs.report import Report
from vitreg.wording import cell

PREDICTIONS = "predictions.csv"
"""The name of the file in a run's folder."""


RANKS = {"predicted": "probability", "second": "second_probability", "third": "third_probability"}
"""The columns of the most probable classes, and those of their probabilities."""


def predictions(
    names: Sequence[str], classes: Sequence[str], probabilities: Tensor, labels: Sequence[int] | None = None
) -> str:
    """Return a CSV: path, true class (where it is known), and the three most probable classes.

    The first is `predicted`, with its `probability`, the others `second` and `third`.

    Args:
        names: of the pictures.
        classes: their names.
        probabilities: the probability of each class, [pictures, classes].
        labels: the index of each picture's true class.
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


def task_predictions(task: Task, logits: Tensor) -> str:
    """Return the predictions of a task's test pictures as a CSV, named by their files or else their numbers.

    Args:
        task: the test pictures, their classes and labels.
        logits: of every test picture, [pictures, classes].
    """
    names = task.test_names or tuple(map(str, range(len(task.test_labels))))
    return predictions(names, task.classes, logits.float().softmax(1), task.test_labels)


def kept_right(out: Path, report: Report) -> tuple[bool, ...] | None:
    """Return `stored_right` of a run in `out`, or None where its predictions were not kept."""
    folder = out / report.configuration.folder
    return stored_right(folder) if (folder / PREDICTIONS).is_file() else None


def stored_right(folder: Path) -> tuple[bool, ...]:
    """Return for each picture that a finished run was measured on whether it was right, in their order.

    Raises:
        InputError: The run's predictions cannot be read.
    """
    path = folder / PREDICTIONS
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return tuple(row["true"] == row["predicted"] for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise InputError(
            f"{path} is broken ({type(error).__name__}); delete the run's folder to run it again"
        ) from error
