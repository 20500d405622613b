from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_data import MODEL, SIZE
from torch import Tensor, nn

from engine.errors import RecipeError
from engine.weights import empty_model, file_hash, load_model, read_weights

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


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "teacher"])
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
    with pytest.raises(RecipeError, match=message):
        loaded(tmp_path / "changed.pth")


def test_values_that_are_not_finite_are_refused(tmp_path: Path, state: State) -> None:
    torch.save({**state, "norm.bias": torch.full((64,), float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(RecipeError, match=r"not finite in norm\.bias"):
        read_weights(tmp_path / "nan.pth")


class _Opens:
    """Unpickled by code of its own, which a weights file has no business to run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": _Opens(tmp_path / "made")}, tmp_path / "evil.pth")
    with pytest.raises(RecipeError, match="cannot read the weights"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_file_is_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="cannot read the weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_serve() -> None:
    with pytest.raises(RecipeError, match="did you mean deit_tiny_patch16_224"):
        empty_model("diet_tiny_patch16_224", num_classes=2, size=SIZE)
    with pytest.raises(RecipeError, match="no class token"):
        empty_model("test_vit4", num_classes=2, size=SIZE)
    with pytest.raises(RecipeError, match="cannot build test_resnet"):
        empty_model("test_resnet", num_classes=2, size=SIZE)


def test_file_hash_is_of_the_content(tmp_path: Path, weights: Path) -> None:
    copy = tmp_path / "another name"
    copy.write_bytes(weights.read_bytes())
    assert file_hash(copy) == file_hash(weights)
    copy.write_bytes(weights.read_bytes()[:-1])
    assert file_hash(copy) != file_hash(weights)


def test_models_of_these_tests_exist() -> None:
    assert timm.is_model(MODEL)
