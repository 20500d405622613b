"""`vitreg attention`: what the model sees is what is shown, and the figure is whole or not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import vitreg.plot
from vitreg.cli.attention import as_the_model_sees
from vitreg.pictures.reading import read_picture

MODEL = "test_vit"


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path) -> None:
    """Work in an empty folder with two pictures."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("wide.png", (90, 60)), ("high.jpg", (50, 80))):
        noise = (torch.rand(size[1], size[0], 3) * 255).byte().numpy()
        Image.fromarray(noise).save(name)


def weights(name: str, **options: object) -> Path:
    """Write an untrained model's weights into a file."""
    state = timm.create_model(MODEL, **options).state_dict()
    save_file(state, name) if name.endswith(".safetensors") else torch.save(state, name)
    return Path(name)


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """Return what the command hands to `vitreg.plot`."""
    calls: list[dict] = []
    for name in ("attention", "rollout"):
        plain = getattr(vitreg.plot, name)

        def spy(models, images, *, plain=plain, name=name, **options):
            calls.append({"models": models, "images": images, "function": name, **options})
            return plain(models, images, **options)

        monkeypatch.setattr(vitreg.plot, name, spy)
    return calls


@pytest.mark.parametrize(("name", "begins"), [("o.png", b"\x89PNG"), ("o.PDF", b"%PDF"), ("o.svg", b"<?xml")])
def test_the_figure_is_written_in_its_format(name, begins, run) -> None:
    ended = run(f"attention {MODEL} wide.png high.jpg --random -o {name}")
    assert ended.code == 0
    assert ended.out == f"{name}: 2 pictures of 160×160 pixels; {MODEL}, model: random weights\n"
    assert Path(name).read_bytes().startswith(begins)
    assert sorted(path.name for path in Path().iterdir()) == sorted([name, "wide.png", "high.jpg"])


def test_what_is_shown_is_what_the_model_sees(run, drawn) -> None:
    assert run(f"attention {MODEL} wide.png high.jpg --random -o o.png").code == 0
    model = timm.create_model(MODEL)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    expected = torch.stack([transform(Image.open(n).convert("RGB")) for n in ("wide.png", "high.jpg")])
    torch.testing.assert_close(drawn[0]["images"], expected)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(drawn[0]["pictures"] / 255, expected * std + mean)
    assert not drawn[0]["models"].training


def test_a_picture_is_turned_as_its_camera_noted() -> None:
    upright = Image.new("RGB", (4, 2), "red")
    upright.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[274] = 6  # the camera was held so that the picture has to be turned by 90 degrees
    upright.save("turned.png", exif=exif)
    picture = read_picture(Path("turned.png"))
    assert picture.size == (2, 4)
    assert picture.getpixel((1, 0)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_of_a_file_with_another_head(kind, run, drawn) -> None:
    path = weights(f"w.{kind}", num_classes=7)
    assert run(f"attention {MODEL} wide.png --weights {path} -o o.png").code == 0
    own = drawn[0]["models"].state_dict()
    stored = timm.models.load_state_dict(str(path))
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[key], stored[key]) for key in own)


def test_weights_in_a_checkpoint_without_a_head(run, drawn) -> None:
    state = timm.create_model(MODEL, num_classes=0).state_dict()
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, "w.pth")
    assert run(f"attention {MODEL} wide.png --weights w.pth -o o.png").code == 0
    assert torch.equal(drawn[0]["models"].cls_token, state["cls_token"])


