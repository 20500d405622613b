"""Models of transformers as wholes: what a classifier receives, what is trained, what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import vitreg
from laws import refuses, unchanged
from small_models import shake
from softmax_recorder import SoftmaxRecorder
from transformers_cases import CASES, SIZES
from transformers_models import hf, moved, still
from vitreg.registry import ClassRegistry


@pytest.mark.parametrize("name", [name for name in CASES if "backbone" not in name])
def test_features_are_what_the_classifier_or_the_user_receives(name: str) -> None:
    model = shake(CASES[name].make()).eval()
    inner = model.get_submodule(CASES[name].tower)
    seen: list[Any] = []
    inner.register_forward_hook(lambda _, args, output: seen.append(output))
    images = torch.randn(2, 3, 32, 32)
    with vitreg.trace(model, "features") as read:
        model(images)
    (found,) = read["features"]
    assert found.shape == (2, 16)
    if getattr(seen[0], "pooler_output", None) is not None:
        torch.testing.assert_close(found, seen[0].pooler_output)
    elif CASES[name].num_prefix == 0:
        torch.testing.assert_close(found, seen[0].last_hidden_state.mean(1))
    else:
        torch.testing.assert_close(found, seen[0].last_hidden_state[:, 0])
    if name in ("vit_classifier", "deit_classifier", "beit_classifier"):
        torch.testing.assert_close(model.classifier(found), model(images).logits)


def test_the_pooling_is_trained_by_its_penalty() -> None:
    source = shake(CASES["siglip"].make())
    model = moved(copy.deepcopy(source))
    with vitreg.attach(model, source, query="pool") as reg:
        model(torch.randn(2, 3, 32, 32))
        reg.penalty().backward()
    assert model.head.probe.grad.abs().sum() > 0
    assert model.head.attention.in_proj_weight.grad[:32].abs().sum() > 0
    assert model.encoder.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    assert model.head.mlp.fc1.weight.grad is None


@pytest.mark.parametrize(
    "name", ["vit_classifier", "deit_classifier", "dinov2_classifier", "beit_classifier"]
)
def test_l2sp_starts_where_the_tower_started_and_decays_the_classifier(name: str) -> None:
    model = shake(CASES[name].make())
    inner = model.get_submodule(CASES[name].tower)
    source = copy.deepcopy(inner)  # without a classifier
    with torch.no_grad():
        for parameter in inner.parameters():
            parameter += 0.5
    with vitreg.attach(model, source, vitreg.L2SP(biases=True, head=0.5)) as reg:
        reg.penalty()
    count = sum(p.numel() for p in inner.parameters())
    head = sum(p.detach().square().sum() for p in model.classifier.parameters())
    expected = 0.5 * 0.25 * count + 0.5 * 0.5 * head
    torch.testing.assert_close(next(iter(reg.terms.values())), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "name", [name for name in CASES if "backbone" not in name]
)  # they have hooks of their own
def test_the_model_stays_what_it_is(name: str) -> None:
    model = CASES[name].make()
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    with unchanged(model), torch.no_grad():
        model.eval()
        before = model(images)[0]
        model.train()
        with vitreg.attach(model, target=["block_output", "msa_output"]):
            assert list(model.state_dict()) == list(saved)
            model.eval()
            after = model(images)[0]
            model.load_state_dict(saved)
            model.train()
    pairs = zip(before, after, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_only_a_part_is_trained() -> None:
    model = CASES["vit_classifier"].make()
    with vitreg.freeze(model, train="attention"):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"classifier.weight", "vit.embeddings.position_embeddings"} < trained
    assert "vit.layers.0.attention.q_proj.weight" in trained
    assert not any("mlp" in name or "norm" in name for name in trained)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers", "dinov3", "beit_both"])
def test_models_of_any_size(name: str) -> None:
    source = shake(still(name, "sdpa"))
    model = moved(copy.deepcopy(source))
    images = torch.randn(2, 3, 64, 48)
    with vitreg.attach(model, source) as reg:
        with SoftmaxRecorder() as recorder, torch.no_grad():
            source.eval()(images)
            model.eval()(images)
        model.train()(images)
        reg.penalty()
    rows = torch.stack([full[:, :, 0, CASES[name].num_prefix :] for full in recorder.logits])
    assert rows.shape == (4, 2, 2, 8 * 6)
    expected = (rows[2:] - rows[:2]).square().mean()
    torch.testing.assert_close(reg.terms["attn_logits"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "clip", "siglip"])
def test_interpolated_positions_are_interpolated_in_the_source_too(name: str) -> None:
    model = shake(CASES[name].make())
    images = torch.randn(2, 3, 64, 64)
    with vitreg.trace(model, "attn_logits", query="mean") as read:
        model(images, interpolate_pos_encoding=True)
    assert read["attn_logits"][0].shape == (2, 2, 64)
    with vitreg.attach(model, query="mean") as reg:
        model(images, interpolate_pos_encoding=True)
        assert reg.penalty() == 0
        model(images[:, :, :32, :32], interpolate_pos_encoding=False)
        assert reg.penalty() == 0


def test_models_with_other_inputs_are_refused() -> None:
    model = hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**SIZES))
    for one in (model, nn.Sequential(model)):
        with refuses(vitreg.UnsupportedModelError, "called with pictures", "cut before", "SiglipVisionModel"):
            vitreg.describe(one)


def test_an_old_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CASES["vit"].make()
    from vitreg.families import transformers as file

    monkeypatch.setattr(file, "__version__", "4.57.6")
    monkeypatch.setattr(file, "_registered", set())
    monkeypatch.setattr(file, "towers", ClassRegistry("tower", own_forward=False))
    monkeypatch.setattr(file, "families", ClassRegistry("family", own_forward=True))
    file.refresh()
    describe = file.towers.find(model)
    with refuses(vitreg.UnsupportedModelError, "ViTModel", "5.18 or newer", "4.57.6", "Upgrade it."):
        describe(model)


@pytest.mark.slow
def test_models_come_in_when_the_library_imports_them() -> None:
    program = """
import sys, transformers, vitreg
assert not any("transformers" in name for name in vitreg.list_towers() + vitreg.list_families())
assert not any("transformers.models.vit" in name for name in sys.modules)
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
assert vitreg.describe(transformers.ViTModel(transformers.ViTConfig(**sizes))).num_blocks == 1
assert vitreg.describe(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes))).num_blocks == 1
assert "transformers.models.siglip.modeling_siglip" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
