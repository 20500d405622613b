from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from typing import Any

import pytest
from rich.console import Console

from engine.results.paper import PaperTable, read_paper_table
from engine.results.plots import draw_methods
from engine.results.rows import Row, notes, rows, text_table
from engine.results.run_lines import machine_differences
from vitreg.train.basics.tables import csv_of
from vitreg.train.data.subset import Share
from vitreg.train.runs.report import Configuration, Report
from vitreg.train.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(steps=2, batch_size=4, lr=1e-3, weight_decay=0.05)
PAPER = PaperTable(
    {
        ("CUB", "fine-tune", 15.0): 40.0,
        ("CUB", "GTA", 15.0): 50.0,
        ("Pet", "fine-tune", 15.0): 70.0,
        ("Pet", "GTA", 15.0): 84.0,
    }
)


def report(
    data: str,
    method: str,
    seed: int,
    top1: float | None,
    *,
    lam: float | None = None,
    share: Share | None,
    **more: Any,
) -> Report:
    metrics = {**({} if top1 is None else {"top1": top1}), **more}
    fixed = (data, "f", "m", "w", 32, "crop")
    return Report(Configuration(*fixed, method, lam, share, seed, HYPER), metrics, [], 1.0, {})


SMALL = Share(rate=0.15)


def reports(data: str = "birds") -> list[Report]:
    return [
        report(data, "source", 0, None, share=None, object_share=[0.2, 0.6, 0.3], jaccard=[0.1, 0.5, 0.2]),
        report(
            data, "fine-tune", 0, 30.0, share=SMALL, object_share=[0.2, 0.4, 0.9], jaccard=[0.1, 0.3, 0.2]
        ),
        report(
            data, "GTA", 0, 42.0, lam=10.0, share=SMALL, object_share=[0.2, 0.6, 0.3], jaccard=[0.1, 0.5, 0.2]
        ),
        report(
            data, "fine-tune", 1, 34.0, share=SMALL, object_share=[0.2, 0.5, 0.9], jaccard=[0.1, 0.4, 0.2]
        ),
        report(
            data, "GTA", 1, 45.0, lam=10.0, share=SMALL, object_share=[0.2, 0.7, 0.3], jaccard=[0.1, 0.6, 0.2]
        ),
    ]


def by_method(table: list[Row]) -> dict[str, Row]:
    return {row.method: row for row in table}


def test_means_deviations_gains_and_differences() -> None:
    table = rows(reports("CUB"), PAPER)
    assert [row.method for row in table] == ["source", "fine-tune", "GTA"]
    gta = by_method(table)["GTA"]
    assert gta.top1 == statistics.fmean([42, 45])
    assert gta.std == pytest.approx(statistics.stdev([42, 45]))
    assert gta.num_seeds == 2
    assert gta.gain == pytest.approx(43.5 - 32)
    assert (gta.paper, gta.paper_gain) == (50.0, 10.0)
    assert gta.difference == pytest.approx(43.5 - 50)
    assert gta.is_paper_data


def test_sources_stand_beside_each_other_and_beside_the_paper_s() -> None:
    made = []
    for weights, top1 in (("dino", 30.0), ("ibot", 36.0)):
        source = report("CUB", "source", 0, None, share=None, object_share=[0.2, 0.6], jaccard=[0.1, 0.5])
        for one in (
            source,
            report("CUB", "fine-tune", 0, top1, share=SMALL, object_share=[0.2, 0.5], jaccard=[0.1, 0.4]),
            report(
                "CUB", "GTA", 0, top1 + 5, lam=10.0, share=SMALL, object_share=[0.2, 0.6], jaccard=[0.1, 0.5]
            ),
        ):
            configuration = dataclasses.replace(one.configuration, weights=weights)
            made.append(dataclasses.replace(one, configuration=configuration))
    table = rows(made, read_paper_table("table_a"), {"dino": "DINO", "ibot": "iBOT"})
    assert [(row.source, row.method, row.top1) for row in table] == [
        ("DINO", "source", None),
        ("iBOT", "source", None),
        ("DINO", "fine-tune", 30.0),
        ("DINO", "GTA", 35.0),
        ("iBOT", "fine-tune", 36.0),
        ("iBOT", "GTA", 41.0),
    ]
    assert [row.paper for row in table[2:]] == [38.31, 48.32, 41.376, 51.525]
    assert [row.gain for row in table[2:]] == [0.0, 5.0, 0.0, 5.0]
    assert "source" in text_table(table).columns
    assert draw_methods(table, [], "t") != draw_methods(table[2:4], [], "t")


