"""The page "Ours beside the paper's": its numbers are those of stored files, and its sections are alike."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from _macros import beside, few_reads, our_tables, paper, stored_results
from engine.results import rows as table
from engine.results.paper import DATA_SETS
from engine.results.segmentation import table as segmentation_table
from engine.scripts.options import parser
from engine.scripts.presets import PAPER
from vitreg.train.data.subset import Share
from vitreg.train.runs.report import Configuration, Report, store_report
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

PAGE = (DOCS / "paper.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TITLES = [
    *("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Table 6", "Table A"),
    *("Figure 1", "Figure 3", "Figure 4", "Appendix B"),
]
SCRIPTS = [*(f"table{n}" for n in (1, 2, 3, 4, 5, 6, "_a")), "figure1", "figure3", "figure4", "appendix_b"]
PARTS = ["It asks", "The paper", "Ours", "Made by", "Agreement", "Not run"]
ACCURACIES = [name for name in stored_results.made() if (stored_results.RESULTS / f"{name}.csv").exists()]
ACCURACIES = [name for name in ACCURACIES if not name.startswith(("table1", "table4"))]


def cells(markdown: str) -> list[dict[str, str]]:
    head, _, *body = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(head, row, strict=True)) for row in body]


def row(markdown: str, **wanted: str) -> dict[str, str]:
    (found,) = [
        one for one in cells(markdown) if all(one[name.replace("_", " ")] == v for name, v in wanted.items())
    ]
    return found


# The paper's numbers


def test_means_and_gains_of_the_paper_are_those_by_hand() -> None:
    # CUB, Cars, Aircraft, Dogs, Pet in Table 2 of arXiv 2401.02656
    gta = [51.525, 59.271, 54.635, 69.196, 83.856]
    plain = [41.376, 56.100, 52.115, 59.775, 77.342]
    found = row(paper.paper_table("table2"), trained_on="15 %", method="GTA")
    assert found["mean"] == f"{sum(gta) / 5:.1f}" == "63.7"
    assert found["gain"] == f"+{(sum(gta) - sum(plain)) / 5:.1f}" == "+6.4"
    assert found["CUB"] == "51.5 ± 0.4"
    found = row(paper.paper_table("table6"), trained_on="100 %", source="SL", method="GTA")
    assert found["mean"] == f"{(85.663 + 90.930 + 82.558 + 91.682 + 94.967) / 5:.1f}"
    assert found["gain"] == "+1.0"


def test_every_number_of_the_paper_is_in_its_table() -> None:
    for name, columns in paper.COLUMNS.items():
        rows = paper.read_paper(name)
        shown = cells(paper.paper_table(name))
        if "acc1_mean" in columns:
            found = [
                value for one in shown for data, value in one.items() if data in {r["dataset"] for r in rows}
            ]
            assert sorted(value.split()[0] for value in found) == sorted(
                f"{float(r['acc1_mean']):.1f}" for r in rows
            )
        else:
            assert len(shown) == len(rows)


def test_gains_below_zero_are_shown_so() -> None:
    found = row(paper.paper_table("table2"), trained_on="15 %", method="ffn-only")
    assert found["gain"] == "−2.9"
    assert row(paper.paper_table("table4"), model="fine-tune")["gain"] == "−0.019"


# Ours


@pytest.mark.parametrize("name", ACCURACIES)
def test_gains_are_those_of_the_committed_tables_and_of_the_runs(name: str) -> None:
    found = stored_results.gains(name)
    for one in stored_results.read_result(name):
        if one["method"] in ("source", "fine-tune"):
            continue
        cell = (one.get("source", ""), one["share"], one["method"])
        (gain,) = [gain for gain in found[cell] if gain.lam == (float(one["lam"]) if one["lam"] else None)]
        assert gain.mean == float(one["gain"])
        each = stored_results.top1_of(name, one, stored_results.runs_of(name))
        assert fmean(each.values()) == pytest.approx(float(one["top1"]), abs=1e-3)
        assert gain.num_seeds == len(each) == int(one["num_seeds"])


def test_the_gains_beside_the_paper_are_the_committed_ones() -> None:
    committed = (DOCS / "_tables" / "table3-demo.md").read_text(encoding="utf-8")
    shown = beside.beside_the_paper("table3")
    for one in cells(committed):
        if one["gain"]:
            found = row(shown, trained_on=one["trained on"], method=one["method"])
            assert found["drawn world, 3 seeds"].split(" ± ")[0] == one["gain"].replace("-", "−")
            assert found["paper"] == one["paper's gain"].replace("-", "−")


def test_two_gains_and_their_spread_are_those_by_hand() -> None:
    # Top-1 of both seeds in runs.csv: GTA 76.95473 and 69.1358, fine-tuning 66.25515 and 61.72839.
    first, second = 76.95473 - 66.25515, 69.1358 - 61.72839
    spread = abs(first - second) / 2**0.5
    found = row(beside.beside_the_paper("table3"), trained_on="15 %", method="GTA")
    assert found["cub10, 2 seeds"] == f"+{(first + second) / 2:.1f} ± {spread:.1f}"
    assert found["grocery60, 2 seeds"] == "+0.3 ± 2.2 (λ 1)<br>−11.8 ± 4.4 (λ 10)"
    found = row(beside.beside_the_paper("table3", "pets3"), trained_on="5 per class", method="GTA")
    assert found["pets3, 3 seeds"] == "+1.3 ± 2.0"


@pytest.mark.parametrize("name", sorted(path.stem for path in (DOCS / "_tables").glob("*.md")))
def test_the_committed_tables_are_made_from_the_stored_files(name: str) -> None:
    if name in stored_results.made():
        make = our_tables.course_table if name.startswith("steps") else our_tables.our_table
        committed = (DOCS / "_tables" / f"{name}.md").read_text(encoding="utf-8")
        assert committed == make(name), "run what docs/_macros/our_tables.py says"


@pytest.mark.parametrize("name", ACCURACIES)
def test_a_table_is_what_the_recipe_writes(name: str) -> None:
    """The recipe's own rows, read back from the CSV, give the same text apart from the drawn world's name."""
    kinds = table.Row.__annotations__
    read = {"str": str, "bool": lambda text: text == "True", "int": int, "float": float}
    rows = []
    for one in stored_results.read_result(name):
        values = {
            field: read[kind.partition(" |")[0]](one[field])
            if one.get(field)
            else ("" if kind == "str" else None)
            for field, kind in kinds.items()
        }
        rows.append(table.Row(**values))
    written = cells(table.as_markdown(rows, "", []))
    for one in written:
        if one["data"] == "demo":
            del one["data"]
    assert written == cells(our_tables.our_table(name))


def test_jaccard_rows_are_what_the_recipe_writes() -> None:
    assert set(segmentation_table.SegmentationRow.__annotations__) == stored_results.JACCARD_COLUMNS
    assert set(table.Row.__annotations__) == stored_results.COLUMNS


# What is not there


def test_unknown_tables_are_errors() -> None:
    for ask in (paper.paper_table, beside.beside_the_paper, our_tables.our_table):
        with pytest.raises(ValueError, match=r"expected one of .* found 'table9'"):
            ask("table9")


def test_an_unknown_column_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in ((paper.PAPER, "table3"), (stored_results.RESULTS, "cub10")):
        text = (place / f"{name}.csv").read_text(encoding="utf-8")
        (tmp_path / f"{name}.csv").write_text(re.sub(r"^data", "another", text), encoding="utf-8")
    (tmp_path / "made.json").write_bytes((stored_results.RESULTS / "made.json").read_bytes())
    monkeypatch.setattr(paper, "PAPER", tmp_path)
    monkeypatch.setattr(stored_results, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="found another"):
        paper.paper_table("table3")
    with pytest.raises(ValueError, match="found another"):
        our_tables.our_table("cub10")


def test_a_missing_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("made.json", "cub10.csv"):
        (tmp_path / name).write_bytes((stored_results.RESULTS / name).read_bytes())
    lines = (stored_results.RESULTS / "runs.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not re.match(r"cub10,.*,100 %,GTA,10.0,1,", line)]
    assert len(kept) == len(lines) - 1
    (tmp_path / "runs.csv").write_text("\n".join(kept), encoding="utf-8")
    monkeypatch.setattr(stored_results, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="expected 2 runs"):
        stored_results.gains("cub10")


# The pages


def test_every_table_and_figure_has_its_section_with_all_parts_in_order() -> None:
    assert [title.partition(":")[0] for title in SECTIONS] == TITLES
    for title, text in SECTIONS.items():
        assert re.findall(r"^\*\*([^*:]+):?\*\*", text, re.MULTILINE) == PARTS, title


def test_every_table_of_the_paper_is_shown() -> None:
    assert re.findall(r'paper_table\("(\w+)"\)', PAGE) == list(paper.COLUMNS)
    assert {*re.findall(r'beside_the_paper\("(\w+)"\)', PAGE)} == {*beside.OURS, "table4"}


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("python recipes/")]


def test_commands_can_be_called() -> None:
    made = ["\n".join(entry["command"]) for entry in stored_results.made().values()]
    found = commands("\n".join([PAGE, *made]))
    assert len(found) == len(TITLES) + len(made)
    for script, *arguments in found:
        assert (ROOT / script).is_file()
        if script != "recipes/table1.py":  # has options of its own
            options = parser(Path(script).stem, "")
            options.add_argument("--voc")  # of table 4 and figure 3
            options.parse_args(arguments)


@pytest.mark.parametrize(("text", "script"), [*zip(SECTIONS.values(), SCRIPTS, strict=True)], ids=SCRIPTS)
def test_each_section_says_how_the_protocol_would_be_run(text: str, script: str) -> None:
    ((called, *arguments),) = commands(text.partition("**Not run:**")[2])
    assert called == f"recipes/{script}.py"
    assert arguments[:2] == ["--preset", "paper"] or script == "table1"
    assert arguments[-5:] == [f"{name}=DIR" for name in DATA_SETS]


@pytest.mark.parametrize("script", ["table2", "table3", "table5", "table6", "table_a", "figure4"])
def test_numbers_of_runs_are_those_of_the_protocol(script: str) -> None:
    compared = importlib.import_module(script).TABLE
    text = SECTIONS[next(t for t, s in zip(SECTIONS, SCRIPTS, strict=True) if s == script)]
    (told,) = re.findall(r"(\d+) runs(?:, of which (\d+) choose λ)?\.", text)
    each = len(DATA_SETS) * len(PAPER.seeds) * len(compared.rates) * len(compared.sources)
    grids = sum(len(METHODS[method].grid) for method in compared.methods)
    if script == "figure4":  # where each λ is a row
        assert told == (f"{each * (1 + grids)}", "")
    else:
        assert told == (f"{each * (len(compared.methods) + grids)}", f"{each * grids}")


@pytest.mark.parametrize("name", [name for name in ACCURACIES if not name.endswith("-demo")])
def test_commands_stand_on_the_page_of_results_too(name: str) -> None:
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert "\n".join(stored_results.made()[name]["command"]) in page


def test_scripts_are_linked_to_their_sections() -> None:
    page = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| `(\w+)\.py` .*\[([\w ]+)\]\(paper\.md#", page, re.MULTILINE)
    assert linked == list(zip(SCRIPTS, TITLES, strict=True))


# The picture


def load(script: str) -> Any:
    """Return a script that lies beside the pages as a module."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, DOCS / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_drawn_from_the_committed_files(tmp_path: Path) -> None:
    script = load("_paper_figure.py")
    assert script.main([str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert script.main(["one.png", "two.png"]) == 2


def test_the_picture_shows_the_numbers_of_the_tables() -> None:
    figure = load("_paper_figure.py").draw()
    for panel, share in zip(figure.axes, ("15 %", "100 %"), strict=True):
        drawn = {round(float(x), 6) for line in panel.lines for x in line.get_xdata()}
        expected = [fmean(paper.paper_gains("table2")["", share, "GTA"].values())]
        for name in ("table2-demo", "table5-demo", "cub10", "grocery60"):
            expected += [gain.mean for gain in stored_results.gains(name)["", share, "GTA"]]
        assert {round(value, 6) for value in expected} <= drawn


# Collecting


def test_a_finished_run_becomes_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = load("_results/collect.py")
    hyper = Hyperparameters(steps=2, batch_size=4, lr=1e-4, weight_decay=0.05, smoothing=0.0)
    run = Configuration(
        *("birds", "f", "vit", "0123456789", 32, "none", "GTA", 10.0, Share(shots=5), 1, hyper),
        measure_every=1,
    )
    log = [{"step": 1, "loss": 0.5, "gta": 0.25, "top1": 50.0, "object_share/0": 0.5}]
    metrics = {"top1": 50.0, "object_share": [0.5], "jaccard": [0.25]}
    machine = {"threads": 1, "versions": {"torch": "3", "timm": "2"}}
    store_report(tmp_path / "runs", Report(run, metrics, log, 7.0, machine))
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "unfinished" / "report.json").write_text("half")
    monkeypatch.setattr(collect, "HERE", tmp_path)
    assert collect.main([f"here={tmp_path / 'runs'}"]) == 0
    (line,) = csv.DictReader((tmp_path / "runs.csv").read_text().splitlines())
    assert line.items() >= {"folder": "here", "share": "5 per class", "lam": "10.0", "top1": "50.0"}.items()
    assert line.items() >= {"object_share": "50.00", "last_term": "0.25", "weights": "01234567"}.items()
    (at,) = csv.DictReader((tmp_path / "course.csv").read_text().splitlines())
    assert (at["step"], at["top1"], at["object_share"]) == ("2", "50.0", "50.00")
    assert collect.main([]) == 2


def test_runs_of_other_folders_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect = load("_results/collect.py")
    monkeypatch.setattr(collect, "HERE", tmp_path)
    (tmp_path / "runs.csv").write_text("folder,top1\nold,1\nnew,2\n")
    (tmp_path / "course.csv").write_text("folder,step\nold,3\nnew,4\n")
    hyper = Hyperparameters(4, 4, 1e-4, 0.05, 0.0, views=16, every=2)
    run = Configuration("birds", "f", "vit", "01", 32, "none", "GTA", 10.0, Share(shots=5), 1, hyper)
    machine = {"threads": 1, "versions": {"torch": "3", "timm": "2"}}
    for place in ("a", "b"):  # the same run twice
        store_report(tmp_path / place, Report(run, {"top1": 50.0}, [], 7.0, machine))
    assert collect.main([f"new={tmp_path / 'a'}", f"new={tmp_path / 'b'}"]) == 0
    found = [*csv.DictReader((tmp_path / "runs.csv").read_text().splitlines())]
    assert [(one["folder"], one["top1"]) for one in found] == [("old", "1"), ("new", "50.0")]
    assert (found[1]["views"], found[1]["every"]) == ("16", "2")
    (at,) = csv.DictReader((tmp_path / "course.csv").read_text().splitlines())
    assert at["folder"] == "old"
    assert collect.main([f"new={tmp_path / 'nowhere'}"]) == 2
    assert (tmp_path / "runs.csv").read_text().count("\n") == 3


def test_tables_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("_write_tables.py")
    monkeypatch.setattr(our_tables, "TABLES", tmp_path)
    assert script.main([]) == 0
    assert not [*tmp_path.iterdir()], "only what is there is written anew"
    (tmp_path / "steps-demo.md").write_text("old")
    assert script.main(["cub10"]) == 0
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["cub10.md", "steps-demo.md"]
    assert script.main([]) == 0
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (DOCS / "_tables" / path.name).read_bytes()


def test_the_script_that_contributors_call_runs() -> None:
    done = subprocess.run(
        [sys.executable, "docs/_write_tables.py", "unknown"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "expected one of" in done.stderr
    assert "found 'unknown'" in done.stderr


# Fewer passes of the source


def test_views_and_every_kth_step_are_those_of_the_runs_by_hand() -> None:
    # Top-1 of the seeds in runs.csv.
    found = row(few_reads.views_table(), views_a_picture="16")
    plain, guided = [51.85185, 53.90946, 64.19753], [58.02469, 54.73251, 64.60905]
    assert found["seeds"] == "3"
    assert found["fine-tuning"].split(" ± ")[0] == f"{fmean(plain):.1f}" == "56.7"
    assert found["GTA, λ = 10"] == f"{fmean(guided):.1f} ± {stdev(guided):.1f}"
    assert found["source reads at most"] == "800"
    found = row(few_reads.every_table(), penalty_on="every 4th")
    gain = fmean([50.3, 50.6, 53.3]) - fmean([42.5, 41.6, 45.5])
    assert (found["top-1"], found["gain"]) == ("51.4 ± 1.7", f"+{gain:.1f}")
    assert found["step, by arithmetic"] == "1.08"


def test_a_new_view_each_time_is_as_the_pages_say() -> None:
    last = cells(few_reads.views_table())[-1]
    for method, column in (("fine-tune", "fine-tuning"), ("GTA", "GTA, λ = 10")):
        top1 = few_reads.new_views_top1(method)
        assert last[column].startswith(f"{top1} ± ")
        for name in ("results.md", "performance.md"):
            page = (DOCS / name).read_text(encoding="utf-8")
            assert f"{top1} %" in page or "views_table()" in page, name


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert our_tables.signed(-0.04) == "+0.0"
    assert our_tables.signed("-0.06") == "-0.1"
    assert our_tables.signed("") == ""
