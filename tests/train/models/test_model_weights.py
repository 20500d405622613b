from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from small_data import MODEL, SIZE
from vitreg.errors import InputError
from vitreg.train.models.weights import empty_model, file_hash, load_model, state_hash
from vitreg.weights import read_weights

State = dict[str, Tensor]


def loaded(path: Path) -> nn.Module:
    return load_model(MODEL, read_weights(path), num_classes=3, size=SIZE)


def assert_backbone_is(model: nn.Module, state: State, *, atol: float = 0.0) -> None:
    own = model.state_dict()
    backbone = [key for key in own if not key.startswith("head.")]
    assert len(backbone) > 20
    for key in backbone:
        torch.testing.assert_close(own[key], state[key], atol=atol, rtol=atol)
    assert own["head.weight"].shape[0] == 3


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "teacher", "student"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_wrappers_and_prefixes(tmp_path: Path, state: State, wrapper: str | None, prefix: str) -> None:
    stored: dict[str, object] = {prefix + key: value for key, value in state.items()}
    if prefix.endswith("backbone."):
        stored[prefix.removesuffix("backbone.") + "head.mlp.0.weight"] = torch.zeros(
            2, 2
        )  # a projection head
    content = stored if wrapper is None else {wrapper: stored, "epoch": 3, "args": argparse.Namespace(lr=1.0)}
    torch.save(content, tmp_path / "source.pth")
    assert_backbone_is(loaded(tmp_path / "source.pth"), state)


def whole_checkpoint(state: State, loss: str) -> dict[str, object]:
    """A `checkpoint.pth` as DINO's and iBOT's scripts store it: the student is in DDP, the teacher is not."""
    head = {"head.mlp.0.weight": torch.ones(2, 2), "head.last_layer.weight_g": torch.ones(2, 1)}
    student = {f"backbone.{key}": value + 1 for key, value in state.items() if not key.startswith("head.")}
    student |= {"backbone.masked_embed": torch.ones(1, 64)} if loss == "ibot_loss" else {}
    teacher = {f"backbone.{key}": value for key, value in state.items() if not key.startswith("head.")}
    return {
        "student": {f"module.{key}": value for key, value in {**student, **head}.items()},
        "teacher": {**teacher, **head},
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": np.float64(5e-4), "params": [0]}]},
        "epoch": 800,
        "args": argparse.Namespace(arch="vit_small", global_crops_scale=(0.25, 1.0), lr=5e-4),
        loss: {"center": torch.zeros(1, 8)},
        "fp16_scaler": {"scale": 65536.0, "_growth_tracker": 7},
    }


