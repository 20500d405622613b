"""How many pictures a data set has, beside the paper's Table 1. No picture is opened here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.results.paper import paper_rows
from vitreg.errors import InputError
from vitreg.train.basics.tables import TextTable
from vitreg.train.data.samples import Folder
from vitreg.train.data.subset import Share, stratified_indices

RATES = (0.15, 0.3, 0.5, 1.0)
_COUNTED = {"data": "data", "classes": "classes", "training": "train", "test": "test"}


@dataclass(frozen=True)
class Counts:
    """A data set as found; `paper_…` is None where the paper has no such data set.

    `at_…` is the size of the engine's subset (the same for each seed), None where a class would be empty.
    `objects` says how the object is known in all pictures: by box, trimap, or not.
    """

    data: str
    classes: int
    train: int
    test: int
    at_15: int | None
    at_30: int | None
    at_50: int | None
    at_100: int | None
    objects: str
    paper_classes: int | None
    paper_train: int | None
    paper_test: int | None

    @property
    def differences(self) -> list[str]:
        """Where the data set is not the paper's, in words."""
        pairs = {
            "classes": (self.classes, self.paper_classes),
            "training pictures": (self.train, self.paper_train),
            "test pictures": (self.test, self.paper_test),
        }
        return [
            f"{self.data}: {found} {what}, {printed} in the paper"
            for what, (found, printed) in pairs.items()
            if printed is not None and found != printed
        ]


def read_paper_counts() -> dict[str, tuple[int, int, int]]:
    """Return the paper's classes, training and test pictures by the lower-case name of the data set."""
    rows = paper_rows("table1")
    return {r["dataset"].lower(): (int(r["classes"]), int(r["train"]), int(r["test"])) for r in rows}


def count(name: str, folder: Folder) -> Counts:
    """Return the counts of a data set beside the paper's."""
    samples = (*folder.train, *folder.test)
    kinds = {"trimap" if s.trimap is not None else "box" if s.box is not None else "" for s in samples}
    objects = kinds.pop() if len(kinds) == 1 else ""
    sizes = len(folder.classes), len(folder.train), len(folder.test)
    paper = read_paper_counts().get(name.lower(), (None, None, None))
    at_15, at_30, at_50, at_100 = (_subset(folder, rate) for rate in RATES)
    return Counts(name, *sizes, at_15, at_30, at_50, at_100, objects, *paper)


def _subset(folder: Folder, rate: float) -> int | None:
    labels = [sample.label for sample in folder.train]
    try:
        return len(stratified_indices(labels, Share(rate=rate), seed=0, classes=folder.classes))
    except InputError:
        return None


def notes(rows: Sequence[Counts]) -> list[str]:
    """Return where the data sets differ from the paper's."""
    known = [row for row in rows if row.paper_train is not None]
    said = [text for row in known for text in row.differences]
    if same := [row.data for row in known if not row.differences]:
        said.append(f"as in the paper: {', '.join(same)}")
    if any(row.at_15 is None or row.at_30 is None or row.at_50 is None for row in rows):
        said.append("–: a class would be left without a picture.")
    return said


def text_table(rows: Sequence[Counts]) -> TextTable:
    """Return the counts as text."""
    columns = {name: [str(getattr(row, field)) for row in rows] for name, field in _COUNTED.items()}
    for rate in RATES:
        at = [getattr(row, f"at_{100 * rate:g}") for row in rows]
        columns[f"{100 * rate:g} %"] = ["–" if value is None else str(value) for value in at]
    columns["object"] = [row.objects for row in rows]
    for name in ("classes", "train", "test"):
        columns[f"paper: {name}"] = [str(getattr(row, f"paper_{name}") or "") for row in rows]
    return TextTable(columns, ("data", "object"))
