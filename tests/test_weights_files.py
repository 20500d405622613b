"""One reader of weights: what trainers leave in a file, which of several sets, and what is no weights."""

from __future__ import annotations

import argparse
import json
import pathlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitreg.errors import InputError
from vitreg.train.models.pretrained import open_weights
from vitreg.train.models.weights import load_model
from vitreg.weights import PREFIXES, WRAPPERS, read_weights

State = dict[str, Tensor]
A: State = {"cls_token": torch.zeros(1, 1, 2), "blocks.0.norm1.weight": torch.zeros(2)}
B: State = {key: value + 1 for key, value in A.items()}


def begun(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def read(tmp_path: Path, content: object, **options: object) -> State:
    torch.save(content, tmp_path / "c.pth")
    return read_weights(tmp_path / "c.pth", **options)


def assert_is(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_each_wrapper_and_beginning(tmp_path: Path, wrapper: str, prefix: str) -> None:
    own = {"criterion.weight": torch.ones(3)} if prefix not in ("module.", "_orig_mod.") else {}
    assert_is(read(tmp_path, {wrapper: {**begun(B, prefix), **own}, "epoch": 3}), B)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": A, "state_dict_ema": B}, "state_dict_ema, state_dict; state_dict_ema is used"),
        ({"model": A, "model_ema": B}, "model_ema is used"),
        ({"student": A, "teacher": B}, "teacher is used"),
        ({"state_dict": {**begun(A, "model."), **begun(B, "model_ema.module.")}}, "model_ema. is used"),
        ({"model": {**begun(A, "student.backbone."), **begun(B, "teacher.backbone.")}}, "teacher. is used"),
        ({"state_dict": {**begun(A, "module."), **begun(B, "ema_model.")}}, "ema_model. is used"),
        ({"params": A, "params_ema": B}, "params_ema is used"),
        ({"encoder": begun(A, "module."), "target_encoder": begun(B, "module.")}, "target_encoder is used"),
        ({"model": B, "ema": {"decay": 0.9}}, "model, ema; model is used"),
        ({"model": B, "ema": {"shadow_params": [torch.zeros(2)]}}, "model, ema; model is used"),
        ({**begun(B, "base_encoder."), **begun(A, "momentum_encoder.")}, "base_encoder. is used"),
        ({"state_dict": B, "current_model_state": A}, "state_dict, current_model_state; state_dict is used"),
        ({"state_dict": A, "callbacks": {"EMA": {"ema_weights": begun(B, "model.")}}}, "EMA/ema_weights is"),
        ({"state_dict": A, "callbacks": {"SWA": {"n_averaged": 3, "average": B}}}, "SWA/average is used"),
        ({"state_dict": B, "callbacks": {"EMA": {"shadow": [*A.values()]}}}, "EMA/shadow; state_dict is"),
        ({"state_dict": B, "optimizer_states": [{"ema": (*A.values(),)}]}, "0/ema; state_dict is used"),
    ],
)
def test_of_two_sets_the_average_is_taken_and_said(tmp_path: Path, content: object, words: str) -> None:
    said: list[str] = []
    assert_is(read(tmp_path, content, say=said.append), B)
    assert words in said[0]


def test_callbacks_of_lightning_without_an_average_or_with_several(tmp_path: Path) -> None:
    said: list[str] = []
    best = {"best_k_models": {"1.ckpt": torch.ones(())}}
    started = {"n_averaged": 0, "average_model_state": A}  # a copy of the start, until SWA begins
    stored = {"state_dict": B, "callbacks": {"ModelCheckpoint": best, "SWA": started}}
    assert_is(read(tmp_path, stored, say=said.append), B)
    assert not said
    stored["callbacks"] = {"EMA1": {"state": A}, "EMA2": {"state": B}}
    with pytest.raises(InputError, match="expected one average of the weights, found callbacks/EMA1/state, "):
        read(tmp_path, stored)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrappers_of_single_blocks(tmp_path: Path, wrapper: str) -> None:
    state = {key.replace("blocks.0.", f"blocks.0.{wrapper}."): value for key, value in B.items()}
    assert_is(read(tmp_path, {"model": begun(state, "backbone.")}), B)


