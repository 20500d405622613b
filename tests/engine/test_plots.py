from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.axes import Axes

from engine.results.course import course_csv, course_table
from engine.results.paper import PaperTable
from engine.results.plots import draw_lams, draw_steps
from engine.results.rows import rows
from vitreg.train.data.subset import Share
from vitreg.train.runs.report import Configuration, Report
from vitreg.train.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(steps=20, batch_size=4, lr=1e-3, weight_decay=0.05)
NO_PAPER = PaperTable({})
MACHINE = {"device": "cpu", "threads": 1, "versions": {"torch": "2", "timm": "1"}}


def report(method: str, lam: float | None, top1: float | None, *, seed: int = 0, **more: Any) -> Report:
    share = None if method == "source" else Share(rate=0.15)
    configuration = Configuration("birds", "f", "m", "w", 32, "crop", method, lam, share, seed, HYPER)
    base = 0.4 if top1 is None else top1 / 100
    metrics = {"object_share": [0.1, base], "jaccard": [0.1, base]}
    log = [{"step": s, "loss": 1.0, "object_share/1": base} for s in (9, 19)]
    if top1 is None:
        log = []
    for entry in log:
        entry["top1"] = (top1 or 0.0) * entry["step"] / 19
    return Report(configuration, metrics | ({} if top1 is None else {"top1": top1}), log, 1.0, {}, **more)


REPORTS = [
    report("source", None, None),
    *(report("fine-tune", None, 40.0 + 2 * seed, seed=seed) for seed in (0, 1)),
    *(report("GTA", lam, 50.0 + lam + seed, seed=seed) for lam in (10.0, 1.0, 0.1) for seed in (0, 1)),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is drawn, by label: the points of curves, the height of level lines."""
    seen: dict[str, Any] = {}
    errorbar, axhline = Axes.errorbar, Axes.axhline

    def points(self: Axes, x: Any, y: Any, *args: Any, label: str, **options: Any) -> Any:
        seen.setdefault(label, []).append((tuple(x), tuple(y)))
        return errorbar(self, x, y, *args, label=label, **options)

    def level(self: Axes, y: float, **options: Any) -> Any:
        seen.setdefault(options["label"], []).append(y)
        return axhline(self, y, **options)

    monkeypatch.setattr(Axes, "errorbar", points)
    monkeypatch.setattr(Axes, "axhline", level)
    return seen


def test_accuracy_and_attention_against_lam(drawn: dict[str, Any]) -> None:
    file = draw_lams(rows(REPORTS, NO_PAPER), REPORTS, "title")
    assert file.startswith(b"\x89PNG")
    assert file == draw_lams(rows(REPORTS, NO_PAPER), REPORTS, "title")
    accuracy, attention = drawn["GTA, 15 %"][:2]
    assert accuracy == ((0.1, 1.0, 10.0), pytest.approx((50.6, 51.5, 60.5)))
    assert attention[1] == pytest.approx((50.6, 51.5, 60.5))
    assert drawn["fine-tune, 15 %"][:2] == pytest.approx([41.0, 41.0])


def test_no_lam_is_left_out(drawn: dict[str, Any]) -> None:
    made = [*REPORTS, report("GTA", 0.0, 41.0)]
    assert draw_lams(rows(made, NO_PAPER), made, "title").startswith(b"\x89PNG")
    assert drawn["GTA, 15 %"][0][0] == (0.0, 0.1, 1.0, 10.0)


def test_accuracy_and_attention_against_steps(drawn: dict[str, Any]) -> None:
    assert draw_steps(rows(REPORTS, NO_PAPER), REPORTS, "title").startswith(b"\x89PNG")
    accuracy, attention = drawn["fine-tune, 15 %"]
    assert accuracy == ((10, 20), pytest.approx((41 * 9 / 19, 41.0)))
    assert attention == ((10, 20), pytest.approx((41.0, 41.0)))
    assert len(drawn["GTA (λ = 10), 15 %"]) == 2


def test_without_objects_there_is_one_panel(drawn: dict[str, Any]) -> None:
    bare = [
        Report(r.configuration, {"top1": r.metrics["top1"]}, r.log, 1.0, {})
        for r in REPORTS
        if "top1" in r.metrics
    ]
    draw_lams(rows(bare, NO_PAPER), bare, "title")
    assert len(drawn["GTA, 15 %"]) == 1
    draw_steps(rows(bare, NO_PAPER), bare, "title")
    assert len(drawn["GTA (λ = 10), 15 %"]) == 1


def test_course_as_a_table() -> None:
    table = course_table(REPORTS, {})
    assert table.columns["steps"] == ["10"] * 4 + ["20"] * 4
    assert table.columns["method"][:4] == ["fine-tune", "GTA", "GTA", "GTA"]
    assert table.columns["top-1"][4] == "41.0 ± 1.4"
    assert table.columns["on object"][:2] == ["41.0 ± 1.4", "60.5 ± 0.7"]
    assert set(table.columns["seeds"]) == {"2"}
    drawn = table.rich()
    assert [place for place, row in enumerate(drawn.rows) if row.end_section] == [7]


def test_course_as_csv() -> None:
    lines = list(csv.DictReader(io.StringIO(course_csv([replace(one, machine=MACHINE) for one in REPORTS]))))
    assert len(lines) == 2 * (len(REPORTS) - 1)
    first = lines[0]
    assert (first["method"], first["seed"], first["share"], first["step"]) == ("fine-tune", "0", "15 %", "10")
    assert float(first["top1"]) == pytest.approx(40 * 9 / 19, abs=1e-5)
    assert first["object_share"] == "40.00"


def test_the_drift_has_a_panel_and_a_column_where_it_was_measured(drawn: dict[str, Any]) -> None:
    made = [replace(one, machine=MACHINE, log=[e | {"drift": 0.03} for e in one.log]) for one in REPORTS]
    draw_steps(rows(made, NO_PAPER), made, "title")
    assert drawn["fine-tune, 15 %"][2] == ((10, 20), pytest.approx((3.0, 3.0)))
    assert course_table(made, {}).columns["drift"][0] == "3.0 ± 0.0"
    lines = list(csv.DictReader(io.StringIO(course_csv(made))))
    assert lines[0]["drift"] == "3.00"
