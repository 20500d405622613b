"""The models of the support table take their penalties in training mode: one of each form."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import vitreg
from small_init import small_init
from support_chosen import chosen_rows
from support_models import build, picture_of
from support_table import Row
from vitreg.families.find import find_tower

ROWS = [row for row in chosen_rows() if row.outputs or row.queries]

QUICK = {
    ("timm", "tnt_s_patch16_224"),
    ("timm", "cait_xxs24_224"),
    ("timm", "xcit_nano_12_p8_224"),
    ("timm", "pit_ti_224"),
}
"""Whose stems, tokens or blocks are of another kind each: in every run."""


def targets_of(row: Row, model: nn.Module) -> dict[str, vitreg.ReadingPenalty]:
    """Return the penalties that the table promises for a model, all at once."""
    blocks = vitreg.describe(model).queries
    targets: dict[str, vitreg.ReadingPenalty] = {
        name: vitreg.FeatureGuide(name) for name in row.outputs.split(", ") if name
    }
    for words in row.queries.split("; "):
        query, _, some = words.partition(" ")
        if query:
            layers = list(blocks[query]) if some else "all"
            targets[f"attention_of_{query}"] = vitreg.GTA(query=query, layers=layers)
    return targets


def takes_its_penalties(row: Row) -> None:
    """Attach to a small model, run it in training mode on two batches, and take the penalties of each."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constructors, which differ from version to version
        with small_init():
            model = build(row.library, row.name)
    images = picture_of(model)
    model.train()
    for part in model.modules():  # so that nothing is random, and nothing trained makes 0
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
        if "Rope" in type(part).__name__ or "RoPE" in type(part).__name__ or "Rotary" in type(part).__name__:
            part.eval()  # positions are jittered in training
        for rate in ("p", "drop_prob"):
            if "Drop" in type(part).__name__ and hasattr(part, rate):
                setattr(part, rate, 0.0)
    # What takes a text too runs its tower alone.
    call = find_tower(model).module if hasattr(model, "text_model") or hasattr(model, "visual") else model
    with vitreg.attach(model, target=targets_of(row, model)) as reg:
        for _ in range(2):
            call(images)
            value = reg.penalty()
            assert value.requires_grad
            for name, term in reg.terms.items():
                assert term.is_meta or term.item() < 1e-6, f"{name}: {term.item()}"
    if not value.is_meta:
        value.backward()


def test_the_list_is_not_empty() -> None:
    assert len(ROWS) > 200
    assert {(row.library, row.name) for row in ROWS} >= QUICK


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=f"{row.library}-{row.name}",
            marks=[] if (row.library, row.name) in QUICK else [pytest.mark.slow],
        )
        for row in ROWS
    ],
)
def test_model(row: Row) -> None:
    takes_its_penalties(row)
