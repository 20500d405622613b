from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.scripts import run_all as everything
from engine.scripts.run_all import ScriptResult, arguments_of, page, run_all

RECIPES = Path(everything.__file__).resolve().parents[2]
SCRIPTS = ("table1", "table3", "table4", "table6", "table_a")


@pytest.mark.parametrize(
    ("script", "weights", "expected", "why"),
    [
        ("table3", ["a.pth"], ["--weights", "a.pth"], ""),
        ("table3", ["SL=a", "iBOT=b"], ["--weights", "b"], ""),
        ("table3", ["SL=a", "DINO=b"], ["--weights", "a"], ""),
        ("table3", ["sl=a", "ibot=b"], ["--weights", "b"], ""),
        ("table3", ["runs/lr=0.1/w.pth"], ["--weights", "runs/lr=0.1/w.pth"], ""),
        ("table6", ["SSL=a", "SL=b"], ["--weights", "SL=b", "SSL=a"], ""),
        ("table6", ["SL=b"], [], "no --weights SSL=FILE"),
        ("table_a", ["a.pth"], [], "no --weights DINO=FILE iBOT=FILE"),
        ("table_a", [], [], ""),
        ("table4", [], ["--voc", "voc"], ""),
    ],
)
def test_each_script_gets_what_it_can_use(
    script: str, weights: list[str], expected: list[str], why: str
) -> None:
    given, why_not = arguments_of(script, weights, ["CUB=dir"], "voc")
    assert why_not == why
    assert given == ["--data", "CUB=dir", *expected]
    assert arguments_of("table1", weights, [], None) == ([], "no --data to count")


def test_one_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, list[str]]] = []

    def script(name: str) -> SimpleNamespace:
        def main(argv: list[str]) -> int:
            ran.append((name, argv))
            (tmp_path / f"{name}.md").write_text(f"### the table of {name}\n")
            if name == "table3":
                raise ValueError("nobody expected this")
            return 0

        return SimpleNamespace(main=main)

    monkeypatch.setattr(importlib, "import_module", script)
    (tmp_path / "table4.png").write_bytes(b"")
    (tmp_path / "table4-CUB.png").write_bytes(b"")
    os.utime(tmp_path / "table4-CUB.png", (1, 1))  # of an earlier command, with other data
    code = run_all(SCRIPTS, description="", argv=["--out", str(tmp_path), "--seeds", "0", "--weights", "w"])
    assert code == 1
    assert [name for name, _ in ran] == ["table4", "table3"]
    assert ran[1][1] == ["--weights", "w", "--seeds", "0", "--out", str(tmp_path)]
    written = (tmp_path / "all.md").read_text()
    assert "failed with exit code 1" in written
    assert "the table of table3" not in written
    assert "\nthe table of table4" in written
    assert "![table4](table4.png)" in written
    assert "table4-CUB.png" not in written
    assert written.index("## table3") < written.index("## table4")
    shown = capsys.readouterr()
    assert "left out: no --weights SL=FILE SSL=FILE" in shown.out
    assert "nobody expected this" in shown.err


@pytest.mark.parametrize(("codes", "expected"), [((2, 2), 2), ((2, 0), 0), ((0, 0), 0), ((1, 0), 1)])
def test_what_cannot_be_made_is_left_out(
    codes: tuple[int, int],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    returned = dict(zip(("table4", "table3"), codes, strict=True))
    monkeypatch.setattr(
        importlib, "import_module", lambda name: SimpleNamespace(main=lambda argv: returned[name])
    )
    options = ["--out", str(tmp_path), "--only", "table3", "table4"]
    assert run_all(SCRIPTS, description="", argv=options) == expected
    assert ("left out: it cannot use what is given" in capsys.readouterr().out) == (2 in codes)


def test_labels_are_those_of_the_tables() -> None:
    for script, labels in everything.SOURCES.items():
        assert importlib.import_module(script).TABLE.sources == labels


def test_an_interrupt_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = SimpleNamespace(main=lambda argv: 130)
    monkeypatch.setattr(importlib, "import_module", lambda name: stopped)
    assert run_all(SCRIPTS, description="", argv=["--out", str(tmp_path)]) == 130
    assert not (tmp_path / "all.md").exists()


def test_several_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_all(SCRIPTS, description="", argv=["--out", str(tmp_path)]) == 2
    assert "start each table with accelerate launch" in capsys.readouterr().err


def test_the_scripts_are_there() -> None:
    for script in (*everything.SOURCES, *everything.SEGMENTS, *SCRIPTS):
        assert (RECIPES / f"{script}.py").is_file(), script


def test_a_page_without_anything(tmp_path: Path) -> None:
    (tmp_path / "table1.md").write_text("an old table")
    written = page(tmp_path, {"table1": ScriptResult("left out: no data")})
    assert written == "# All tables and figures\n\n## table1\n\nleft out: no data\n"
