"""Hugging Face's Vision Transformers: what is read is what enters their softmax, and training is right."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import shake
from softmax_recorder import SoftmaxRecorder
from transformers_cases import CASES, PATCHES, SIZES, WITH_CLASS_TOKEN
from transformers_models import hf, moved, still
from vitreg.families import find_tower
from vitreg.types import Query

IMPLEMENTATIONS = ["eager", "sdpa"]
by_name = pytest.mark.parametrize("name", CASES)


def beside_text(kind: str) -> nn.Module:
    """Return a small CLIPModel or SiglipModel."""
    text = {**SIZES, "vocab_size": 50, "max_position_embeddings": 8}
    vision = {**SIZES, **PATCHES}
    config = getattr(hf, f"{kind}Config")(text_config=text, vision_config=vision, projection_dim=16)
    return getattr(hf, f"{kind}Model")(config).train()


def compare(model: nn.Module, run: Callable[[], object], num_prefix: int, query: Query) -> None:
    with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits", query=query) as read:
        run()
    found = read["attn_logits"]
    assert len(found) == (1 if query == "pool" else 2)
    seen = recorder.logits[-1:] if query == "pool" else recorder.logits[:2]
    for ours, full in zip(found, seen, strict=True):
        rows = full[:, :, num_prefix:].mean(2) if query == "mean" else full[:, :, 0]
        torch.testing.assert_close(ours, rows[..., num_prefix:], atol=1e-5, rtol=0)
        assert ours.dtype == torch.float32
        assert ours.shape == (2, 2, 16)
        assert ours.std() > 1e-3, "nothing to compare"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@by_name
def test_logits_are_those_of_the_softmax(name: str, implementation: str) -> None:
    case = CASES[name]
    model = shake(case.make(implementation))
    images = torch.randn(2, 3, 32, 32)
    for training in (True, False):
        model.train(training)
        for query in case.queries:
            compare(model, lambda: model(images), case.num_prefix, query)
            compare(model, lambda: model(pixel_values=images), case.num_prefix, query)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_vision_tower_beside_a_text_tower(kind: str) -> None:
    model = shake(beside_text(kind))
    images, tokens = torch.randn(2, 3, 32, 32), torch.randint(0, 50, (2, 8))
    assert vitreg.describe(model).name == "vision_model"
    query: Query = "cls" if kind == "CLIP" else "mean"
    num_prefix = 1 if kind == "CLIP" else 0
    compare(model, lambda: model(input_ids=tokens, pixel_values=images), num_prefix, query)
    compare(model, lambda: model.get_image_features(images), num_prefix, query)
    with vitreg.attach(model, target=["msa_output", "l2sp"]) as reg:
        shake(model.vision_model)
        model(input_ids=tokens, pixel_values=images)
        reg.penalty().backward()
    assert all(value > 0 for value in reg.terms.values())
    assert find_tower(model).home is model, "the text tower is pre-trained, and no head"
    assert model.text_model.encoder.layers[0].mlp.fc1.weight.grad is None


@by_name
def test_what_is_found(name: str) -> None:
    case = CASES[name]
    model = case.make()
    found = vitreg.describe(model)
    assert found.name == case.tower
    assert (found.num_blocks, found.num_heads, found.width) == (2, (2, 2), 16)
    assert (found.num_prefix_tokens, found.has_class_token) == (case.num_prefix, case.num_prefix > 0)
    assert found.grid == (None if case.any_size else (4, 4))
    assert found.queries["pool"] == ((-1,) if "pool" in case.queries else ())
    assert (found.queries["cls"] == (0, 1)) == ("cls" in case.queries)
    assert ("cannot: features" in str(found)) == ("backbone" in name)
    tower = find_tower(model)
    assert tower.patch_size == (8, 8)
    assert all(block.attention is not None for block in tower.blocks)
    assert all((block.ffn is None) == ("data2vec" in name) for block in tower.blocks), "it is in two parts"
    shapes = [tower.module.get_parameter(n).shape.numel() for n in tower.position_embeddings]
    relative = ("beit" in name or "data2vec" in name) and name not in ("beit_absolute", "data2vec")
    positions = 0 if relative or "dinov3" in name or name == "aimv2_native" else 1
    assert len(shapes) == positions
    assert all(shape >= 16 * 16 for shape in shapes)


@pytest.mark.parametrize("name", ["vit_classifier", "dinov3", "clip", "siglip", "beit_relative"])
def test_what_the_model_returns_does_not_matter(name: str) -> None:
    model = shake(CASES[name].make("eager")).eval()
    images = torch.randn(2, 3, 32, 32)
    values = []
    for options in ({}, {"output_hidden_states": True, "output_attentions": True}, {"return_dict": False}):
        with vitreg.trace(model, "attn_logits", "block_output", "msa_output", query="mean") as read:
            output = model(images, **options)
        values.append([*read["attn_logits"], *read["block_output"], *read["msa_output"]])
        if "output_hidden_states" in options:
            torch.testing.assert_close(read["block_output"][0], output.hidden_states[1])
    for others in values[1:]:
        assert all(torch.equal(one, other) for one, other in zip(values[0], others, strict=True))
    assert [list(v.shape) for v in values[0][2:]] == [[2, 16 + CASES[name].num_prefix, 16]] * 4


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", WITH_CLASS_TOKEN)
def test_gradients_are_those_of_a_literal_second_writing(name: str) -> None:
    source = shake(still(name, "eager"))
    model = moved(copy.deepcopy(source))
    images, first = torch.randn(2, 3, 32, 32), CASES[name].num_prefix
    output = model(images, output_attentions=True)
    with torch.no_grad():
        theirs = source.eval()(images, output_attentions=True).attentions
    loss = output[0].square().mean()
    for one, other in zip(output.attentions, theirs, strict=True):
        # Logits are known from the softmax up to a constant a row, so both are compared centred.
        t, s = one[:, :, 0, first:].log(), other[:, :, 0, first:].log()
        t, s = t - t.mean(-1, keepdim=True), s - s.mean(-1, keepdim=True)
        loss = loss + (t - s).square().mean() / 2
    loss.backward()
    expected = gradients(model)

    model.zero_grad()
    model.set_attn_implementation("sdpa")
    with vitreg.attach(model, source, vitreg.GTA(center=True)) as reg:
        (model(pixel_values=images)[0].square().mean() + reg.penalty()).backward()
    assert next(iter(reg.terms.values())) > 0
    ours = gradients(model)
    assert ours.keys() == expected.keys()
    for parameter in expected:
        torch.testing.assert_close(
            ours[parameter], expected[parameter], rtol=1e-3, atol=1e-5, msg=lambda m, n=parameter: f"{n}: {m}"
        )


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # its name before version 6
@pytest.mark.parametrize("name", ["vit_classifier", "dinov2", "dinov3", "clip", "siglip", "beit_both"])
def test_gradient_checkpointing(name: str) -> None:
    source = shake(still(name, "sdpa"))
    query: Query = CASES[name].queries[0]
    images, found = torch.randn(2, 3, 32, 32), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = moved(copy.deepcopy(source))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with vitreg.attach(model, source, ["msa_output", vitreg.GTA(query=query)]) as reg:
            (model(images)[0].square().mean() + reg.penalty()).backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for parameter in found[0]:
        torch.testing.assert_close(found[0][parameter], found[1][parameter])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["vit", "dinov2", "beit_relative", "beit_absolute"])
def test_a_mask_is_refused(name: str, implementation: str) -> None:
    model = CASES[name].make(implementation)
    mask = torch.ones(2, 17, dtype=torch.long)
    with vitreg.trace(model, "attn_logits"):
        model(torch.randn(2, 3, 32, 32), attention_mask=mask)  # of ones: the library drops it
        mask[:, -1] = 0
        with refuses(vitreg.UnsupportedModelError, "mask", "without attention_mask"):
            model(torch.randn(2, 3, 32, 32), attention_mask=mask)
    with vitreg.trace(model, "block_output"):
        model(torch.randn(2, 3, 32, 32), attention_mask=mask)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_adapters() -> None:
    peft = pytest.importorskip("peft")
    model = shake(CASES["vit_classifier"].make())
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    adapted = peft.get_peft_model(model, config)
    images = torch.randn(2, 3, 32, 32)
    with vitreg.attach(adapted, "base") as reg:
        adapted(pixel_values=images)
        assert reg.penalty() == 0  # LoRA starts as nothing
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.ones_(parameter)
        adapted(pixel_values=images)
        assert reg.penalty() > 0
