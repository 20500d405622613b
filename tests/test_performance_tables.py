"""The tables of the page on performance are those of the benchmarks' reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tables import DEVICES, RESULTS, TABLES, TARGETS, main, report_table, tables, targets_table

PAGE = TABLES.parent / "performance.md"


def test_the_committed_tables_are_those_of_the_reports() -> None:
    made = tables(RESULTS)
    assert {path.name for path in TABLES.glob("performance-*.md")} == set(made)
    for name, text in made.items():
        assert (TABLES / name).read_text(encoding="utf-8") == text, "run python benchmarks/tables.py"


def test_the_page_shows_every_table() -> None:
    shown = re.findall(r'--8<-- "docs/_tables/(performance-[^"]+)"', PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(tables(RESULTS))


def test_every_report_says_where_and_how_it_was_measured() -> None:
    for path in RESULTS.glob("*.json"):
        setting = json.loads(path.read_text(encoding="utf-8"))["setting"]
        assert {"command", "device", "threads", "versions", "date"} <= setting.keys()
        assert path.stem.rpartition("-")[2] in DEVICES or "-cpu-" in path.stem


def report(**ratios: float) -> dict[str, object]:
    rows = {
        name: {
            "baseline": "plain",
            "seconds": ratio,
            "ratio": ratio,
            "ratio_first_quartile": ratio - 0.1,
            "ratio_third_quartile": ratio + 0.1,
            "peak_bytes": 2e6,
            "peak_ratio": 1.0,
        }
        for name, ratio in {"plain": 1.0, **ratios}.items()
    }
    setting = {
        "command": "python x",
        "device": "D",
        "threads": 2,
        "versions": {"torch": "3"},
        "date": "today",
    }
    return {"setting": setting, "rows": rows}


def test_a_target_is_met_missed_or_not_measured() -> None:
    names = {"GTA": 1.25, "L2-SP": 1.2, "reading alone": 1.0, "BSS": 1.0, "TransMix": 1.0}
    small = report(**names, **{"block-output guide, middle block": 1.1, "GTA, remembered source": 1.0})
    lines = targets_table({"overhead-vit_small-224-cpu": small}).splitlines()
    found = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    assert "≤ 1.30: **1.250**" in found["GTA, ViT-S/16, 224 px"]
    assert "≤ 1.03: 1.200, missed" in found["L2-SP"]
    assert "≤ 1.30: not measured" in found["GTA, ViT-S/16, 224 px"]
    assert len(lines) == 2 + len(TARGETS)


def test_a_report_becomes_a_table() -> None:
    text = report_table(report(GTA=1.25))
    assert "| GTA | 1.250 | 1.250 | 1.150 – 1.350 | 2.0 | 1.000 | plain |" in text
    assert "`python x`, D, 2 threads, torch 3, today." in text


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_broken_report_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "loop-cpu.json").write_text(content)
    with pytest.raises(SystemExit, match=r"loop-cpu\.json is no report"):
        tables(tmp_path)


def test_no_report_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results"):
        tables(tmp_path)
    with pytest.raises(SystemExit, match="no options"):
        main(["--help"])
