"""Our own figures, from the tables that the recipes wrote into `docs/results/NAME/`, and the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from _macros.from_probe import beside_lp_ft
from _macros.methods import card
from _macros.tables import RESULTS, Row, figure, rows_of, signed
from engine.results.paper import read_paper_table
from vitreg.train.data.subset import Share
from vitreg.train.training.methods import BASELINE

TABLES = {
    "cub10": "[birds](../results.md#birds-cub10)",
    "grocery60": "[groceries](../results.md#groceries-grocery60)",
    "pets3": "[pets](../results.md#pets-pets3)",
    "table3-demo": "[drawn world, Table 3](../paper.md#table-3-what-to-guide)",
    "table2-demo": "[drawn world, Table 2](../paper.md#table-2-the-rivals)",
    "table5-demo": "[drawn world, Table 5](../paper.md#table-5-transmix)",
    "table6-demo": "[drawn world, Table 6](../paper.md#table-6-supervised-or-self-supervised)",
    "table_a-demo": "[drawn world, Table A](../paper.md#table-a-dino-or-ibot)",
}
"""The tables whose rows the cards show, and what they are of."""


def method_results(name: str) -> str:
    """Return a method's rows of our tables, each beside plain fine-tuning with the same pictures.

    The cards show a run once that several tables share.
    """
    found: dict[tuple[str, ...], str] = {}
    for table, of in TABLES.items():
        rows = rows_of(table)
        its_own = {row["method"] for row in rows} & set(card(name).rows)
        for row in rows:
            if row["method"] in (its_own.union(card(name).beside) if its_own else ()):
                source = f", source {row['source']}" if row["source"] else ""
                found.setdefault((row["data"], *_cells(rows, row)), of + source)
    added = beside_lp_ft(name)
    if not found:
        return added or "It was not measured."
    head = ["pictures", "trained on", "method", "λ", "seeds", "fine-tune", "top-1", "gain", "on object"]
    lines = [f"| {' | '.join(head)} |", "|---|---|---|--:|--:|--:|--:|--:|---|"]
    lines += [f"| {' | '.join([of, *cells])} |" for (_, *cells), of in found.items()]
    note = (
        "Top-1 in percent, mean ± standard deviation over the seeds. *On object* is the share of the class "
        "token's attention on the object, in percent, after plain fine-tuning → after this method. The sets "
        "are small, the model is small and the training is short: the linked pages say more."
    )
    if not added and all(data == "demo" for data, *_ in found):
        added = "It was not measured on photographs."
    return "\n".join([*lines, "", note, "", added]).rstrip()


def our_figure(
    table: str, method: str, share: str, *, column: str = "gain", lam: str = "", **where: str
) -> str:
    """Return a cell of one of our tables, the gain unless another column is asked for.

    Where several rows have the method, `where` says which: data=…, source=… or tested_on=….

    Raises:
        KeyError: There is not exactly one such row.
    """
    wanted = {"method": method, "share": share, **where}
    rows = [row for row in rows_of(table) if all(row[key] == value for key, value in wanted.items())]
    rows = [row for row in rows if not lam or figure(row, "λ") == lam]
    if len(rows) != 1:
        raise KeyError(f"expected one row with {wanted}, λ {lam} in docs/results/{table}, found {len(rows)}")
    return figure(rows[0], column)


def _cells(rows: Sequence[Row], row: Row) -> list[str]:
    """Return a row as the cards show it, with plain fine-tuning on the same pictures from the same source."""
    same = ("data", "source", "share", "block")
    (plain,) = (
        other for other in rows if other["method"] == BASELINE and all(other[key] == row[key] for key in same)
    )
    looks = [figure(one, "on object") for one in (plain, row)] if row["object_share"] else []
    cells = [row["share"], row["method"], figure(row, "λ"), row["num_seeds"], figure(plain, "top-1")]
    cells += [figure(row, "top-1"), figure(row, "gain"), " → ".join(looks)]
    return [cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in cells]


def method_in_the_paper(name: str) -> str:
    """Return a method's rows of the paper's table, with those of plain fine-tuning."""
    table = card(name).paper
    if not table:
        return "The [GTA paper](https://arxiv.org/abs/2401.02656) does not test it."
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
