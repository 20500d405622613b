"""Every method has a card with the same sections, and the cards show what the files say."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

import _hooks
import vitreg
from _macros import cards, costs, differences, docstrings, from_probe, macros, results
from _macros.methods import CARDS, Card
from vitreg.projections import projections

ROOT = Path(__file__).parent.parent

METHODS = ROOT / "docs" / "methods"
NOT_PENALTIES = {"transmix": vitreg.TransMix, "freeze": vitreg.freeze, **projections._entries}

SECTIONS = (
    "Formula",
    "Use",
    "What it reads and costs",
    "In the paper",
    "Our results",
    "Differences",
    "When not to use it",
    "Source",
    "API",
)
"""The sections of a card, in order; above them is the method's sentence."""

by_card = pytest.mark.parametrize("name", CARDS)


def page(name: str) -> str:
    return (METHODS / f"{name}.md").read_text(encoding="utf-8")


def plain(text: str) -> str:
    """Return text without Markdown's backslashes, in one line."""
    return " ".join(text.replace("\\", "").split())


def test_every_method_has_a_card() -> None:
    penalties = {name.replace("_", "-") for name in vitreg.list_penalties()}
    assert penalties
    assert penalties | NOT_PENALTIES.keys() == CARDS.keys()
    for name, thing in NOT_PENALTIES.items():
        assert CARDS[name].thing is thing
    for name in vitreg.list_penalties():
        assert vitreg.penalties.penalties[name] is CARDS[name.replace("_", "-")].thing


def test_every_card_has_a_page_and_every_page_a_card() -> None:
    pages = {file.stem for file in METHODS.glob("*.md")} - {"index"}
    assert pages == CARDS.keys()
    config = {"nav": [{"Home": "index.md"}, {"Methods": ["methods/index.md"]}]}
    (shown,) = (section["Methods"] for section in _hooks.on_config(config)["nav"] if "Methods" in section)
    assert shown == ["methods/index.md", *({CARDS[name].title: f"methods/{name}.md"} for name in CARDS)]