def test_runs_of_different_machines_are_told() -> None:
    machine = {"device": "cpu", "threads": 2, "versions": {"torch": "2.6", "timm": "1.0.20"}}
    other = {"device": "cpu", "threads": 1, "versions": {"torch": "2.11", "timm": "1.0.20"}}
    made = [dataclasses.replace(one, machine=machine) for one in reports()]
    assert machine_differences(made) == []
    (warning,) = machine_differences([*made, dataclasses.replace(made[0], machine=other)])
    assert warning == "warning: not all runs were computed alike: threads 1 and 2, torch 2.11 and 2.6"


def test_other_data_stands_beside_the_mean_of_the_papers() -> None:
    table = rows(reports("birds"), PAPER)
    gta = by_method(table)["GTA"]
    assert (gta.paper, gta.paper_gain, gta.is_paper_data) == (67.0, 12.0, False)
    assert gta.difference is None  # of other pictures
    assert any("compare the gains" in note for note in notes(table))
    assert not any("compare the gains" in note for note in notes(rows(reports("CUB"), PAPER)))


def test_attention_is_of_the_block_that_the_source_chooses() -> None:
    table = by_method(rows(reports(), PAPER))
    # Block 1 is the source's; after fine-tuning block 2 would look better, but that is not asked.
    assert {row.block for row in table.values()} == {1}
    assert table["fine-tune"].object_share == pytest.approx(45.0)
    assert table["fine-tune"].object_share_std == pytest.approx(statistics.stdev([40, 50]))
    assert table["GTA"].jaccard == pytest.approx(55.0)
    assert table["source"].top1 is None


def test_one_seed_has_no_deviation_and_shots_have_no_paper() -> None:
    shots = Share(shots=5)
    table = rows([report("CUB", "fine-tune", 0, 30.0, share=shots)], PAPER)
    assert (table[0].std, table[0].paper, table[0].difference, table[0].object_share) == (None,) * 4
    names, body = list(text_table(table).columns), text_table(table).rows
    assert names == ["data", "trained on", "method", "seeds", "top-1"]
    assert body == [("CUB", "5 per class", "fine-tune", "1", "30.0")]


def test_each_lam_and_share_is_a_row() -> None:
    made = [
        report("birds", "GTA", seed, 40.0 + lam, lam=lam, share=share)
        for seed in (0, 1)
        for share in (SMALL, Share(rate=1.0))
        for lam in (1.0, 10.0)
    ]
    table = rows(made, PAPER)
    assert [(row.share, row.lam, row.num_seeds) for row in table] == [
        ("15 %", 1.0, 2),
        ("15 %", 10.0, 2),
        ("100 %", 1.0, 2),
        ("100 %", 10.0, 2),
    ]
    assert table[0].gain is None  # there is no fine-tuning to gain over
    assert table[2].paper is None  # the paper has no 100 % here


def test_the_table_is_a_pure_function_of_the_runs() -> None:
    made = reports()
    shuffled = [made[0], *reversed(made[1:])]
    assert {dataclasses.astuple(r) for r in rows(made, PAPER)} == {
        dataclasses.astuple(r) for r in rows(shuffled, PAPER)
    }
    assert draw_methods(rows(made, PAPER), [], "t") == draw_methods(rows(reports(), PAPER), [], "t")


def test_csv_is_unrounded_and_complete() -> None:
    table = rows(reports(), PAPER)
    read = list(csv.DictReader(io.StringIO(csv_of(list(map(vars, table))))))
    assert list(read[0]) == [field.name for field in dataclasses.fields(Row)]
    assert float(read[1]["std"]) == table[1].std
    assert read[0]["top1"] == ""