@pytest.mark.parametrize("loss", ["dino_loss", "ibot_loss"])
@pytest.mark.parametrize("numpy_name", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_whole_checkpoint_gives_its_teacher(
    tmp_path: Path, state: State, loss: str, numpy_name: bytes
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(whole_checkpoint(state, loss), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"numpy._core.multiarray\nscalar") == 1
    path.write_bytes(content.replace(b"numpy._core.multiarray", numpy_name))  # as NumPy 1 spells it
    assert_backbone_is(loaded(path), state)


def test_student_without_teacher_is_taken_without_its_mask(tmp_path: Path, state: State) -> None:
    content = whole_checkpoint(state, "ibot_loss")
    del content["teacher"]
    torch.save(content, tmp_path / "checkpoint.pth")
    assert_backbone_is(loaded(tmp_path / "checkpoint.pth"), {key: v + 1 for key, v in state.items()})


def test_checkpoint_teacher_as_extracted(tmp_path: Path, state: State) -> None:
    backbone = {key: value for key, value in state.items() if not key.startswith("head.")}
    torch.save(
        {"state_dict": {**backbone, "masked_embed": torch.zeros(1, 64)}}, tmp_path / "checkpoint_teacher.pth"
    )
    assert_backbone_is(loaded(tmp_path / "checkpoint_teacher.pth"), state)


def test_scales_of_layers_by_their_other_name(tmp_path: Path) -> None:
    torch.manual_seed(1)
    name = "deit3_small_patch16_224"
    model = timm.create_model(name, num_classes=0, img_size=SIZE)
    own = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save({re.sub(r"ls(\d)\.gamma", r"gamma_\1", key): own[key] for key in own}, tmp_path / "gamma.pth")
    assert "blocks.0.gamma_1" in read_weights(tmp_path / "gamma.pth")
    found = load_model(name, read_weights(tmp_path / "gamma.pth"), num_classes=3, size=SIZE)
    assert torch.equal(found.state_dict()["blocks.1.ls2.gamma"], own["blocks.1.ls2.gamma"])


def test_patches_of_another_size_are_not_resampled(tmp_path: Path, state: State) -> None:
    torch.save({**state, "patch_embed.proj.weight": torch.randn(64, 3, 8, 8)}, tmp_path / "small.pth")
    with pytest.raises(InputError, match="patches of 8 × 8 instead of 16 × 16 pixels"):
        loaded(tmp_path / "small.pth")


def test_state_hash_is_of_names_and_values(state: State) -> None:
    turned = dict(reversed(state.items()))
    assert state_hash(turned) == state_hash(state)
    name = "blocks.2.norm1.bias"
    others = [
        {**state, name: state[name] + 1},
        {**state, name: state[name].half()},
        {**state, name: state[name].reshape(8, 8)},
        {(f"{name}es" if key == name else key): value for key, value in state.items()},
    ]
    assert len({state_hash(changed) for changed in (state, *others)}) == 5


def test_half_precision_becomes_float32(tmp_path: Path, state: State) -> None:
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "half.safetensors")
    model = loaded(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_backbone_is(model, state, atol=1e-3)


def test_position_embedding_is_resampled(weights: Path, state: State) -> None:
    model = load_model(MODEL, read_weights(weights), num_classes=3, size=2 * SIZE)
    assert model.state_dict()["pos_embed"].shape[1] == state["pos_embed"].shape[1] + 12  # 4 × 4 for 2 × 2
    key = "blocks.2.attn.qkv.weight"
    assert torch.equal(model.state_dict()[key], state[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.3.mlp.fc1.bias"), r"missing: blocks\.3\.mlp\.fc1\.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda s: s.update({"norm.weight": torch.zeros(5)}),
            r"of another shape: norm\.weight \(5,\) instead of \(64,\)",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(tmp_path: Path, state: State, change: object, message: str) -> None:
    changed = dict(state)
    change(changed)  # type: ignore[operator]
    torch.save(changed, tmp_path / "changed.pth")
    with pytest.raises(InputError, match=message):
        loaded(tmp_path / "changed.pth")


def test_values_that_are_not_finite_are_refused(tmp_path: Path, state: State) -> None:
    torch.save({**state, "norm.bias": torch.full((64,), float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"not finite in norm\.bias"):
        read_weights(tmp_path / "nan.pth")


class _Opens:
    """Unpickled by code of its own, which a weights file has no business to run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": _Opens(tmp_path / "made")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot read the weights"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_file_is_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_serve() -> None:
    with pytest.raises(InputError, match="did you mean deit_tiny_patch16_224"):
        empty_model("diet_tiny_patch16_224", num_classes=2, size=SIZE)
    with pytest.raises(InputError, match="no class token"):
        empty_model("test_vit4", num_classes=2, size=SIZE)
    with pytest.raises(InputError, match=r"cannot build test_resnet.*expected a Vision Transformer"):
        empty_model("test_resnet", num_classes=2, size=SIZE)
    for size in (SIZE + 4, 8):  # timm would leave the last pixels out
        with pytest.raises(InputError, match=f"--size {size} is not a multiple of .* patches of 16 pixels"):
            empty_model("deit_tiny_patch16_224", num_classes=2, size=size)


def test_file_hash_is_of_the_content(tmp_path: Path, weights: Path) -> None:
    copy = tmp_path / "another name"
    copy.write_bytes(weights.read_bytes())
    assert file_hash(copy) == file_hash(weights)
    copy.write_bytes(weights.read_bytes()[:-1])
    assert file_hash(copy) != file_hash(weights)


def test_models_of_these_tests_exist() -> None:
    assert timm.is_model(MODEL)
