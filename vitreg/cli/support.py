"""The support table that comes with vitreg: every model it was tried on, by name."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from importlib.resources import files

OUTPUTS = (
    *("msa_output", "block_output", "cls_output", "patch_output", "pooled_output"),
    *("queries", "keys", "values", "features", "class_logits"),
)
"""The extractors that read no query's attention, in the order of the table."""


@dataclass(frozen=True)
class SupportRow:
    """What was found of one model.

    Attributes:
        library: whose model it is.
        name: its name there.
        family: its class.
        attention: the attention classes in its blocks.
        class_token: "yes", "no", or "last blocks".
        params: how many parameters it has, with timm's classifier; None for a class of models of any size.
        size: side of its pictures in pixels, or None as well.
        queries: whose attention can be read: "cls", "mean", "pool".
        outputs: the extractors beside attention that can be read, those of `OUTPUTS` at most.
        error: the largest difference of a logit from what enters the model's own softmax, in float32 on a
            CPU, or None where no logits are read.
        note: what was found instead of one attention over the whole picture.
    """

    library: str
    name: str
    family: str
    attention: str
    class_token: str
    params: int | None
    size: int | None
    queries: str
    outputs: str
    error: float | None
    note: str

    @property
    def outputs_in_words(self) -> str:
        """How many of `OUTPUTS` can be read, or nothing where the whole model is refused."""
        return f"{len(self.outputs.split(', ')):>2} of {len(OUTPUTS)}" if self.outputs else ""


def support_rows() -> list[SupportRow]:
    """Return the whole table, in its order."""
    text = files("vitreg").joinpath("support.csv").read_text(encoding="utf-8")
    return [
        SupportRow(
            line["library"],
            line["name"],
            line["family"],
            line["attention"],
            line["class_token"],
            int(line["params"]) if line["params"] else None,
            int(line["size"]) if line["size"] else None,
            line["queries"],
            line["outputs"],
            float(line["error"]) if line["error"] else None,
            line["note"],
        )
        for line in csv.DictReader(io.StringIO(text, newline=""))
    ]