def test_markdown_and_terminal_show_the_same_cells() -> None:
    table = rows(reports(), PAPER)
    markdown = text_table(table).markdown("The title", notes(table))
    assert "| GTA | 10 | 2 | 43.5 ± 2.1 | +11.5 | 67.0 | +12.0 |" in markdown
    lines = markdown.splitlines()
    assert lines[0] == "### The title"
    assert {line.count("|") for line in lines[2:7]} == {lines[2].count("|")}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(text_table(table).rich())
    shown = console.export_text()
    for text in text_table(table).rows:
        assert all(cell in shown for cell in text[1:])
    assert "birds" not in shown  # one data set: its name is in the title
    narrow = Console(width=80, record=True, file=io.StringIO())
    narrow.print(text_table(table).rich())
    assert "…" not in narrow.export_text()


def test_plot_is_a_picture() -> None:
    assert draw_methods(rows(reports(), PAPER), [], "title").startswith(b"\x89PNG")


def test_numbers_of_the_paper() -> None:
    paper = read_paper_table("table3")
    assert len(paper.top1) == 5 * 4 * 2
    assert paper.number("cub", "GTA", Share(rate=0.15)) == 51.525
    mean = statistics.fmean([41.376, 56.100, 52.115, 59.775, 77.342])
    assert paper.number("elsewhere", "fine-tune", Share(rate=0.15)) == pytest.approx(mean)
    assert paper.number("CUB", "GTA", Share(rate=0.3)) is None
    assert paper.number("CUB", "BSS", Share(rate=0.15)) is None


def test_intervals_stand_beside_the_differences() -> None:
    made = [*reports(), *(report("birds", "linear-probe", seed, 50.0, share=SMALL) for seed in (0, 1))]
    made += [
        report("birds", "linear-probe", 2, 50.0, share=SMALL),
        report("birds", "fine-tune", 2, 32.0, share=SMALL),
        report("birds", "GTA", 2, 48.0, lam=10.0, share=SMALL),
    ]
    kept = {"fine-tune": (True, False, False, False), "GTA": (True, True, False, False)}

    def right(one: Report) -> tuple[bool, ...] | None:
        return kept.get(one.configuration.method)

    table = by_method(rows(made, PAPER, right=right))
    gta = table["GTA"]
    assert gta.gain_low is not None
    assert gta.gain_high is not None
    assert 0 <= gta.gain_low < 25 < gta.gain_high <= 75
    # The probe's predictions were not kept: Student's interval of -8, -5 and -2 over three seeds.
    assert gta.probe_gain == pytest.approx(-5)
    assert gta.probe_gain_low == pytest.approx(-5 - 4.302653 * 3 / 3**0.5, abs=1e-3)
    assert table["linear-probe"].probe_gain is None
    assert table["fine-tune"].gain_low is None
    cells = text_table(list(table.values())).columns
    assert cells["gain"][1] == ""
    assert cells["beside the probe"][2] == "-5.0 [-12.5, +2.5]"
    assert any("difference over seeds or seeds and pictures" in note for note in notes(list(table.values())))


def test_predictions_of_some_seeds_alone_give_no_interval() -> None:
    def right(one: Report) -> tuple[bool, ...] | None:
        return (True, False) if one.configuration.seed == 0 else None

    assert by_method(rows(reports(), PAPER, right=right))["GTA"].gain_low is None


def test_what_is_added_to_lp_ft_stands_beside_lp_ft() -> None:
    made = [report("birds", "LP-FT", seed, top1, share=SMALL) for seed, top1 in enumerate((50.0, 60.0, 70.0))]
    made += [
        report("birds", "LP-FT+GTA", seed, top1, lam=1.0, share=SMALL)
        for seed, top1 in enumerate((52.0, 61.0, 73.0))
    ]
    table = by_method(rows(made, PAPER))
    assert table["LP-FT"].start_gain is None
    guided = table["LP-FT+GTA"]
    assert guided.start_gain == pytest.approx(2.0)
    assert guided.start_gain_low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-3)  # Student, over seeds
    assert text_table(list(table.values())).columns["beside LP-FT"] == ["", "+2.0 [-0.5, +4.5]"]