def test_a_source_beside_the_model(run, drawn) -> None:
    torch.manual_seed(1)
    weights("start.pth")
    weights("tuned.pth", num_classes=3)
    ended = run(f"attention {MODEL} wide.png --weights tuned.pth --source start.pth --layers all -o o.png")
    assert ended.out == (
        f"o.png: 1 picture of 160×160 pixels; {MODEL}, source: start.pth; model: tuned.pth\n"
    )
    assert list(drawn[0]["models"]) == ["source", "model"]
    assert [m.num_classes for m in drawn[0]["models"].values()] == [1000, 3]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", {"function": "attention", "layers": -1, "heads": "mean", "query": "cls"}),
        ("--layers 0,2,5 --heads each", {"layers": [0, 2, 5], "heads": "each"}),
        ("--layers -1", {"layers": -1}),
        ("--layers=-2,-1", {"layers": [-2, -1]}),
        ("--layers all --query mean", {"layers": "all", "query": "mean"}),
        ("--rollout", {"function": "rollout", "query": "cls"}),
        ("--rollout --query mean", {"function": "rollout", "query": "mean"}),
    ],
)
def test_options(given, expected, run, drawn) -> None:
    ended = run(f"attention {MODEL} wide.png --random {given} -o o.png")
    assert ended.code == 0, ended.err
    assert {name: drawn[0][name] for name in expected} == expected


def test_without_a_class_token_the_patches_are_asked(run, drawn) -> None:
    line = "attention vit_base_patch16_siglip_224 wide.png --random --size 32 -o o.png"
    assert run(line).code == 0
    assert drawn[0]["query"] == "mean"
    assert drawn[0]["images"].shape == (1, 3, 32, 32)


def test_another_picture_size(run, refused, drawn) -> None:
    name = "vit_tiny_patch16_224"
    torch.save(timm.create_model(name, img_size=64, num_classes=2).state_dict(), "w.pth")
    message = refused(f"attention {name} wide.png --weights w.pth -o o.png")
    assert "pos_embed (1, 17, 192) instead of (1, 197, 192)" in message
    assert "--size" in message
    for size in (64, 96):  # as it was trained, and resampled by timm
        assert run(f"attention {name} wide.png --weights w.pth --size {size} -o o.png").code == 0
        assert drawn[-1]["images"].shape == (1, 3, size, size)
    assert "whole patches of 16×16" in refused(f"attention {name} wide.png --random --size 50 -o o.png")
    other = "attention resnet18 wide.png --random --size 64 -o o.png"
    assert "timm cannot build resnet18 for 64 pixels" in refused(other)


def test_weights_that_do_not_fit_are_named(refused) -> None:
    state: dict[str, Tensor] = timm.create_model(MODEL).state_dict()
    state["surplus"] = state.pop("norm.bias")
    state["cls_token"] = state["cls_token"][..., :8].clone()
    torch.save(state, "w.pth")
    message = refused(f"attention {MODEL} wide.png --weights w.pth -o o.png")
    assert "missing: norm.bias" in message
    assert "unexpected: surplus" in message
    assert "cls_token (1, 1, 8) instead of (1, 1, 64)" in message


class Dangerous:
    def __reduce__(self) -> object:
        return Path.touch, (Path("executed"),)