@by_card
def test_sections_are_in_order(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", page(name), flags=re.DOTALL | re.MULTILINE)
    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == SECTIONS
    assert re.findall(r"^# (.+)$", text, re.MULTILINE) == [CARDS[name].title]


@by_card
def test_each_section_is_made_from_its_own_file(name: str) -> None:
    made = {
        "": ["method_sentence"],
        "Formula": ["method_formula"],
        "What it reads and costs": ["method_reads", "method_costs"],
        "In the paper": ["method_in_the_paper"],
        "Our results": ["method_results"],
        "Differences": ["method_differences"],
        "Source": ["method_source"],
        "API": ["method_api"],
    }
    before, *sections = re.split(r"^## ", page(name), flags=re.MULTILINE)
    texts = {"": before} | {s.split("\n", 1)[0]: s for s in sections}
    for section, asked in made.items():
        for macro in asked:
            assert f'{{{{ {macro}("{name}") }}}}' in texts[section]
    assert "```python" in texts["Use"]


@by_card
def test_a_card_says_something(name: str) -> None:
    for asked, macro in macros().items():
        if asked.startswith("method_"):
            assert macro(name).strip(), asked
    assert docstrings.method_sentence(name).endswith(".")
    assert "$$" in docstrings.method_formula(name) or name == "freeze"
    assert "](https://" in docstrings.method_source(name)


def test_one_table_says_of_each_method_when_to_try_it() -> None:
    lines = cards.methods_table().splitlines()[2:]
    assert len(lines) == len(CARDS)
    for line, (name, of) in zip(lines, CARDS.items(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == f"[{of.title}]({name}.md)"
        assert len(cells) == 7
        assert all(cells), f"{name}: an empty cell; the head of its card has 'holds' and 'first'"
    assert "labels, the source's head" in cards.methods_table()


def test_pages_ask_only_for_what_there_is() -> None:
    pages = [*METHODS.glob("*.md"), ROOT / "docs" / "choose.md"]
    asked = {name for file in pages for name in re.findall(r"\{\{ (\w+)\(", file.read_text(encoding="utf-8"))}
    assert asked
    assert asked <= macros().keys()


def test_every_difference_is_shown_once() -> None:
    files = [file for folder in differences.FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    marks = {
        f.relative_to(ROOT).as_posix(): f.read_text(encoding="utf-8").count("# NOTE[DIFF]") for f in files
    }
    found = differences.all_notes()
    assert sum(marks.values()) == len(found) > 20
    shown = differences.all_differences()
    for file, count in marks.items():
        assert shown.count(f"`{file}`") == (1 if count else 0)
        assert sum(difference.file == file for difference in found) == count
    assert all(plain(shown).count(plain(f"`{one.where}`: {one.text}")) == 1 for one in found)
    assert "{{ all_differences() }}" in page("index")


def test_a_card_shows_the_differences_of_its_files() -> None:
    for name in CARDS:
        shown = plain(differences.method_differences(name))
        for difference in differences.all_notes():
            assert (plain(difference.text) in shown) == difference.concerns(name)
    assert "0.884" not in differences.method_differences("delta")


def test_a_difference_is_read_to_its_end_and_located() -> None:
    text = """
# NOTE[DIFF]: above a constant,
# in two lines.
LIMIT = 3


class Outer:
    def inner(self):
        # A comment.
        # NOTE[DIFF]: one.
        # NOTE[DIFF]: another.

        # Not of it.
        return "# NOTE[DIFF]: a string"
"""
    assert differences.differences_in(text, "f.py") == [
        differences.Difference("f.py", "LIMIT", "above a constant, in two lines."),
        differences.Difference("f.py", "Outer.inner", "one."),
        differences.Difference("f.py", "Outer.inner", "another."),
    ]


@by_card
def test_costs_are_those_of_the_reports(name: str) -> None:
    shown = costs.method_costs(name)
    rows = 0
    for file in (ROOT / "benchmarks" / "results").glob("overhead-*.json"):
        report = json.loads(file.read_text(encoding="utf-8"))
        for step in CARDS[name].steps:
            if step in report["rows"]:
                row, rows = report["rows"][step], rows + 1
                name_of_row = rf"\| {re.escape(step)}(, beside \w+)? \|" if len(CARDS[name].steps) > 1 else ""
                ratios = [f"| {row[r]:.3f} " for r in ("ratio", "ratio_first_quartile", "peak_ratio")]
                lines = [line for line in shown.splitlines() if re.match(name_of_row, line)]
                assert sum(all(ratio in line for ratio in ratios) for line in lines) == 1
                assert report["setting"]["date"] in shown
    lines = [line for line in shown.splitlines() if line.startswith("|") and "---" not in line]
    assert sum("time" not in line for line in lines) == rows
    assert bool(rows) == (shown != "What a step costs was not measured.")
    known = {step for report in costs.reports().values() for step in report["rows"]}
    assert set(CARDS[name].steps) <= known


@by_card
def test_the_papers_values_are_those_of_its_table(name: str) -> None:
    if not CARDS[name].paper:
        assert "does not test it" in results.method_in_the_paper(name)
        return
    with open(ROOT / "recipes" / "paper" / f"{CARDS[name].paper}.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = re.sub(r" ± [\d.]+", "", results.method_in_the_paper(name))
    for method in CARDS[name].rows:
        for rate in ("15", "100"):
            of = {"method": method, "plain": results.BASELINE}
            found = {
                k: [r for r in rows if (r["method"], r["rate_percent"]) == (m, rate)] for k, m in of.items()
            }
            own, plainly = ([float(r["acc1_mean"]) for r in found[k]] for k in of)
            assert len(own) == len(plainly) == 5
            cells = " | ".join(f"{value:.1f}" for value in [*own, sum(own) / 5])
            gain = results.signed(sum(own) / 5 - sum(plainly) / 5)
            assert f"| {rate} % | {method} | {cells} | {gain} |" in shown


@by_card
def test_our_results_are_rows_of_our_tables(name: str) -> None:
    shown = results.method_results(name).replace("\N{NO-BREAK SPACE}", " ")
    for table in results.TABLES:
        for row in results.rows_of(table):
            if row["method"] in CARDS[name].rows:
                top1 = f"{float(row['top1']):.1f}" + (f" ± {float(row['std']):.1f}" if row["std"] else "")
                assert f"| {top1} | {'+' if float(row['gain']) >= 0 else '−'}" in shown, f"{table}: {row}"


def test_no_table_of_ours_is_left_out() -> None:
    with_gains = {
        path.parent.name
        for path in results.RESULTS.glob("*/*.csv")
        if "-" not in path.stem and "method,lam" in path.read_text().splitlines()[0]
    }
    elsewhere = {
        name
        for name in with_gains
        if name.startswith(("figure4-", "steps-", "compare-", "shift-", "forgetting-"))
    }
    assert elsewhere
    assert results.TABLES.keys() == with_gains - elsewhere, "add it to TABLES in docs/_macros/results.py"


def test_cards_say_whether_the_source_runs() -> None:
    assert "source runs on every" in cards.method_reads("gta")
    assert "only the source's head" in cards.method_reads("co-tuning")


def test_costs_say_what_they_are_compared_with() -> None:
    assert "Times a plain training step (TransMix: a step with CutMix), on " in costs.method_costs("transmix")
    assert "Times a plain training step, on " in costs.method_costs("gta")


def test_what_was_not_measured_is_said() -> None:
    assert "not measured on photographs" in results.method_results("freeze")
    assert "on photographs" not in results.method_results("gta")
    assert costs.method_costs("freeze") == "What a step costs was not measured."


def test_all_rows_from_the_probe_are_shown_in_bold_beyond_chance() -> None:
    text = from_probe.beside_lp_ft().replace("\N{NO-BREAK SPACE}", " ").replace("−", "-")
    table = [line for line in text.splitlines() if "|" in line]
    lines = {re.sub(r"\[|\].*", "", line.split("|")[1]).strip(): line for line in table}
    found = [row for table in from_probe.TABLES for row in results.rows_of(table) if row["start_gain"]]
    rows = list({(row["method"], row["data"]): row for row in reversed(found)}.values())
    rows = [row for row in rows if row["data"] != "cub10"]  # which few rows have
    for row in rows:
        low, high = float(row["start_gain_low"]), float(row["start_gain_high"])
        shown = f"[{low:+.1f}, {high:+.1f}]".replace("-0.0", "+0.0")
        line = lines[row["method"].removeprefix("LP-FT+")]
        is_sure, is_one_seed = low > 0 or high < 0, row["num_seeds"] == "1"
        assert f"{shown}{'*' if is_one_seed else '**' if is_sure else ''} |" in line, row
    assert {row["data"] for row in rows} < from_probe.PICTURES.keys()
    assert "| groceries |" in from_probe.beside_lp_ft("transmix")


def test_tables_and_sections_that_results_link_to_exist() -> None:
    for table, link in results.TABLES.items():
        target = re.search(r"\]\(\.\./([\w-]+\.md)#", link)
        assert target is not None
        assert (ROOT / "docs" / target[1]).is_file(), table


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(KeyError, match="expected a method with a card"):
        docstrings.method_sentence("unknown")
    with pytest.raises(KeyError, match="found 0"):
        results.our_figure("cub10", "GTA", "15 %", lam="3")
    with pytest.raises(KeyError, match="found 2"):
        results.our_figure("grocery60", "GTA", "15 %")


@pytest.mark.parametrize(
    ("docstring", "macro", "said"),
    [
        ("One.\n\nSource: nobody 1999.", docstrings.method_source, "arXiv number or an address"),
        ("One.", docstrings.method_source, "one paragraph 'Source: …'"),
        ("One.\n\nMore words.", docstrings.method_formula, "found neither"),
    ],
)
def test_an_unclear_docstring_is_refused(
    docstring: str, macro: object, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def method() -> None: ...

    method.__doc__ = docstring
    monkeypatch.setitem(CARDS, "method", Card("Method", method, "train.md#method", (), "table2"))
    assert callable(macro)
    with pytest.raises(ValueError, match=re.escape(said)):
        macro("method")
