"""The choice between probe and fine-tuned model: paired, by training pictures alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from finetuned import arguments, run
from vitreg.train.choice import Choice, Standing, paired_difference
from vitreg.train.models.stored import MODEL_FILE, load_stored
from vitreg.train.trials import PROBE, Trial

TUNED = Trial("LP-FT+GTA", 10, 5e-5)


def standing(trial: Trial, right: int, wrong: int) -> Standing:
    return Standing(trial, (True,) * right + (False,) * wrong, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_paired_difference_against_a_loop(pairs: list[tuple[bool, bool]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = paired_difference(first, second)
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    n = len(pairs)
    mean = (only_first - only_second) / n
    assert found.points == pytest.approx(100 * mean)
    assert found.chance == pytest.approx(
        200 * math.sqrt(((only_first + only_second) / n - mean**2) / n), abs=1e-6
    )
    other = paired_difference(second, first)
    assert (other.points, other.chance) == (pytest.approx(-found.points), pytest.approx(found.chance))


@pytest.mark.parametrize(
    ("probe", "tuned", "is_probe"), [((8, 2), (7, 3), True), ((7, 3), (8, 2), False), ((7, 3), (7, 3), False)]
)
def test_the_higher_one_is_delivered_and_of_a_tie_the_fine_tuned(
    probe: tuple[int, int], tuned: tuple[int, int], is_probe: bool
) -> None:
    choice = Choice(standing(PROBE, *probe), standing(TUNED, *tuned), 2)
    assert choice.is_probe == is_probe
    said = str(choice)
    assert said.startswith("the linear probe is" if is_probe else "the fine-tuned model is")
    assert ("--search" in said) == is_probe
    assert "10 training pictures, held out in 2 folds" in said


def write_colours(root: Path, *, swapped: bool = False) -> Path:
    """Write three classes that are told apart by their colour, which a probe sees at once."""
    for label, name in enumerate(("auk", "booby", "crow")):
        for split, count in (("train", 6), ("test", 3)):
            for number in range(count):
                generator = np.random.default_rng([label, number, count])
                pixels = generator.integers(0, 60, (40, 40, 3), dtype=np.uint8)
                pixels[..., label] += 150
                shown = ("booby", "crow", "auk")[label] if swapped and split == "test" else name
                path = root / split / shown / f"{name}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


@pytest.mark.slow
def test_what_is_reported_on_chooses_nothing(weights: Path, tmp_path: Path) -> None:
    """Wrong labels of the reported pictures change what is reported, and nothing of what is delivered."""
    folders = [write_colours(tmp_path / name, swapped=name == "other") for name in ("one", "other")]
    outs = [tmp_path / f"out-{folder.name}" for folder in folders]
    for folder, out in zip(folders, outs, strict=True):
        assert run(*arguments(folder, weights, out), "--lr", "1e-3", "--search", "--lrs", "1e-3") == 0
    one, other = (json.loads((out / "report.json").read_text()) for out in outs)
    assert one["metrics"]["top1"] != other["metrics"]["top1"]
    for key in ("delivered", "choice", "search", "losses"):
        assert one[key] == other[key]
    states = [load_file(out / MODEL_FILE) for out in outs]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_the_probe_is_delivered_where_fine_tuning_fails(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_colours(tmp_path / "colours"), tmp_path / "out"
    words = [*arguments(folder, weights, out), "--lr", "0.5", "--layer-decay", "1", "--method", "fine-tune"]
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "the linear probe is delivered: on 18 training pictures, held out in 2 folds" in shown
    found = json.loads((out / "report.json").read_text())
    assert found["delivered"] == "linear probe"
    assert found["configuration"]["method"] == "linear-probe"
    assert found["linear_probe"]["top1"] == found["metrics"]["top1"] > found["fine_tuned"]["top1"]
    assert found["choice"]["linear_probe_top1"] > found["choice"]["fine_tuned_top1"]
    _, card = load_stored(out)
    assert "linear-probe" in card.run
    probe = f"linear probe {found['metrics']['top1']:.1f} · fine-tuned (no guide, lr 0.5)"
    assert probe in shown

    assert run(*words, "--select", "none") == 0  # the last epoch, come what may
    assert json.loads((out / "report.json").read_text())["delivered"] == "fine-tuned"
    assert "held out in" not in capsys.readouterr().out


def test_a_class_with_one_picture_leaves_no_choice(
    class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((class_folders / "train" / "auk").iterdir())[1:]:
        path.unlink()
    assert run(*arguments(class_folders, weights, tmp_path / "out")) == 0
    assert "a class has a single training picture" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["choice"] is None
