"""What each method adds to LP-FT on photographs, from the tables that `recipes/compare.py` wrote."""

from __future__ import annotations

from collections.abc import Sequence

from _macros.methods import CARDS
from _macros.tables import Row, figure, rows_of
from engine.results.rows import START
from vitreg.train.training.methods import BASELINE

TABLES = (
    "compare-near",
    "compare-far",
    "compare-wise",
    "compare-rows",
    "compare-co-tuning",
    "compare-outlines",
    "compare-two-passes",
    "compare-all-near",
    "compare-all-groceries",
    "compare-all-cars",
)
"""The tables with rows of LP-FT and something else, those of most seeds first: of a row the first counts."""

PICTURES = {
    "cub10": "10 birds",
    "pets3": "pets",
    "cub36": "36 birds",
    "grocery60": "groceries",
    "cars98": "cars",
}
"""What the pictures of each set are of, the nearest to ImageNet first."""

NOTE = (
    "Points of top-1 beside LP-FT without it, with five pictures of each class and ten passes, and the 95 % "
    "interval over test pictures and seeds. Bold: it does not contain 0. Italics: one seed, so it covers the "
    "pictures alone."
)


def beside_lp_ft(card: str = "") -> str:
    """Return what the rows of a card, or all rows, add to LP-FT: a line a method, a column a data set."""
    pages = {_from_probe(row): page for page, of in CARDS.items() for row in of.rows if card in ("", page)}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in (row for table in TABLES for row in rows_of(table)):
        if row["start_gain"] and (row["method"] in pages or not card):
            found.setdefault((row["method"], figure(row, "λ")), []).append(row)
    if not found:
        return ""
    measured = {row["data"] for rows in found.values() for row in rows}
    shown = {data: title for data, title in PICTURES.items() if data in measured}
    if not card:
        shown.pop("cub10")  # which few rows have
    order = [*pages, *(method for method, _ in found)]  # those without a card come last
    lines = [
        f"| added to LP-FT | λ | {' | '.join(shown.values())} |",
        "|---" + "|--:" * (len(shown) + 1) + "|",
    ]
    probed = [
        row for table in TABLES for row in rows_of(table) if row["method"] == START and row["probe_gain"]
    ]
    gains = (_gain(probed, data, "probe") for data in shown)
    lines.append(f"| {START} beside the linear probe | | {' | '.join(gains)} |")
    for (method, lam), rows in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        title = method.removeprefix(f"{START}+")
        linked = f"[{title}]({pages[method]}.md)" if method in pages and not card else title
        cells = [linked, lam, *(_gain(rows, data, "start") for data in shown)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", NOTE if not card else f"{NOTE} [All methods](index.md#measured)."])


def _from_probe(row: str) -> str:
    """Return the row of LP-FT with what a row of the paper's table adds to fine-tuning."""
    return f"{START}+{row.removeprefix(f'{START}+').removeprefix(f'{BASELINE}+')}"


def _gain(rows: Sequence[Row], data: str, over: str) -> str:
    """Return the gain over the start or the probe within its interval, as the note says."""
    for row in (row for row in rows if row["data"] == data):
        text = figure(row, f"{over}_gain within").replace(" ", "\N{NO-BREAK SPACE}")
        is_chance = float(row[f"{over}_gain_low"]) <= 0 <= float(row[f"{over}_gain_high"])
        return f"*{text}*" if int(row["num_seeds"]) < 2 else text if is_chance else f"**{text}**"
    return ""
