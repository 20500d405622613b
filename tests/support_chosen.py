"""Which models of the support table its slow tests try: one for each form of what runs in a tower.

    python tests/support_chosen.py   # builds every model of the table, writes tests/support_chosen.txt anew

Most rows differ in sizes alone. Rows that read attention are of one form if their modules have the same
classes, children, switches and missing parts; rows of outputs alone, and open_clip's with timm's towers, if
the table says the same of them. Of each form the smallest is tried. `python tests/support_table.py --check`
measures all.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from pathlib import Path

import torch
from torch import nn

from small_init import small_init
from support_models import build
from support_refused import refusals
from support_table import Row, read_table

LIST = Path(__file__).with_suffix(".txt")


def kind_of(row: Row) -> tuple[str, ...]:
    """Return what the table says of a model, without its name and its error."""
    return (row.library, row.family, row.attention, row.class_token, row.queries, row.outputs, row.note)


def is_built(row: Row) -> bool:
    return not (row.library == "transformers" and row.name in refusals())


def form_of(row: Row, model: nn.Module) -> Hashable:
    """Return what models have in common that run the same code."""
    inside = {type(module).__module__.partition(".")[0] for module in model.modules()}
    is_tried = not row.queries or inside >= {"open_clip", "timm"}  # among timm's own
    return (*kind_of(row), None if is_tried else frozenset(map(_form, model.modules())))


def chosen_rows() -> list[Row]:
    """Return the rows that are tried."""
    names = set(LIST.read_text(encoding="utf-8").splitlines())
    return [row for row in read_table() if f"{row.library} {row.name}" in names]


def _form(module: nn.Module) -> Hashable:
    switches = {
        name: value if value is None or isinstance(value, bool | str) else type(value).__name__
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "support_size"
    }
    listed = isinstance(module, nn.ModuleList | nn.Sequential)  # whose length is no form
    children = () if listed else tuple((n, type(child).__name__) for n, child in module.named_children())
    missing = tuple((name, parameter is None) for name, parameter in module._parameters.items())
    return type(module).__qualname__, tuple(sorted(switches.items())), children, missing


def main() -> None:
    smallest: dict[Hashable, tuple[int, str]] = {}
    for row in filter(is_built, read_table()):
        with warnings.catch_warnings(), torch.device("meta"), small_init():
            warnings.simplefilter("ignore")  # of constructors
            model = build(row.library, row.name)
        found = sum(p.numel() for p in model.parameters()), f"{row.library} {row.name}"
        form = form_of(row, model)
        smallest[form] = min(smallest.get(form, found), found)
    LIST.write_text("".join(f"{name}\n" for _, name in sorted(smallest.values(), key=lambda f: f[1])))


if __name__ == "__main__":
    main()
