"""The page "Ours beside the paper's": its numbers are those of stored files, and its sections are alike."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
from pathlib import Path
from statistics import fmean

import pytest

from _macros.results import RESULTS, TABLES, rows_of, signed
from engine.presets import PAPER
from engine.results import rows as table
from engine.results.paper import DATA_SETS
from engine.results.paper import PAPER as PAPER_FILES
from engine.results.segmentation import table as segmentation_table
from engine.scripts.forgetting import ForgettingOptions
from engine.scripts.options import read_options
from engine.scripts.run_all import SOURCES
from engine.scripts.segmentation import SegmentationOptions
from engine.scripts.shift import ShiftOptions
from vitreg.train.training.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

PAGE = (DOCS / "paper.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
COMPARED = {title: text for title, text in SECTIONS.items() if "**Agreement:**" in text}
TITLES = [
    *("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Table 6", "Table A"),
    *("Figure 1", "Figure 3", "Figure 4", "Appendix B"),
]
SCRIPTS = [*(f"table{n}" for n in (1, 2, 3, 4, 5, 6, "_a")), "figure1", "figure3", "figure4", "appendix_b"]
TABLES_OF_PAPER = sorted(path.stem for path in PAPER_FILES.glob("*.csv"))
PARTS = ["The paper", "Ours", "Agreement", "Not run"]


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


def read_paper(name: str) -> list[dict[str, str]]:
    with open(PAPER_FILES / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shown_table(name: str) -> str:
    return (RESULTS / "paper" / f"{name}.md").read_text(encoding="utf-8")


# The paper's numbers


def test_means_and_gains_of_the_paper_are_those_by_hand() -> None:
    # CUB, Cars, Aircraft, Dogs, Pet in Table 2 of arXiv 2401.02656
    gta = [51.525, 59.271, 54.635, 69.196, 83.856]
    plain = [41.376, 56.100, 52.115, 59.775, 77.342]
    found = row(shown_table("table2"), trained_on="15 %", method="GTA")
    assert found["mean"] == f"{sum(gta) / 5:.1f}" == "63.7"
    assert found["gain"] == f"+{(sum(gta) - sum(plain)) / 5:.1f}" == "+6.4"
    assert found["CUB"] == "51.5 ± 0.4"
    found = row(shown_table("table6"), trained_on="100 %", method="GTA (SL)")
    assert found["mean"] == f"{(85.663 + 90.930 + 82.558 + 91.682 + 94.967) / 5:.1f}"
    assert found["gain"] == "+1.0"


def test_every_number_of_the_paper_is_in_its_table() -> None:
    for name, columns in {name: set(read_paper(name)[0]) for name in TABLES_OF_PAPER}.items():
        rows = read_paper(name)
        shown = cells(shown_table(name))
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
    found = row(shown_table("table2"), trained_on="15 %", method="ffn-only")
    assert found["gain"] == "−2.9"
    assert row(shown_table("table4"), model="fine-tune")["gain"] == "−0.019"


# Ours

COMPARISONS = ("compare-near", "compare-far", "compare-lam", "compare-decay")


@pytest.mark.parametrize("name", [*TABLES, *COMPARISONS])
def test_a_table_is_that_of_its_runs(name: str) -> None:
    (path,) = (RESULTS / name).glob("*-runs.csv")
    with open(path, newline="", encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    with_a_head = [one for one in rows_of(name) if one["method"] != "source"]
    assert with_a_head
    for one in with_a_head:
        alike = [
            float(run["top1"])
            for run in runs
            if all(run[key] == one[key] for key in ("data", "share", "method", "lam"))
            and int(run["seed"]) < int(one["num_seeds"])
        ]
        if not one["source"]:  # the runs of several sources differ by the checksum of their weights
            assert len(alike) == int(one["num_seeds"])
            assert fmean(alike) == pytest.approx(float(one["top1"]), abs=1e-3)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_columns_that_the_recipe_writes(name: str) -> None:
    assert set(rows_of(name)[0]) == set(table.Row.__annotations__)


def test_jaccard_rows_are_what_the_recipe_writes() -> None:
    assert set(rows_of("table4-demo")[0]) == set(segmentation_table.SegmentationRow.__annotations__)


def test_every_result_is_on_a_page() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    stored = sorted(path.relative_to(DOCS).as_posix() for path in RESULTS.glob("*/*.md"))
    assert len(stored) > 10
    assert not [path for path in stored if f'"docs/{path}"' not in pages]


def test_a_gain_of_nothing_has_no_minus() -> None:
    assert signed(-0.04) == "+0.0"


def test_every_table_and_figure_has_its_section_with_all_parts_in_order() -> None:
    assert [title.partition(":")[0] for title in COMPARED] == TITLES
    for title, text in COMPARED.items():
        assert re.findall(r"^\*\*([^*:]+):?\*\*", text, re.MULTILINE) == PARTS, title


def test_every_table_of_the_paper_is_shown() -> None:
    assert re.findall(r'"docs/results/paper/(\w+).md"', PAGE) == list(TABLES_OF_PAPER)
    for name in TABLES_OF_PAPER:
        assert re.search(rf'^--8<-- "docs/results/{name}-\w+/{name}.md"$', PAGE, re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("python recipes/")]


def test_commands_can_be_called() -> None:
    stored = [path.read_text(encoding="utf-8") for path in RESULTS.glob("*/*.md")]
    found = commands("\n".join([PAGE, *stored]))
    assert len(found) > 3
    for script, *arguments in found:
        assert (ROOT / script).is_file()
        name = Path(script).stem
        if name != "table1":  # has options of its own
            kind = {"shift": ShiftOptions, "forgetting": ForgettingOptions}.get(name, SegmentationOptions)
            read_options(kind, name, "", arguments)


def test_the_page_says_how_the_protocol_would_be_run() -> None:
    ((script, *arguments),) = commands(SECTIONS["How to read the tables"])
    assert script == "recipes/table2.py"
    assert arguments[:2] == ["--preset", "paper"]
    assert arguments[-5:] == [f"{name}=DIR" for name in DATA_SETS]
    for name in ("table6", "table_a"):
        (told,) = re.findall(rf"`{name}\.py`[^`]*`([^`]*=FILE [^`]*)`", SECTIONS["How to read the tables"])
        labels = [text.partition("=")[0] for text in told.removeprefix("--weights ").split()]
        assert tuple(labels) == SOURCES[name]


@pytest.mark.parametrize("script", ["table2", "table3", "table5", "table6", "table_a", "figure4"])
def test_numbers_of_runs_are_those_of_the_protocol(script: str) -> None:
    compared = importlib.import_module(script).TABLE
    text = COMPARED[next(t for t, s in zip(COMPARED, SCRIPTS, strict=True) if s == script)]
    (told,) = re.findall(r"(\d+) runs(?:; (\d+) of them choose λ)?\.", text)
    each = len(DATA_SETS) * len(PAPER.seeds) * len(compared.rates) * len(compared.sources)
    grids = sum(len(METHODS[method].grid) for method in compared.methods)
    if script == "figure4":  # where each λ is a row
        assert told == (f"{each * (1 + grids)}", "")
    else:
        assert told == (f"{each * (len(compared.methods) + grids)}", f"{each * grids}")


def test_scripts_are_linked_to_their_sections() -> None:
    page = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| `(\w+)\.py` .*\| \[([\w ]+)\]\(paper\.md#", page, re.MULTILINE)
    assert linked == list(zip(SCRIPTS, TITLES, strict=True))


def test_the_table_of_the_readme_is_that_of_our_runs() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| \d+ \w+ \|(.*)\|$", page, re.MULTILINE)
    names = [("near", "cub10"), ("near", "cub36"), ("near", "pets3"), ("far", "grocery60"), ("far", "cars98")]
    for line, (table_name, data) in zip(shown, names, strict=True):
        found = {one["method"]: one for one in rows_of(f"compare-{table_name}") if one["data"] == data}
        expected = [f"{float(found['linear-probe']['top1']):.1f}"]
        for method in ("fine-tune", "LP-FT", "LP-FT+GTA"):
            one = found[method]
            low, high = (signed(float(one[f"probe_gain_{side}"])) for side in ("low", "high"))
            expected.append(f"{float(one['top1']):.1f} ({low} to {high})")
        assert [cell.strip() for cell in line.split("|")] == expected
