"""The methods that have a card: what each is in the code, and what it is called in tables and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import vitreg

ROOT = Path(__file__).resolve().parents[2]

SECTIONS = (
    "Formula",
    "Use",
    "What it reads and costs",
    "In the paper",
    "Our results",
    "Differences",
    "When not to use it",
    "Source",
    "API",
)
"""The sections of a card, in order; above them is the method's sentence."""


class Card(NamedTuple):
    """A method with a page of its own.

    Attributes:
        title: its name, as a heading.
        thing: its class or function; sentence, formula and source are in its docstring.
        api: its place in the API.
        rows: what it is called in the tables of the paper and in ours.
        beside: methods that these tables show beside it, next to plain fine-tuning.
        paper: the paper's table that has these rows, a file of recipes/paper.
        steps: what its steps are called in benchmarks/results.
        reads: the extractor that it reads, where it is no penalty that says so itself.
        files: the files whose departures from the paper (`NOTE[DIFF]`) concern it.
    """

    title: str
    thing: Callable[..., Any]
    api: str
    rows: tuple[str, ...]
    paper: str
    steps: tuple[str, ...] = ()
    reads: str = ""
    beside: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


CARDS = {
    "gta": Card(
        "GTA",
        vitreg.GTA,
        "penalties.md#vitreg.GTA",
        rows=("GTA",),
        paper="table2",
        steps=("GTA", "GTA, remembered source", "GTA, every 4th step", "GTA, source in bfloat16"),
        files=(
            "vitreg/extractors/attn_logits.py",
            "vitreg/functional/squared_distance.py",
        ),
    ),
    "feature-guide": Card(
        "Feature guide",
        vitreg.FeatureGuide,
        "penalties.md#vitreg.FeatureGuide",
        rows=("block-output", "msa-output"),
        paper="table3",
        steps=(
            "block-output guide",
            "MSA-output guide",
            "attention guide",
            "feature guide",
            "block-output guide, middle block",
        ),
        files=("vitreg/functional/squared_distance.py",),
    ),
    "l2sp": Card(
        "L2-SP",
        vitreg.L2SP,
        "penalties.md#vitreg.L2SP",
        rows=("L2-SP",),
        paper="table2",
        steps=("L2-SP",),
        files=(
            "vitreg/penalties/l2sp.py",
            "vitreg/train/training/methods.py",
            "benchmarks/rivals.py",
        ),
    ),
    "bss": Card(
        "BSS",
        vitreg.BSS,
        "penalties.md#vitreg.BSS",
        rows=("BSS",),
        paper="table2",
        steps=("BSS",),
    ),
    "transmix": Card(
        "TransMix",
        vitreg.TransMix,
        "train.md#vitreg.TransMix",
        rows=("fine-tune+TransMix", "GTA+TransMix"),
        beside=("GTA",),
        paper="table5",
        steps=("CutMix", "TransMix"),
        reads="attn_probs",
        files=(
            "vitreg/augment/transmix.py",
            "vitreg/train/training/hyperparameters.py",
        ),
    ),
    "freeze": Card(
        "Freeze",
        vitreg.freeze,
        "train.md#vitreg.parameters.freeze.freeze",
        rows=("attention-only", "ffn-only"),
        paper="table2",
        files=("vitreg/parameters/freeze.py",),
    ),
}
"""The cards by the name of their page, in the order of the site."""


def card(name: str) -> Card:
    """Return the card of a page.

    Raises:
        KeyError: there is no such card.
    """
    if name not in CARDS:
        raise KeyError(f"expected a method with a card ({', '.join(CARDS)}), found {name!r}")
    return CARDS[name]
