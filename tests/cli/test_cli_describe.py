"""`vitreg describe`: models of every library by name, without weights."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import timm
import torch

import vitreg
from vitreg.cli.build import build


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test_vit", "VisionTransformer: 6 blocks of Attention, 2 heads, width 64"),
        ("vit_tiny_patch16_224.augreg_in21k", "14×14 patches"),
        ("open_clip:ViT-B-16", "VisionTransformer at 'visual': 12 blocks of MultiheadAttention"),
        ("open_clip:ViT-B-16-SigLIP", "at 'visual.trunk'"),
        ("torchvision:vit_b_16", "12 blocks of MultiheadAttention, 12 heads, width 768"),
    ],
)
def test_by_name(name, said, run) -> None:
    ended = run(["describe", name])
    assert ended.code == 0
    assert said in ended.out
    assert ended.err == ""


@pytest.mark.parametrize("name", ["test_vit", "convit_tiny", "swin_tiny_patch4_window7_224"])
def test_without_values_the_description_is_the_same(name) -> None:
    without = build(name)
    assert all(parameter.is_meta for parameter in without.parameters())
    assert vitreg.describe(without) == vitreg.describe(timm.create_model(name))


def test_where_values_are_needed_it_is_built_on_the_cpu(monkeypatch) -> None:
    plain = timm.create_model

    def looks_at_values(*args, **kwargs):
        model = plain(*args, **kwargs)
        float(next(model.parameters()).sum().detach())
        return model

    monkeypatch.setattr(timm, "create_model", looks_at_values)
    assert not any(parameter.is_meta for parameter in build("test_vit").parameters())


def test_json_has_every_field(run) -> None:
    found = json.loads(run("describe test_vit --json").out)
    expected = vitreg.describe(timm.create_model("test_vit"))
    assert found == json.loads(json.dumps(dataclasses.asdict(expected)))


def test_local_folder_of_timm(run, tmp_path) -> None:
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}, "model_args": {"img_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "4×4 patches" in run(["describe", f"local-dir:{tmp_path}"]).out


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"architecture": "nobody"}', '{"architecture": "test_vit", "x": 1}']
)
def test_a_configuration_that_says_nothing(text, refused, tmp_path) -> None:
    (tmp_path / "config.json").write_text(text)
    for form in ("local-dir", "hf"):
        assert "Cannot read the configuration of" in refused(["describe", f"{form}:{tmp_path}"])


def test_local_folder_of_transformers(run, tmp_path) -> None:
    import transformers

    transformers.ViTConfig(num_hidden_layers=2, image_size=64).save_pretrained(tmp_path)
    assert run(["describe", f"hf:{tmp_path}"]).out.startswith("ViTModel: 2 blocks of ViTAttention")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "vit_smal_patch16_224",
            "timm has no model 'vit_smal_patch16_224'. Did you mean 'vit_small_patch16_224'",
        ),
        ("zzzzzz", "`vitreg models` lists"),
        ("vit_small_patch16_224.dyno", "no weights 'dyno' of 'vit_small_patch16_224'. Did you mean 'dino'?"),
        ("google/vit", "hf:google/vit (transformers)"),
        ("nobody:x", "or a name behind one of hf-hub:, local-dir:, open_clip:, torchvision:, hf:"),
        ("open_clip:", "the name of a model after 'open_clip:'"),
        ("open_clip:vit-b-61", "Did you mean 'ViT-B-16'"),
        ("torchvision:vit_b_61", "Did you mean 'vit_b_16'"),
        ("resnet18", "found none in ResNet"),
        ("torchvision:resnet18", "found none in ResNet"),
        ("open_clip:RN50", "found none in CLIP"),
    ],
)
def test_refused(name, said, refused) -> None:
    assert said in refused(["describe", name])


@pytest.mark.parametrize("form", ["hf", "local-dir"])
def test_a_folder_without_a_configuration(form, refused, tmp_path) -> None:
    message = refused(["describe", f"{form}:{tmp_path}"])
    assert "config.json" in message
    assert str(tmp_path) in message


def test_the_hub_out_of_reach(refused, monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    message = refused("describe hf:org/name")
    assert "Cannot read the configuration of org/name: no route to the hub." in message
    assert "a connection to it" in message


@pytest.mark.parametrize(
    ("form", "library", "extra"), [("open_clip", "open_clip", "clip"), ("hf", "transformers", "transformers")]
)
def test_a_library_that_is_not_installed(form, library, extra, refused, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert f'not installed: pip install "vitreg[{extra}]"' in refused(["describe", f"{form}:x/y"])


def test_building_changes_no_default(run) -> None:
    run("describe test_vit")
    assert torch.empty(1).device.type == "cpu"
