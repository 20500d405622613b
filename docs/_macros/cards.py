"""The methods' cards, one page each, and their overview: all that is not written by hand."""

from __future__ import annotations

import re
from typing import TypeGuard

from _macros.costs import LATER, MAIN, reports, step_cost
from _macros.docstrings import method_source
from _macros.methods import CARDS, ROOT, card
from vitreg.attachment.alignment import runs_source
from vitreg.extractors import extractors
from vitreg.penalties.base import GivenPenalty, ParameterPenalty, PassPenalty, Penalty, ReadingPenalty
from vitreg.projections import Projection


def method_reads(name: str) -> str:
    """Return what a method looks at, and whether the source runs."""
    made = _penalty(name)
    if isinstance(made, ParameterPenalty):
        return (
            "It reads the model's weights and nothing of a forward pass. The source does not run: it is "
            "where the weights started."
        )
    thing = card(name).thing
    if _is_projection(thing):
        what = "weights and gradients" if thing.reads_gradient else "weights"
        return f"It reads the model's {what} at each step, and keeps a copy of the source's weights."
    extractor = made.extractor if isinstance(made, ReadingPenalty) else card(name).reads
    if not extractor:
        return "It reads nothing of the model. No source is kept or run."
    says = (extractors[extractor].probe.__doc__ or "").splitlines()[0].removeprefix("Read ").rstrip(".")
    which = "what `reads` names, by default " if hasattr(made, "reads") else ""
    source = "No source is kept or run."
    if isinstance(made, ReadingPenalty) and made.needs_source:
        source = "It uses only the source's head; the source does not run."
    if isinstance(made, ReadingPenalty) and runs_source(made):
        source = "The source runs on every batch, without gradient, no further than the deepest block read."
    return f"It reads {which}[`{extractor}`](../api/read.md): {says}. {source}"


def method_api(name: str) -> str:
    """Return a link to a method's place in the API."""
    return f"[`vitreg.{card(name).thing.__name__}`](../api/{card(name).api})"


def penalties_api() -> str:
    """Return the reference of every penalty that vitreg brings, in the order of the cards."""
    return "\n\n".join(f"::: vitreg.{of.thing.__name__}" for name, of in CARDS.items() if _penalty(name))


def names_on(page: str) -> str:
    """Return the names that a page of the API shows, in its order."""
    text = (ROOT / "docs" / "api" / page).read_text(encoding="utf-8")
    text = text.replace("{{ penalties_api() }}", penalties_api())
    names = re.findall(r"^::: vitreg\.(?:\w+\.)*(\w+)$", text, re.MULTILINE)
    return ", ".join(f"`{name}`" for name in names)


def _is_projection(thing: object) -> TypeGuard[type[Projection]]:
    return isinstance(thing, type) and issubclass(thing, Projection)


def methods_table() -> str:
    """Return all methods in one table: what each holds, costs and needs, and when to try it first."""
    lines = [
        "| method | holds | step | needs | default λ | try it first | from |",
        "|---|---|--:|---|--:|---|---|",
    ]
    for name, of in CARDS.items():
        made, source = _penalty(name), method_source(name).partition(", ")[0].removeprefix("Source: ")
        lam = "–" if made is None else f"{made.lam:g}"
        cells = (of.holds, _step(name), _needs(made, of.thing), lam, of.first, source)
        lines.append(f"| [{of.title}]({name}.md) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _needs(made: Penalty | None, thing: object) -> str:
    """Return what a method needs beside the model."""
    if _is_projection(thing):
        return "the start"
    if isinstance(made, GivenPenalty):
        return f"{made.needs}, the source's head" if made.needs_source else made.needs
    if isinstance(made, PassPenalty):
        return "two passes"
    if made is None or not made.needs_source:
        return "nothing"
    return "a source" if isinstance(made, ReadingPenalty) else "the start"


def _step(name: str) -> str:
    """Return the cost of a method's own step, the one named in the overview of benchmarks."""
    for report in (MAIN, *LATER):
        rows = reports()[report]["rows"]
        if steps := [step for step in card(name).steps if step in rows]:
            step = steps[-1] if name == "transmix" else steps[0]
            beside = "" if rows[step]["baseline"] == "plain" else f" × {rows[step]['baseline']}"
            return f"{step_cost(step, report)}{beside}"
    return "not measured"


def _penalty(name: str) -> Penalty | None:
    """Return the penalty with its defaults, or None for what is none."""
    thing = card(name).thing
    return thing() if isinstance(thing, type) and issubclass(thing, Penalty) else None
