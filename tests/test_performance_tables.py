"""The tables of the page on performance are those of the benchmarks' reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from step_tables import columns_table, report_table
from tables import FACTS, RESULTS, SHOWN, TABLES, device_table, main, tables
from targets import TARGETS, targets_table

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
        if path.stem != FACTS:
            setting = json.loads(path.read_text(encoding="utf-8"))["setting"]
            assert {"command", "device", "threads", "versions", "date"} <= setting.keys()


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


def test_many_rounds_of_a_few_decide_the_targets(tmp_path: Path) -> None:
    place = "overhead-vit_small-224-cpu"
    few = report(GTA=1.2, FTP=1.02, MARS=1.05)
    for name, found in {place: report(GTA=1.4, **{"L2-SP": 1.01}), f"{place}-few": few}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    made = tables(tmp_path, tmp_path)
    lines = {line.split(" | ")[0]: line for line in made["performance-targets.md"].splitlines()}
    assert "**1.200**" in lines["| GTA, ViT-S/16, 224 px"]
    assert "**1.010**" in lines["| L2-SP"]  # from the other
    assert "**1.020**" in lines["| FTP, a projection"]
    assert "1.050, missed" in lines["| MARS, a projection"]
    (row,) = (
        line for line in made["performance-overhead-vit_small-224.md"].splitlines() if "| GTA |" in line
    )
    assert "1.400 (1.300 – 1.500)" in row
    assert "1.200 (1.100 – 1.300)" in row
    (tmp_path / f"{place}.json").unlink()
    assert "**1.200**" in tables(tmp_path, tmp_path)["performance-targets.md"]


def test_a_report_becomes_a_table() -> None:
    text = report_table(report(GTA=1.25))
    assert "| GTA | 1.250 | 1.250 | 1.150 – 1.350 | 2.0 | 1.000 | plain |" in text
    assert "`python x`, D, 2 threads, torch 3, today." in text


def test_cpu_and_gpu_stand_side_by_side() -> None:
    gpu = {**report(GTA=1.5, BSS=1.0), "left_out": {"TransMix": "OutOfMemoryError: full."}}
    gpu["setting"] = {**gpu["setting"], "device": "Fast", "command": "python y --batch-size full"}
    gpu["setting"]["options"] = {"batch_size": 512}
    lines = columns_table({"CPU": report(GTA=1.25), "GPU": gpu}).splitlines()
    assert lines[0].startswith("| step | CPU: seconds | CPU: ratio | CPU: memory | GPU: seconds |")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    (row,) = (line for line in lines if line.startswith("| GTA |"))
    assert "| 1.250 | 1.250 (1.150 – 1.350) | 1.000 | 1.500 | 1.500 (1.400 – 1.600) | 1.000 | plain |" in row
    assert "| BSS | – | – | – | 1.000 | 1.000 (0.900 – 1.100) | 1.000 | plain |" in lines
    assert "CPU: `python x`, D, 2 threads, torch 3, today." in lines
    end = "(512 pictures), Fast, 2 threads, torch 3, today. Left out: TransMix (OutOfMemoryError: full)."
    assert any(line.startswith("GPU: `python y") and line.endswith(end) for line in lines)


def test_a_variant_that_was_left_out_is_not_measured() -> None:
    (line,) = (
        line
        for line in targets_table({"overhead-vit_small-224-gpu": report(GTA=1.2)}).splitlines()
        if line.startswith("| L2-SP |")
    )
    assert "≤ 1.02: not measured" in line


def test_the_device_is_shown_as_it_was_found() -> None:
    facts = {
        "setting": {"device": "Big", "versions": {"torch": "3"}, "date": "today"},
        "platform": "here",
        "device": {
            "memory_bytes": 80 * 2**30,
            "cuda": "13",
            "cores": 16,
            "nvidia_smi": {"driver_version": "9"},
        },
        "ceilings": {"matrix_side": 8192, "matrix_tflops": 789.4, "copy_tb_per_s": 3.04},
        "missing": {"open_clip": "CLIP is timm's"},
    }
    tests = {"a": {"outcome": "passed"}, "b": {"outcome": "failed", "reason": "x"}}
    steps = {"loop": {"name": "loop", "status": "failed", "reason": "exit code 1: no"}}
    text = device_table({"facts": facts, "tests": tests, "steps": steps})
    assert "The step `loop` is failed: exit code 1: no." in text
    for expected in (
        "| device | Big |",
        "80.0 GiB",
        "789 TFLOP/s",
        "3.04 TB/s",
        "1 passed, 1 failed, 0 skipped",
    ):
        assert expected in text
    assert "Failed: `b`. " not in text
    assert "Failed: `b`." in text
    assert "Without open_clip, CLIP is timm's." in text


def test_a_report_of_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other-gpu.json").write_text(json.dumps(report()))
    with pytest.raises(SystemExit, match=r"other-gpu\.json belongs to no table"):
        tables(tmp_path)


def test_every_table_names_its_reports_once() -> None:
    stems = [stem for shown in SHOWN.values() for stem in shown.values()]
    assert len(stems) == len(set(stems))


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
