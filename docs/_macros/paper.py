"""The numbers that the paper prints (arXiv 2401.02656), as the recipes read them."""

from __future__ import annotations

from _macros.methods import card
from _macros.results import BASELINE, RESULTS, signed
from engine.results.paper import read_paper_table
from vitreg.train.data.subset import Share


def method_in_the_paper(name: str) -> str:
    """Return a method's rows of the paper's table, with those of plain fine-tuning."""
    table = card(name).paper
    if not table:
        return "The [GTA paper](https://arxiv.org/abs/2401.02656) does not compare itself with it."
    shown = (BASELINE, *card(name).beside, *card(name).rows)
    head, rule, *rows = (RESULTS / "paper" / f"{table}.md").read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if row.split(" | ")[1] in shown and row.startswith(("| 15 %", "| 100 %"))]
    source = (
        f"Top-1 in percent, Table {table.removeprefix('table')} of the "
        "[GTA paper](https://arxiv.org/abs/2401.02656): ViT-S/16 pre-trained by iBOT, a share of each class."
    )
    return "\n".join([head, rule, *kept, "", source])


def paper_gain(method: str, rate: int, data: str = "", *, table: str = "table2") -> str:
    """Return by how much a method is ahead of plain fine-tuning in the paper, in points.

    On a data set, or in the mean over all of them.

    Raises:
        KeyError: The paper's table has no such figure.
    """
    printed, share = read_paper_table(table), Share(rate=rate / 100)
    ours, plain = (printed.number(data, one, share) for one in (method, BASELINE))
    if ours is None or plain is None or (data and printed.same_data(data) is None):
        raise KeyError(f"the paper's {table} has no {method} at {rate} % on {data or 'all data sets'}")
    return signed(ours - plain)
