from __future__ import annotations

import functools
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from finetuned import table
from small_data import MODEL, SIZE, write_picture
from vitreg.cli import main
from vitreg.errors import InputError
from vitreg.pictures.finding import find_pictures
from vitreg.train import load_model, predict
from vitreg.train.models.stored import load_stored
from vitreg.train.runs.predictions import RANKS


def test_the_model_is_loaded_by_timm_and_by_load_state_dict(result: Path) -> None:
    model, card = load_stored(result)
    file = result / "model.safetensors"
    pictures = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = model(pictures)

    plain = timm.create_model(MODEL, num_classes=3, img_size=SIZE).eval()
    assert not torch.allclose(plain(pictures), expected)
    plain.load_state_dict(load_file(file))
    assert torch.equal(plain(pictures), expected)

    def overlaid(**overlay: object) -> torch.nn.Module:
        overlay = {"file": str(file), **overlay}
        create = functools.partial(timm.create_model, MODEL, num_classes=3, img_size=SIZE)
        return create(pretrained=True, pretrained_cfg_overlay=overlay).eval()

    assert torch.equal(overlaid(num_classes=3)(pictures), expected)
    # Why the page tells everybody to write num_classes twice: without it timm drops the head in silence.
    assert not torch.equal(overlaid().head.weight, model.head.weight)

    local = timm.create_model(f"local-dir:{result}", pretrained=True).eval()
    assert torch.equal(local(pictures), expected)
    fixed = timm.data.resolve_model_data_config(local)
    prepared = tuple(tuple(fixed[key]) for key in ("input_size", "mean", "std"))
    assert prepared == ((3, SIZE, SIZE), card.mean, card.std)
    assert local.pretrained_cfg["label_names"] == ["auk", "booby", "crow"]


def test_prediction_of_the_test_pictures_is_what_finetune_wrote(
    result: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreg.train.prediction.BATCH_SIZE", 4)  # so that the pictures come in two batches
    out = tmp_path / "new"
    given = [
        class_folders / "test",
        class_folders / "test" / "auk" / "0.png",
        "--model",
        result,
        "--out",
        out,
    ]
    assert main(["predict", *map(str, [*given, "--attention", "--device", "cpu"])]) == 0
    found, expected = table(out / "predictions.csv"), table(result / "predictions.csv")
    assert [Path(row["path"]) for row in found] == [class_folders / row["path"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys() - {"true"}
        assert [row[rank] for rank in RANKS] == [other[rank] for rank in RANKS]
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=2e-4)
    with Image.open(out / "attention.png") as picture:
        assert picture.width > 300

    # timm, told only the folder, prepares pictures alike and says the same.
    model = timm.create_model(f"local-dir:{result}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    for row in found:
        with torch.no_grad(), Image.open(row["path"]) as picture:
            share = model(transform(picture.convert("RGB"))[None]).softmax(1)
        assert float(share.max()) == pytest.approx(float(row["probability"]), abs=2e-3)
        assert model.pretrained_cfg["label_names"][int(share.argmax())] == row["predicted"]


@pytest.mark.parametrize(
    ("place", "model", "message"),
    [
        ("nowhere", "out", "there is no picture or folder"),
        ("empty", "out", "no picture in"),
        ("out/report.json", "out", "cannot read the picture"),
        ("birds/test", "nowhere", "cannot read the model"),
        ("birds/test", "other.safetensors", "does not say how it is used"),
    ],
)
def test_prediction_of_what_cannot_be_read(
    place: str, model: str, message: str, result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    words = [tmp_path / place, "--model", tmp_path / model, "--out", tmp_path / "new", "--device", "cpu"]
    assert main(["predict", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new" / "predictions.csv").exists()


def test_pictures_are_found_below_folders_once_and_in_order(tmp_path: Path) -> None:
    paths = [write_picture(tmp_path / name, seed=0) for name in ("b/c/1.png", "a/2.JPG", "a/1.png")]
    (tmp_path / "a" / "notes.txt").write_text("")
    assert find_pictures([tmp_path, paths[0]]).pictures == sorted(paths)
    assert find_pictures([paths[0], tmp_path]).pictures == [paths[0], *sorted(paths)[:2]]


def test_a_folder_with_a_model_keeps_its_predictions(result: Path, class_folders: Path) -> None:
    before = (result / "predictions.csv").read_bytes()
    with pytest.raises(InputError, match="holds a model and the predictions of its test pictures"):
        predict(class_folders / "test", model=result, out=result)
    assert (result / "predictions.csv").read_bytes() == before


def test_what_is_no_list_of_pictures(result: Path, class_folders: Path) -> None:
    model, file = load_model(result), class_folders / "test" / "auk" / "0.png"
    for wrong in (file, str(file), Image.new("RGB", (9, 9)), []):
        with pytest.raises(InputError, match=r"expected a list of pictures, got .*give"):
            model.probabilities(wrong)
    with pytest.raises(InputError, match=r"expected a file or a picture of Pillow, got Tensor"):
        model.top(torch.rand(3, SIZE, SIZE))
