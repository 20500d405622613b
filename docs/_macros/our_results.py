"""Our own figures for a method, from the tables that the recipes wrote into docs/_tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from _macros.methods import ROOT, card
from _macros.stored_results import BASELINE

TABLES = {
    "cub10": "[birds](../results.md#birds-cub10)",
    "grocery60": "[groceries](../results.md#groceries-grocery60)",
    "pets3": "[pets](../results.md#pets-pets3)",
    "table3-demo": "[drawn world, Table 3](../results-demo.md#table-3-what-to-guide)",
    "table2-demo": "[drawn world, Table 2](../results-demo.md#table-2-rivals)",
    "table5-demo": "[drawn world, Table 5](../results-demo.md#table-5-transmix)",
    "table6-demo": "[drawn world, Table 6](../results-demo.md#tables-6-and-a-other-sources)",
    "table_a-demo": "[drawn world, Table A](../results-demo.md#tables-6-and-a-other-sources)",
}
"""The tables that are looked through, and what they are of."""

_SAID = (
    "Top-1 in percent, mean ± standard deviation over the seeds; *fine-tune* is plain fine-tuning with the "
    "same pictures. *On object* is the share of the class token's attention on the object, in percent, after "
    "plain fine-tuning → after this method. The pages behind the links say how it was measured and what it "
    "is worth: small sets, a small model and few steps."
)

Row = Mapping[str, str]


def method_results(name: str) -> str:
    """Return a method's rows of our tables, each beside plain fine-tuning with the same pictures.

    A run that several tables share is shown once.
    """
    found: dict[tuple[str, ...], str] = {}
    for table, of in TABLES.items():
        its_own = {row["method"] for row in rows_of(table)} & set(card(name).rows)
        shown = its_own.union(card(name).beside) if its_own else its_own
        for row in rows_of(table):
            if row["method"] in shown:
                source = f", source {row['source']}" if "source" in row else ""
                found.setdefault((row.get("data", "drawn world"), *_cells(table, row)), of + source)
    if not found:
        return "It was not measured."
    columns = ["method", "λ", "seeds", "fine-tune", "top-1", "gain", "on object"]
    sides = ["---", "--:", "--:", "--:", "--:", "--:", "---"]
    rows = [[f"{of}, {_unbroken(share)}", *cells] for (_, share, *cells), of in found.items()]
    kept = [i for i, column in enumerate(columns, 1) if column != "method" or len(card(name).rows) > 1]
    table_rows = [["pictures, trained on", *columns], ["---", *sides], *rows]
    lines = [f"| {' | '.join([row[0], *(row[i] for i in kept)])} |" for row in table_rows]
    is_drawn = all(data == "drawn world" for data, *_ in found)
    return "\n".join([*lines, "", _SAID, *(["", "On photographs it was not measured."] if is_drawn else [])])


def our_gains(*methods: str, tables: Sequence[str] = ("cub10", "grocery60", "pets3", "table3-demo")) -> str:
    """Return the gains of some methods on each of our sets of pictures, one column a method."""
    lines = [
        f"| pictures | trained on | λ | {' | '.join(methods)} |",
        f"|---|---|--:|{'--:|' * len(methods)}",
    ]
    for table in tables:
        rows = [row for row in rows_of(table) if row["method"] in methods]
        of = TABLES[table].replace("../", "")
        for trained_on, lam in dict.fromkeys((row["trained on"], row["λ"]) for row in rows):
            at = {
                row["method"]: row["gain"]
                for row in rows
                if (row["trained on"], row["λ"]) == (trained_on, lam)
            }
            gains = " | ".join(at.get(method, "").replace("-", "−") for method in methods)
            lines.append(f"| {of} | {trained_on} | {lam} | {gains} |")
    return "\n".join(lines)


def our_figure(
    table: str, method: str, trained_on: str, *, column: str = "gain", lam: str = "", source: str = ""
) -> str:
    """Return a cell of one of our tables, the gain unless another column is asked for.

    Raises:
        KeyError: there is not exactly one such row.
    """
    wanted = {"method": method, "trained on": trained_on, "λ": lam, "source": source}
    found = [row for row in rows_of(table) if all(row.get(k) == v for k, v in wanted.items() if v)]
    if len(found) != 1:
        raise KeyError(f"expected one row with {wanted} in docs/_tables/{table}.md, found {len(found)}")
    return found[0][column].replace("-", "−")


@cache
def rows_of(table: str) -> Sequence[Row]:
    """Return the rows of docs/_tables/TABLE.md by heading."""
    text = (ROOT / "docs" / "_tables" / f"{table}.md").read_text(encoding="utf-8")
    head, _, *body = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(head, cells, strict=True)) for cells in body]


def _cells(table: str, row: Row) -> tuple[str, ...]:
    """Return a row as it is shown, with plain fine-tuning on the same pictures from the same source."""
    same = ("data", "source", "trained on")
    (plain,) = [
        other
        for other in rows_of(table)
        if other["method"] == BASELINE and all(other.get(key) == row.get(key) for key in same)
    ]
    named = [row[key] for key in ("trained on", "method", "λ", "seeds")]
    on_object = "\N{NO-BREAK SPACE}→ ".join(
        _unbroken(one["on object"]) for one in (plain, row) if "on object" in one
    )
    return *named, plain["top-1"], row["top-1"], row["gain"].replace("-", "−"), on_object


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")
