from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from engine.results.segmentation.jaccard import Segmentation
from engine.results.segmentation.table import (
    SegmentationRow,
    notes,
    read_paper_jaccard,
    segmentation_rows,
    text_table,
)
from vitreg.train.basics.tables import csv_of


def measured(jaccard: float, *, num_pictures: int = 1449, num_left_out: int = 0) -> Segmentation:
    return Segmentation(jaccard, jaccard / 2, jaccard + 0.01, 0.25, num_pictures, num_left_out)


FOUND = {
    "source": [measured(0.40)],
    "fine-tune": [measured(0.34), measured(0.38)],
    "GTA": [measured(0.43), measured(0.41)],
}


def table(data: str = "VOC", block: int = 11) -> dict[str, SegmentationRow]:
    return {row.model: row for row in segmentation_rows(data, FOUND, block=block, mass=0.6)}


def test_paper_s_numbers() -> None:
    assert read_paper_jaccard() == {"fine-tune": 0.367, "source": 0.386, "GTA": 0.399}


def test_rows() -> None:
    rows = table()
    assert list(rows) == ["source", "fine-tune", "GTA"]
    source, tuned, gta = rows.values()
    assert (source.jaccard, source.std, source.gain, source.paper, source.paper_gain) == (
        0.40,
        None,
        None,
        0.386,
        None,
    )
    assert (tuned.num_seeds, tuned.block) == (2, 11)
    assert tuned.jaccard == pytest.approx(0.36)
    assert tuned.std == pytest.approx(0.02 * 2**0.5)
    assert tuned.gain == pytest.approx(-0.04)
    assert tuned.paper_gain == pytest.approx(0.367 - 0.386)
    assert gta.mean_attention == pytest.approx(0.21)
    assert gta.foreground == pytest.approx(0.43)
    assert (gta.paper, gta.paper_gain) == (0.399, pytest.approx(0.013))
    assert gta.is_paper_data


def test_text_on_voc() -> None:
    rows = list(table().values())
    text = text_table(rows).markdown("table4", notes(rows))
    assert "| VOC | fine-tune | 2 | 11 | 0.360 ± 0.028 | -0.040 | 0.367 | -0.019 | 0.180 | 0.370 |" in text
    assert "| VOC | source |  | 11 | 0.400 |  | 0.386 |  | 0.200 | 0.410 |" in text
    assert "hold 60 % of the [CLS] attention of its best head in block 11" in text
    assert "whole picture would score 0.250. 1449 pictures." in text
    assert "share of the attention are not known" in text
    assert "other pictures" not in text


def test_text_on_other_pictures() -> None:
    few = {name: [measured(0.4, num_pictures=5, num_left_out=2)] for name in ("source", "GTA+TransMix")}
    said = "\n".join(notes(segmentation_rows("demo", few, block=3, mass=0.6)))
    assert "5 of 7 pictures: 2 without any object are not counted." in said
    assert "which are other pictures: compare the gains" in said
    assert "share of the attention" not in said
    (_, row) = segmentation_rows("demo", few, block=3, mass=0.6)
    assert (row.paper, row.paper_gain, row.is_paper_data) == (None, None, False)


def test_terminal_shows_the_rows() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(text_table(list(table().values())).rich())
    shown = captured.get()
    assert all(text in shown for text in ("fine-tune", "0.420 ± 0.014", "+0.020", "+0.013"))


def test_csv_is_unrounded() -> None:
    rows = list(table().values())
    written = list(csv.DictReader(io.StringIO(csv_of(list(map(vars, rows))))))
    assert [row["model"] for row in written] == ["source", "fine-tune", "GTA"]
    assert float(written[1]["std"]) == rows[1].std
    assert written[0]["std"] == ""
    assert written[2]["num_pictures"] == "1449"