@pytest.mark.parametrize("root", ["encoder.", "vit.", "0.", "online.net."])
def test_whatever_a_trainer_calls_the_network(tmp_path: Path, root: str) -> None:
    assert_is(read(tmp_path, {"model": {**begun(B, root), "head.weight": torch.ones(3)}}), B)
    # Beside tensors that have no such root it is another network, which nobody takes for this one.
    assert read(tmp_path, {**B, **begun(A, root)}).keys() > B.keys()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {**begun(A, "encoder_q."), **begun(B, "encoder_k.")},
            "expected one network, found encoder_k., ",
        ),
        ({"blocks.0.attn.qkv.lora_A.weight": torch.ones(2)}, "LoRA's adapters; merge them"),
        ({"dinov2.encoder.layer.0.norm1.weight": torch.ones(2)}, "in the layout of transformers"),
        ({"encoder.layers.0.self_attn.k_proj.weight": torch.ones(2)}, "in the layout of transformers"),
    ],
)
def test_tensors_that_are_no_single_network_of_timms(tmp_path: Path, state: State, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path, state)


def test_an_empty_set_is_none(tmp_path: Path) -> None:
    said: list[str] = []
    assert_is(read(tmp_path, {"state_dict_ema": None, "state_dict": B, "model": {}}, say=said.append), B)
    assert not said


def test_of_moco_the_base_and_of_dinov2_the_chunks(tmp_path: Path) -> None:
    moco = {**begun(B, "module.base_encoder."), **begun(A, "module.momentum_encoder.")}
    assert_is(read(tmp_path, {"state_dict": moco, "arch": "vit_small"}), B)
    chunked = {"cls_token": B["cls_token"], "blocks.1.7.norm1.weight": B["blocks.0.norm1.weight"]}
    found = read(
        tmp_path, {"teacher": {**begun(chunked, "backbone."), "dino_head.mlp.0.bias": torch.ones(1)}}
    )
    assert found.keys() == {"cls_token", "blocks.7.norm1.weight"}


def test_what_a_trainer_keeps_beside_is_passed_over(tmp_path: Path) -> None:
    options = argparse.Namespace(
        out=pathlib.PosixPath("x"), lr=np.float64(1.0), nested=argparse.Namespace(a=1)
    )
    assert_is(read(tmp_path, {"model": B, "args": options}), B)


class Runs:
    def __reduce__(self) -> object:
        return Path.touch, (Path("executed"),)


class Unknown:
    pass


@pytest.mark.parametrize(
    "content", [{"model": A, "x": Runs()}, {"model": Runs()}, {"model": A, "x": Unknown()}]
)
@pytest.mark.parametrize("name", ["c.pth", "c.safetensors", "c.npz", "c.bin"])
def test_what_would_be_executed_is_refused_in_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / name)
    with pytest.raises(InputError) as caught:
        read_weights(tmp_path / name)
    said = str(caught.value)
    assert not (tmp_path / "executed").exists()
    assert "\n" not in said
    assert "\x1b" not in said
    assert "weights_only" not in said
    if name in ("c.pth", "c.bin"):
        assert "would have to be executed to be read, and is not; ask its owner for a .safetensors" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"  <!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'{"error": "not found"}', "a text in JSON"),
        (b"nothing", "expected a (whole )?.safetensors, .npz or torch file"),
        (b"\x89HDF\r\n\x1a\n", "a file of Keras or TensorFlow|fetch it again"),
        (b"PK\x03\x04nothing", "fetch it again"),
        (b"\x80\x02nothing", "would have to be executed|fetch it again"),
        (b"\x10\0\0\0\0\0\0\0{nothing       }", "fetch it again"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_what_is_no_weights_is_told(tmp_path: Path, content: bytes, said: str, suffix: str) -> None:
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read the weights .*w\{suffix}: .*(?:{said})") as caught:
        read_weights(tmp_path / f"w{suffix}")
    assert "weights_only" not in str(caught.value)


def test_a_program_of_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its time is over
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match="would have to be executed") as caught:
        read_weights(tmp_path / "w.pt")
    assert "weights_only" not in str(caught.value)


