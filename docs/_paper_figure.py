"""Draw the gains over fine-tuning of the paper and of our own runs, one below the other.

    python docs/_paper_figure.py                # docs/assets/ours-beside-paper.png
    python docs/_paper_figure.py some/file.png

The numbers are those of the page "Ours beside the paper's".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from _macros.paper import paper_gains
from _macros.stored_results import DOCS, Gain, gains

PICTURE = DOCS / "assets" / "ours-beside-paper.png"
SHARES = ("15 %", "100 %")
ROWS: Mapping[str, tuple[str, ...]] = {
    "table2": ("L2-SP", "BSS", "attention-only", "ffn-only", "GTA"),
    "table3": ("block-output", "msa-output", "GTA"),
    "table5": ("fine-tune+TransMix", "GTA", "GTA+TransMix"),
}
NAMES = {
    "attention-only": "attention only",
    "ffn-only": "FFN only",
    "block-output": "block output",
    "msa-output": "MSA output",
    "fine-tune+TransMix": "TransMix",
    "GTA+TransMix": "GTA + TransMix",
}

# Okabe and Ito's colours, which the colour-blind can tell apart; shapes for those who see grey.
DRAWN, CUB, GROCERY, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
OURS = (
    ("drawn world", None, {"marker": "o", "color": DRAWN}),
    ("cub10", 10.0, {"marker": "s", "color": CUB}),
    ("grocery60", 1.0, {"marker": "^", "color": GROCERY, "markerfacecolor": "white"}),
    ("grocery60", 10.0, {"marker": "^", "color": GROCERY}),
)
"""What is ours, the λ of the guides on photographs, and how it is drawn."""


def main(argv: Sequence[str]) -> int:
    """Write the figure to the file in `argv`, or into the site's pictures."""
    if len(argv) > 1:
        print("expected no arguments or one, the file to write", file=sys.stderr)
        return 2
    draw().savefig(argv[0] if argv else PICTURE, dpi=160, facecolor="white", metadata={"Software": None})
    return 0


def draw() -> Figure:
    """Return the figure: a panel for each share of the training pictures, a row for each method."""
    figure = Figure(figsize=(5.4, 10.8), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for panel, share in zip(panels, SHARES, strict=True):
        _panel(panel, share)
        panel.set_title(f"{share} of the training pictures", fontsize=13, loc="left", weight="bold")
    panels[-1].set_xlabel("points of top-1 over plain fine-tuning", fontsize=12)
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper left", ncols=2, fontsize=11, frameon=False
    )
    return figure


def _panel(panel: Axes, share: str) -> None:
    places: dict[float, str] = {}
    height = 0.0
    for table, methods in ROWS.items():
        for method in methods:
            places[height] = NAMES.get(method, method)
            _paper(panel, height - 0.27, tuple(paper_gains(table)["", share, method].values()))
            _ours(panel, height, table, share, method)
            height += 1
        label = f"Table {table.removeprefix('table')}"
        top = height - len(methods) - 0.45
        panel.text(0.01, top, label, va="top", fontsize=11, transform=panel.get_yaxis_transform())
        if table != "table5":
            panel.axhline(height - 0.35, color="black", linewidth=0.6)
        height += 0.3
    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(list(places), list(places.values()), fontsize=12)
    panel.tick_params(axis="x", labelsize=12, labelbottom=True)
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(height - 0.6, -0.7)
    panel.grid(axis="x", color="#DDDDDD")
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _paper(panel: Axes, height: float, of_each: Sequence[float]) -> None:
    heights = [height] * len(of_each)
    panel.plot([min(of_each), max(of_each)], [height] * 2, color=GREY, linewidth=1.2)
    panel.plot(
        list(of_each), heights, "|", color=GREY, markersize=9, markeredgewidth=1.8, label="paper, a data set"
    )
    panel.plot(fmean(of_each), height, "D", color="black", markersize=6.5, label="paper, mean of its five")


def _ours(panel: Axes, height: float, table: str, share: str, method: str) -> None:
    for step, (title, lam, style) in enumerate(OURS):
        name = f"{table}-demo" if lam is None else title
        if lam is not None and table != "table3":  # the recipe of the photographs
            continue
        found = gains(name).get(("", share, method), [])
        for gain in found:
            if lam is None or gain.lam == lam:
                place = height + (-0.02, 0.18, 0.36, 0.36)[step]
                _point(panel, place, gain, title if lam is None else f"{title}, λ = {lam:g}", style)


def _point(panel: Axes, height: float, gain: Gain, label: str, style: Mapping[str, Any]) -> None:
    panel.errorbar(
        gain.mean,
        height,
        xerr=gain.std,
        label=label,
        markersize=6.5,
        elinewidth=1.3,
        linestyle="none",
        **style,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