def test_a_file_of_weights_is_not_executed(refused) -> None:
    torch.save({"state": Dangerous()}, "w.pth")
    message = refused(f"attention {MODEL} wide.png --weights w.pth -o o.png")
    assert "w.pth" in message
    assert "weights_only" not in message
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{MODEL} wide.png --random -o o.gif", ".png, .pdf, .svg, got o.gif"),
        (f"{MODEL} wide.png --random -o nowhere/o.png", "no folder nowhere"),
        (f"{MODEL} wide.png --random -o wide.png", "would replace the picture"),
        (f"{MODEL} none.png --random -o o.png", "there is no picture none.png"),
        (f"{MODEL} . --random -o o.png", "found the folder ."),
        (f"{MODEL} broken.png --random -o o.png", "broken.png: expected JPEG, PNG"),
        (f"{MODEL} cut.png --random -o o.png", "cut.png: it is not whole"),
        (f"{MODEL} wide.png --random --weights w.pth -o o.png", "not allowed with argument"),
        (f"{MODEL} wide.png --random --layers first -o o.png", "block numbers"),
        (f"{MODEL} wide.png --random --size 0 -o o.png", "pixels"),
        (f"{MODEL} wide.png --random --rollout --layers 1 -o o.png", "leave out --layers"),
        (f"{MODEL} wide.png --random --rollout --query pool -o o.png", "--query cls or mean"),
        (f"{MODEL} wide.png --random --query pool --layers 1 -o o.png", "leave out --layers"),
        ("test_vitt wide.png --random -o o.png", "Did you mean 'test_vit'"),
    ],
)
def test_refused_before_a_model_is_built(line, said, refused, monkeypatch) -> None:
    Path("broken.png").write_bytes(b"no picture")
    Path("cut.png").write_bytes(Path("wide.png").read_bytes()[:900])
    monkeypatch.setattr(timm, "create_model", None)
    assert said in refused(f"attention {line}")
    assert not Path("o.png").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{MODEL} wide.png --random --layers 6 -o o.png", "between -6 and 5"),
        (
            f"{MODEL} wide.png --weights none.pth -o o.png",
            "none.pth: expected a file of weights",
        ),
        (
            f"{MODEL} wide.png --weights wide.png -o o.png",
            "wide.png: expected a .safetensors, .npz or torch file",
        ),
        (
            f"{MODEL} wide.png --weights wide.safetensors -o o.png",
            "wide.safetensors: expected a whole",
        ),
        (
            f"{MODEL} wide.png --random --source none.pth -o o.png",
            "none.pth: expected a file of weights",
        ),
        (f"{MODEL} wide.png --source pretrained -o o.png", "are the same weights"),
        ("resnet18 wide.png --random -o o.png", "found none in ResNet"),
        ("swin_tiny_patch4_window7_224 wide.png --random -o o.png", "attention within windows"),
    ],
)
def test_refused_later(line, said, refused) -> None:
    Path("wide.safetensors").write_bytes(b"no tensors at all")
    assert said in refused(f"attention {line}")
    assert not Path("o.png").exists()


def test_matplotlib_is_not_installed(refused, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refused(f"attention {MODEL} wide.png --random -o o.png")
    assert 'pip install "vitreg[plot]"' in message


def test_pretrained_weights_are_fetched_unless_told_otherwise(run, refused, monkeypatch) -> None:
    plain, asked = timm.create_model, []

    def fetched(name, pretrained=False, **options):
        asked.append(pretrained)
        return plain(name, **options)

    monkeypatch.setattr(timm, "create_model", fetched)
    assert run(f"attention {MODEL} wide.png -o o.png").code == 0
    assert run(f"attention {MODEL} wide.png --random -o o.png").code == 0
    assert asked == [True, False]

    def unreachable(name, **options):
        raise OSError("no route to the hub")

    monkeypatch.setattr(timm, "create_model", unreachable)
    message = refused(f"attention {MODEL} wide.png -o o.png")
    assert f"Cannot fetch {MODEL}: no route to the hub." in message
    assert "--weights" in message
    assert "--random" in message


def test_without_pretrained_weights_nothing_untrained_is_drawn(refused) -> None:
    name = next(n for n in timm.list_models("vit_*") if not timm.models.is_model_pretrained(n))
    assert "no pre-trained weights" in refused(f"attention {name} wide.png -o o.png")


def test_what_was_there_stays_if_drawing_fails(refused, monkeypatch) -> None:
    Path("o.png").write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert "No space left" in refused(f"attention {MODEL} wide.png --random -o o.png")
    assert Path("o.png").read_text() == "before"
    assert sorted(path.name for path in Path().iterdir()) == ["high.jpg", "o.png", "wide.png"]


def test_grey_and_transparent_pictures_have_three_channels() -> None:
    Image.new("L", (20, 20), 100).save("grey.png")
    Image.new("RGBA", (20, 20), (1, 2, 3, 99)).save("clear.png")
    pictures = [read_picture(Path(name)) for name in ("grey.png", "clear.png")]
    shown, images = as_the_model_sees(pictures, timm.create_model(MODEL), 32)
    assert shown.dtype == torch.uint8
    assert shown.shape == images.shape == (2, 3, 32, 32)