def test_the_name_does_not_say_what_a_file_is(tmp_path: Path) -> None:
    save_file(B, tmp_path / "w.pth")
    assert_is(read_weights(tmp_path / "w.pth"), B)
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in B.items()})
    (tmp_path / "w.npz").rename(tmp_path / "w.bin")
    assert_is(read_weights(tmp_path / "w.bin"), B)


def test_folders_and_the_layout_of_transformers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a folder"):
        read_weights(tmp_path)
    save_file(
        {"vit.embeddings.patch_embeddings.projection.weight": torch.zeros(1)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(InputError, match=r"found a folder; give .*model\.safetensors"):
        read_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(InputError, match=r"of transformers.*--weights timm.*vitreg\.attach"):
            read_weights(path)
    with pytest.raises(InputError, match="of transformers"):
        open_weights(str(tmp_path), "test_vit")


def flax(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return a timm ViT's weights as Google names and lays them out."""
    s = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    found = {
        "embedding/kernel": s["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": s["patch_embed.proj.bias"],
        "cls": s["cls_token"],
        "Transformer/posembed_input/pos_embedding": s["pos_embed"],
        "Transformer/encoder_norm/scale": s["norm.weight"],
        "Transformer/encoder_norm/bias": s["norm.bias"],
        "head/kernel": s["head.weight"].T,
        "head/bias": s["head.bias"],
    }
    for number, block in enumerate(model.blocks):
        own, place = f"blocks.{number}.", f"Transformer/encoderblock_{number}/"
        heads = block.attn.num_heads
        for part, name in enumerate(("query", "key", "value")):
            weight, bias = (s[f"{own}attn.qkv.{kind}"] for kind in ("weight", "bias"))
            width = weight.shape[1]
            rows = slice(part * width, (part + 1) * width)
            base = f"{place}MultiHeadDotProductAttention_1/{name}/"
            found[base + "kernel"] = weight[rows].T.reshape(width, heads, -1)
            found[base + "bias"] = bias[rows].reshape(heads, -1)
        base = f"{place}MultiHeadDotProductAttention_1/out/"
        found[base + "kernel"] = s[f"{own}attn.proj.weight"].T.reshape(heads, -1, width)
        found[base + "bias"] = s[f"{own}attn.proj.bias"]
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            found[f"{place}{name}/scale"], found[f"{place}{name}/bias"] = (
                s[f"{own}{norm}.weight"],
                s[f"{own}{norm}.bias"],
            )
        for layer, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            found[f"{place}MlpBlock_3/{name}/kernel"] = s[f"{own}mlp.{layer}.weight"].T
            found[f"{place}MlpBlock_3/{name}/bias"] = s[f"{own}mlp.{layer}.bias"]
    return found


def test_npz_of_google_are_read_as_timm_reads_them(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    source = timm.create_model(name, num_classes=3, img_size=64)
    np.savez(tmp_path / "R_Ti_16-i21k.npz", **flax(source))
    state, _ = open_weights(str(tmp_path / "R_Ti_16-i21k.npz"), name)
    loaded = load_model(name, state, num_classes=2, size=64)
    for key, value in source.state_dict().items():
        if not key.startswith("head."):
            torch.testing.assert_close(loaded.state_dict()[key], value)
    with pytest.raises(InputError, match=r"do not fit|whole"):
        open_weights(str(tmp_path / "R_Ti_16-i21k.npz"), "test_vit")


def test_the_heads_of_a_distilled_model_are_new(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    source = timm.create_model(name, num_classes=5, img_size=32)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(name, read_weights(tmp_path / "w.safetensors"), num_classes=2, size=32)
    assert torch.equal(loaded.dist_token, source.dist_token)
    assert loaded.head_dist.weight.shape[0] == loaded.head.weight.shape[0] == 2
    assert loaded(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
