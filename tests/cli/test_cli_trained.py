"""`vitreg attention` on what a training wrote, in whatever form, and on pictures of odd modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from test_cli_attention import MODEL, drawn, weights  # noqa: F401  a fixture
from torch import Tensor

from vitreg.errors import InputError
from vitreg.pictures.reading import read_picture
from vitreg.train.models.stored import MODEL_FILE, Card, model_file, timm_config
from vitreg.weights import read_weights

SIZE = 96
MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path) -> None:
    """Work in a folder with a picture and what `vitreg finetune` leaves of a small model."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)).save("dog.png")
    card = Card(MODEL, {"img_size": SIZE}, SIZE, MEAN, STD, ("a", "b"))
    model = timm.create_model(MODEL, num_classes=2, img_size=SIZE)
    Path("result").mkdir()
    Path("result", MODEL_FILE).write_bytes(model_file(model, card))
    Path("result", "config.json").write_text(timm_config(card))


def test_a_fine_tuned_model_is_drawn_as_it_was_trained(run, drawn) -> None:  # noqa: F811
    weights("start.safetensors")
    assert run("attention local-dir:result dog.png -o folder.png").code == 0
    assert run(f"attention {MODEL} dog.png --weights result/{MODEL_FILE} -o file.png").code == 0
    for source in ("start.safetensors", f"result/{MODEL_FILE}"):
        ended = run(f"attention local-dir:result dog.png --source {source} -o both.png")
        assert ended.code == 0, ended.err
    ended = run(
        f"attention {MODEL} dog.png --weights result/{MODEL_FILE} --source start.safetensors -o o.png"
    )
    assert ended.code == 0, ended.err
    for call in drawn:
        pictures, images = call["pictures"], call["images"]
        assert pictures.shape[-2:] == (SIZE, SIZE)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        torch.testing.assert_close(images, (pictures / 255 - mean) / std)
    assert [model.num_classes for model in drawn[-1]["models"].values()] == [1000, 2]


def test_a_damaged_result_is_refused(refused) -> None:
    Path("result", MODEL_FILE).write_text("junk")
    assert "model.safetensors: expected a whole" in refused("attention local-dir:result dog.png -o o.png")
    weights("w.pth")
    for given in ("", "--weights w.pth"):
        assert "folder with config.json" in refused(f"attention local-dir:nowhere dog.png {given} -o o.png")


@pytest.mark.parametrize(
    "stored",
    [
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}},
        lambda state: {"model": {"state_dict": state}, "epoch": 3},
        lambda state: {"state_dict": {}, "model": state},
    ],
)
def test_state_dicts_in_the_forms_of_several_trainers(stored) -> None:
    state = timm.create_model(MODEL).state_dict()
    torch.save(stored(state), "w.pth")
    assert read_weights(Path("w.pth")).keys() == state.keys()


def test_what_a_file_holds_instead_is_said() -> None:
    torch.save({"mine": {"a": torch.zeros(1)}, "epoch": 3}, "w.pth")
    with pytest.raises(InputError, match=r"under one of .*state_dict.* found 'mine', 'epoch'"):
        read_weights(Path("w.pth"))
    weights("w.safetensors")
    Path("w.safetensors").rename("W.SAFETENSORS")
    assert read_weights(Path("W.SAFETENSORS"))


def grey_of(picture: Image.Image) -> Tensor:
    return torch.as_tensor(np.asarray(picture)[..., 0].astype(int))


def test_pictures_of_sixteen_bits_and_with_alpha() -> None:
    gradient = np.linspace(0, 65535, 16, dtype=np.uint16).reshape(4, 4)
    for name in ("deep.png", "deep.tiff"):
        Image.fromarray(gradient).save(name)
        assert torch.equal(grey_of(read_picture(Path(name))), torch.as_tensor(gradient.astype(int) // 257))
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    clear.putpixel((1, 1), (0, 0, 255, 255))
    clear.save("clear.png")
    assert read_picture(Path("clear.png")).getpixel((0, 0)) == (255, 255, 255)
    for name, values in (
        ("float.tiff", np.ones((4, 4), np.float32)),
        ("int.tiff", np.ones((4, 4), np.int32)),
    ):
        Image.fromarray(values).save(name)
        with pytest.raises(InputError, match="8 or 16 bits"):
            read_picture(Path(name))


def test_names_that_no_file_system_takes(refused) -> None:
    assert "picture" in refused(f"attention {MODEL} {'x' * 300}.png --random -o o.png")
    assert "Cannot write" in refused(f"attention {MODEL} dog.png --random -o {'x' * 248}.png")
