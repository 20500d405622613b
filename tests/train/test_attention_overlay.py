from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import vitreg
from figure1 import main as figure1
from small_data import MODEL, SIZE
from vitreg.train.attention_overlay import attention_maps
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.models.weights import load_model


def test_maps_are_the_attention_that_the_model_pays(indexed: Path, state: dict[str, torch.Tensor]) -> None:
    task = photo_task(read_folder(indexed), name="indexed", size=SIZE, augment="none")
    model = load_model(MODEL, state, num_classes=2, size=SIZE)
    images = task.normalise(task.test[[2, 0]])
    maps = attention_maps(model, images, -1, accelerator=Accelerator(cpu=True))
    with torch.no_grad(), vitreg.trace(model, "attn_probs") as trace:
        model(images)
    expected = trace["attn_probs"][-1].mean(1)
    assert maps.shape == (2, 2, 2)
    torch.testing.assert_close(maps.flatten(1), expected)


def test_the_figure_is_drawn(indexed: Path, weights: Path, tmp_path: Path) -> None:
    given = ["--data", indexed, "--weights", weights, "--model", MODEL, "--size", "32", "--device", "cpu"]
    given += [
        "--steps",
        "2",
        "--batch-size",
        "4",
        "--shots",
        "2",
        "--out",
        tmp_path / "out",
        "--pictures",
        0,
        3,
    ]
    assert figure1([str(word) for word in given]) == 0
    with Image.open(tmp_path / "out" / "figure1.png") as picture:
        assert picture.width > 200


@pytest.mark.parametrize(("option", "value"), [("--pictures", "4"), ("--block", "6")])
def test_what_is_not_there(
    option: str, value: str, indexed: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", indexed, "--weights", weights, "--model", MODEL, "--size", "32", "--device", "cpu"]
    given += ["--steps", "1", "--batch-size", "2", "--shots", "2", "--out", tmp_path, option, value]
    assert figure1([str(word) for word in given]) == 2
    assert option in capsys.readouterr().err
