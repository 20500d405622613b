"""The models of the support table read what the table says they read, and truly: one of each form."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter

import pytest

from support_chosen import chosen_rows, is_built, kind_of
from support_models import AUTHORS, TRANSFORMERS, VIT_PYTORCH
from support_refused import refusals
from support_table import PAGE, Row, measure, page, read_table, regressions, summary

ROWS = read_table()


def test_the_table_has_every_list() -> None:
    counts = Counter(row.library for row in ROWS)
    assert counts == {
        "timm": 213 + 134 + 345,
        "open_clip": 56 + 78,
        "torchvision": 5,
        "transformers": len(TRANSFORMERS) + len(refusals()),
        "vit-pytorch": len(VIT_PYTORCH),
        "authors": len(AUTHORS),
    }
    assert len({(row.library, row.name) for row in ROWS}) == len(ROWS)


def test_what_the_table_promises() -> None:
    timm = [row for row in ROWS if row.library == "timm"]
    with_class_token = [row for row in timm if "cls" in row.queries]
    assert len(with_class_token) >= 213
    assert sum("mean" in row.queries and row.class_token == "no" for row in timm) >= 134
    assert all(row.measured < 1e-4 for row in ROWS)
    assert all(bool(row.queries) == bool(row.error) for row in ROWS)
    assert all(row.queries or row.note for row in ROWS), "a refusal says what can be done instead"


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == f"{summary(ROWS)}\n{page(ROWS)}"


@pytest.mark.parametrize("column", ["queries", "outputs", "class_token", "family"])
def test_a_model_that_reads_less_is_found(column: str) -> None:
    row = next(row for row in ROWS if row.queries)
    assert not list(regressions(row, row))
    assert list(regressions(row, dataclasses.replace(row, **{column: ""})))
    assert list(regressions(row, dataclasses.replace(row, error="2.0e-04")))
    assert list(regressions(row, dataclasses.replace(row, error="nan")))


def test_every_kind_of_row_is_tried() -> None:
    """A new one needs `python tests/support_chosen.py`."""
    assert {kind_of(row) for row in chosen_rows()} == {kind_of(row) for row in ROWS if is_built(row)}


@pytest.mark.slow
@pytest.mark.parametrize("row", chosen_rows(), ids=lambda row: f"{row.library}-{row.name}")
def test_model(row: Row) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constructors, which differ from version to version
        assert not list(regressions(row, measure(row.library, row.name)))
