from __future__ import annotations

import csv
import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes

from engine.results.forgetting_rows import Forgotten, draw, forgotten_rows, text_table
from engine.results.intervals import picture_interval
from small_data import MODEL, SIZE, write_index, write_picture
from vitreg.errors import InputError
from vitreg.train.data.subset import Share
from vitreg.train.data.test_sets import read_source_pictures
from vitreg.train.models.start import photographed_start
from vitreg.train.runs.report import Configuration

SOURCE_RIGHT = [True, True, True, False]


def forgotten(method: str, top1: float, right: list[bool], *, seed: int, old: float) -> Forgotten:
    share = Share(shots=5)
    c = Configuration("pets", "f", "m", "w", 32, "crop", method, None, share, seed, None)
    curve = [(0.0, 60.0, 75.0), (1.0, top1, old)]
    return Forgotten(c, top1, right, SOURCE_RIGHT, 0.5 + 0.1 * seed, 0.9, 0.02, curve)


FOUND = [
    forgotten("fine-tune", 80, [True, False, False, False], seed=0, old=25),
    forgotten("LP-FT", 90, [True, True, True, False], seed=0, old=75),
    forgotten("fine-tune", 84, [True, True, False, False], seed=1, old=50),
    forgotten("LP-FT", 92, [True, True, False, False], seed=1, old=50),
]


def test_rows_say_what_was_lost() -> None:
    plain, probed = forgotten_rows(FOUND, {"w": ""})
    assert (plain.method, plain.num_seeds, plain.top1, plain.old_top1) == ("fine-tune", 2, 82, 37.5)
    assert plain.lost == pytest.approx(-37.5)
    now = {0: FOUND[0].right, 1: FOUND[2].right}
    interval = picture_interval(now, {0: SOURCE_RIGHT, 1: SOURCE_RIGHT})
    assert interval is not None
    assert (plain.lost_low, plain.lost_high) == pytest.approx(interval[:2])
    assert (plain.neighbours, plain.cka, plain.drift) == pytest.approx((55, 0.9, 0.02))
    assert probed.lost == pytest.approx(-12.5)
    assert text_table([plain, probed]).columns["old top-1"] == ["37.5", "62.5"]


def test_curves_lead_from_the_start_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def errorbar(self: Axes, x: Any, y: Any, *args: Any, label: str, **options: Any) -> None:
        seen[label] = list(zip(x, y, strict=True))

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    assert draw(FOUND, {"w": ""}, "title").startswith(b"\x89PNG")
    assert seen == {"fine-tune": [(75, 60), (37.5, 82)], "LP-FT": [(75, 60), (62.5, 91)]}


def test_labels_are_the_outputs_of_the_head(tmp_path: Path) -> None:
    for number in (7, 2):
        write_picture(tmp_path / "listed" / f"{number}.png", seed=number)
    rows = [["7.png", "7", "test"], ["2.png", "2", "test"]]
    write_index(tmp_path / "listed", rows, ["path", "label", "split"])
    found = read_source_pictures(tmp_path / "listed", 8, size=SIZE)
    assert sorted(found.labels) == [2, 7]
    with pytest.raises(InputError, match=r"expected 7 classes, as the source's head has, .* found 2"):
        read_source_pictures(tmp_path / "listed", 7, size=SIZE)
    for name in ("auk", "crow"):
        write_picture(tmp_path / "folders" / name / "1.png", seed=1)
    assert read_source_pictures(tmp_path / "folders", 2, size=SIZE).labels == (0, 1)
    with pytest.raises(InputError, match=r"expected 3 classes, as the source's head has"):
        read_source_pictures(tmp_path / "folders", 3, size=SIZE)


def test_a_source_is_whole_with_the_head_of_its_weights(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    start = photographed_start(str(weights), MODEL, size=SIZE)
    if "head.weight" in state:
        assert start.whole().state_dict()["head.weight"].equal(state["head.weight"])
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"head of the source's own task"):
        photographed_start(str(tmp_path / "bare.safetensors"), MODEL, size=SIZE).whole()


@pytest.mark.slow
def test_what_was_forgotten_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm
    from safetensors.torch import save_file

    new = [(label, number) for label, number in itertools.product(range(2), range(6))]
    for label, number in new:
        write_picture(tmp_path / "new" / f"{label}{number}.png", seed=50 * label + number)
    split = ["train", "train", "train", "test", "test", "test"]
    rows = [[f"{label}{number}.png", f"class{label}", split[number]] for label, number in new]
    write_index(tmp_path / "new", rows, ["path", "label", "split"])
    for number in range(12):
        write_picture(tmp_path / "old" / f"{number}.png", seed=100 + number)
    rows = [[f"{number}.png", str(number % 5), "test"] for number in range(12)]
    write_index(tmp_path / "old", rows, ["path", "label", "split"])
    source = timm.create_model(MODEL, num_classes=5, img_size=SIZE)
    torch.nn.init.normal_(source.head.weight)
    save_file(source.state_dict(), tmp_path / "source.safetensors")
    script: Any = importlib.import_module("forgetting")
    options = ["--data", f"new={tmp_path / 'new'}", "--weights", str(tmp_path / "source.safetensors")]
    options += ["--model", MODEL, "--size", str(SIZE), "--steps", "3", "--batch-size", "4", "--lr", "1e-2"]
    options += ["--rates", "1", "--seeds", "0", "--augment", "crop", "--device", "cpu"]
    options += [
        "--methods",
        "linear-probe",
        "LP-FT",
        "--alphas",
        "0",
        "0.5",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert script.main(options) == 2
    assert "--source-data DIR" in capsys.readouterr().err
    options += ["--source-data", str(tmp_path / "old")]
    assert script.main(options) == 0
    with open(tmp_path / "out" / "forgetting.csv", newline="") as file:
        probe, trained = csv.DictReader(file)
    assert [float(probe[name]) for name in ("lost", "neighbours", "cka", "drift")] == [0, 100, 1, 0]
    assert float(trained["neighbours"]) < 100
    assert float(trained["drift"]) > 0
    before = (tmp_path / "out" / "forgetting.csv").read_text()
    monkeypatch.setattr("engine.scripts.forgetting.stored_model", None)
    assert script.main(options) == 0
    assert (tmp_path / "out" / "forgetting.csv").read_text() == before
