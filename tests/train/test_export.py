"""A stored model as a file for other programs, and asked from Python: it says what the model says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetuned import table
from small_data import SIZE, write_picture
from vitreg.cli import main
from vitreg.errors import InputError, MissingLibraryError
from vitreg.train import export as export_model
from vitreg.train import load_model
from vitreg.train.training.device import make_accelerator

exporting = sys.modules["vitreg.train.export"]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return [write_picture(tmp_path / "new" / f"{number}.png", seed=number) for number in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_the_file_alone_says_what_the_model_says(
    format: str, result: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", result, "--format", format, "--pictures", pictures[0].parent]
    assert main(list(map(str, given))) == 0
    assert "of the model's on 3 of your pictures" in capsys.readouterr().out
    file = result / ("model.onnx" if format == "onnx" else "model.pt2")
    notes = json.loads(file.with_name(f"{file.name}.json").read_text())
    # Prepared as the notes say, by Pillow and NumPy.
    prepared = []
    for path in pictures:
        with Image.open(path) as stored:
            picture = stored.convert("RGB")
        short = notes["preprocessing"][0]["resize_short_side"]
        scale = short / min(picture.size)
        picture = picture.resize([int(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
        left, top = (round((side - SIZE) / 2) for side in picture.size)
        values = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float32) / 255
        step = notes["preprocessing"][3]
        values = (values - np.float32(step["subtract_mean"])) / np.float32(step["divide_by_std"])
        prepared.append(values.transpose(2, 0, 1))
    batch = np.stack(prepared)
    if format == "onnx":
        import onnxruntime

        (logits,) = onnxruntime.InferenceSession(str(file)).run(None, {notes["input"]["name"]: batch})
    else:
        logits = torch.export.load(file).module()(torch.from_numpy(batch)).detach().numpy()
    shares = torch.from_numpy(logits).softmax(1)
    model = load_model(result, device="cpu")
    torch.testing.assert_close(shares, model.probabilities(pictures), atol=2e-3, rtol=0)
    assert tuple(notes["classes"]) == model.classes


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_a_file_that_differs_is_not_kept(wrong: float, result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def distorted(network: torch.nn.Module, _: torch.Tensor) -> tuple[bytes, object]:
        return b"file", lambda batch: network(batch) + wrong * network(batch).abs().max()

    monkeypatch.setitem(exporting._FORMATS, "onnx", (distorted, "onnx"))
    with pytest.raises(InputError, match="nothing was written"):
        export_model(result)
    assert not list(result.glob("model.onnx*"))


def test_what_cannot_be_exported_is_said(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="expected onnx or torch; did you mean onnx"):
        export_model(result, format="onxx")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(MissingLibraryError, match=r"vitreg\[export\]"):
            export_model(result)

    def refuses(*_: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setitem(exporting._FORMATS, "onnx", (refuses, "onnx"))
    with pytest.raises(InputError, match=r"cannot be written as onnx: RuntimeError: no such operator$"):
        export_model(result)


def test_one_picture_and_a_batch_from_python(result: Path, class_folders: Path, pictures: list[Path]) -> None:
    model = load_model(result, device="cpu")
    rows = table(result / "predictions.csv")
    assert list(rows[0]) == [
        *("path", "true", "predicted", "probability"),
        *("second", "second_probability", "third", "third_probability"),
    ]
    for row in rows:
        top = model.top(class_folders / row["path"])
        assert [name for name, _ in top] == [row["predicted"], row["second"], row["third"]]
        given = [row["probability"], row["second_probability"], row["third_probability"]]
        assert [share for _, share in top] == pytest.approx(list(map(float, given)), abs=2e-4)
    shares = model.probabilities(pictures)
    assert shares.shape == (3, 3)
    with Image.open(pictures[0]) as opened:
        opened.load()
        turned = opened.rotate(90, expand=True)  # which its camera noted
        turned.getexif()[274] = 6
        both = model.probabilities([opened, turned])
    torch.testing.assert_close(both, shares[[0, 0]])
    assert len(model.top(pictures[0], k=1)) == 1
    with pytest.raises(InputError, match="there is no picture"):
        model.top("nowhere.jpg")
    assert make_accelerator("cpu").device == model.accelerator.device
