"""Gains over fine-tuning: the paper's, and ours beside them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from _macros.our_tables import markdown
from _macros.paper import PRE_TRAINED, minus_signed, paper_gains, read_paper
from _macros.stored_results import Gain, gains, read_result

OURS: Mapping[str, tuple[str, ...]] = {
    "table2": ("table2-demo",),
    "table3": ("table3-demo", "cub10", "grocery60"),
    "table5": ("table5-demo",),
    "table6": ("table6-demo",),
    "table_a": ("table_a-demo",),
}
"""Our tables that have methods of the paper's. Those on photographs are of table 3's recipe."""


def beside_the_paper(name: str, only: str = "") -> str:
    """Return gains over fine-tuning with the same pictures as Markdown: the paper's, and ours where measured.

    The paper's is the mean over its data sets, then the smallest and the largest of them. Ours are
    mean ± standard deviation of the seeds' gains, at each λ where there are several. With `only`, a table
    of ours, its rows alone.

    Raises:
        ValueError: Nothing of ours stands beside such a table.
    """
    if name == "table4":
        return _jaccards()
    if name not in OURS:
        raise ValueError(f"expected one of {', '.join(OURS)} or table4; found {name!r}")
    ahead, ours = paper_gains(name), {one: gains(one) for one in ([only] if only else OURS[name])}
    methods = {method for _, _, method in ahead}
    cells = ours[only] if only else {**ahead, **{cell: [] for found in ours.values() for cell in found}}
    columns: dict[str, list[str]] = {"trained on": [], "source": [], "method": [], "paper": []}
    columns |= {"its data sets": [], **{f"{_title(one)}, {_seeds(one)} seeds": [] for one in ours}}
    for source, share, method in cells:
        if method not in methods:
            continue
        paper = ahead.get((source, share, method), {}).values()
        texts = [
            *(share, source, method, minus_signed(fmean(paper)) if paper else ""),
            f"{minus_signed(min(paper))} … {minus_signed(max(paper))}" if paper else "",
            *(_gains(found.get((source, share, method), [])) for found in ours.values()),
        ]
        for column, text in zip(columns.values(), texts, strict=True):
            column.append(text)
    kept = {heading: column for heading, column in columns.items() if any(column)}
    return markdown(list(kept), zip(*kept.values(), strict=True))


def gains_by_lam() -> str:
    """Return what GTA gains at each λ, as Markdown: in the drawn world and on birds."""
    found = {"drawn world": gains("figure4-demo"), "cub10": gains("figure4-cub10")}
    columns = {
        f"{title}, {share}": {gain.lam: gain for gain in each}
        for title, by_cell in found.items()
        for (_, share, _), each in by_cell.items()
    }
    lams = sorted({lam for by_lam in columns.values() for lam in by_lam if lam is not None})
    rows = [
        [f"{lam:g}", *(_gains([one[lam]]) if lam in one else "" for one in columns.values())] for lam in lams
    ]
    return markdown(["λ", *columns], rows)


def _jaccards() -> str:
    printed = {row["model"]: float(row["jaccard"]) for row in read_paper("table4")}
    rows = []
    for row in read_result("table4-demo"):
        if row["model"] != "source":
            paper = minus_signed(printed[row["model"]] - printed[PRE_TRAINED], 3)
            rows.append(
                [row["model"], paper, f"{minus_signed(float(row['gain']), 3)} ± {float(row['std']):.3f}"]
            )
    return markdown(["model", "paper", f"drawn world, {_seeds('table4-demo')} seeds"], rows)


def _gains(found: list[Gain]) -> str:
    at = [f" (λ {gain.lam:g})" if len(found) > 1 else "" for gain in found]
    std = ["" if gain.std is None else f" ± {gain.std:.1f}" for gain in found]
    return "<br>".join(f"{minus_signed(g.mean)}{s}{a}" for g, s, a in zip(found, std, at, strict=True))


def _title(name: str) -> str:
    return "drawn world" if name.endswith("-demo") else name


def _seeds(name: str) -> str:
    rows = read_result(name)
    found = {row["num_seeds"] for row in rows if "source" not in (row.get("method"), row.get("model"))}
    return "/".join(sorted(found))


MACROS = (beside_the_paper, gains_by_lam)
"""What pages may ask for."""
