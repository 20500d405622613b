"""Models that look readable and compute something else are refused, or read as what they compute."""

from __future__ import annotations

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitreg
from laws import refuses
from plain_attention import Base
from small_models import SMALL, make_vit
from softmax_recorder import SoftmaxRecorder
from vitreg import GTA, ArgumentError, MismatchError, StateError, UnsupportedModelError


@pytest.mark.parametrize("shared", ["block", "attention"])
def test_a_block_that_runs_twice(shared: str, images: Tensor) -> None:
    model = make_vit().train()
    if shared == "block":
        model.blocks[1] = model.blocks[0]
    else:
        model.blocks[1].attn = model.blocks[0].attn
    with vitreg.attach(model), refuses(UnsupportedModelError, "run once", "ran twice"):
        model(images)
    with vitreg.attach(model, layers=2) as reg:
        model(images)
        assert reg.penalty() == 0


def test_one_norm_for_queries_and_keys() -> None:
    model = make_vit(qk_norm=True)
    for block in model.blocks:
        block.attn.k_norm = block.attn.q_norm
    with refuses(UnsupportedModelError, "one that stands for two of them"):
        vitreg.attach(model)


def test_the_head_may_run_again_for_itself(images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model, target="features") as reg:
        model(images)
        with torch.no_grad():
            model.head(torch.randn(4, 16))
        assert reg.penalty() == 0


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers so
def test_an_adapter_after_attaching(images: Tensor) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8))
    with vitreg.attach(model) as reg:
        adapted = get_peft_model(
            model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        ).train()
        adapted(images)
        with refuses(StateError, "q_proj", "was replaced after attaching", "Attach again"):
            reg.penalty()


def test_an_adapter_on_a_projection_that_is_called() -> None:
    from peft import LoraConfig, get_peft_model
    from timm.models.beit import Beit

    model = Beit(**SMALL, qkv_bias=False, use_abs_pos_emb=True)
    vitreg.attach(model).remove()
    with refuses(UnsupportedModelError, "found an adapter"):
        vitreg.attach(get_peft_model(model, LoraConfig(target_modules=["qkv"])))


class Normalising(VisionTransformer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.5) / 0.2)


class NormalisingInPlace(VisionTransformer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).div_(0.2))


@pytest.mark.parametrize("cls", [Normalising, NormalisingInPlace])
def test_images_that_are_changed_before_the_stem(cls: type[VisionTransformer], images: Tensor) -> None:
    model = cls(**SMALL).train()
    with vitreg.attach(model, target="block_output") as reg:
        for _ in range(2):  # an error that is caught once is there the next time
            model(images)
            with refuses(UnsupportedModelError, "as they are", "changes them", "into the data"):
                reg.penalty()


def test_a_part_that_is_gone(images: Tensor) -> None:
    model = make_vit().train()
    with vitreg.attach(model) as reg:
        model(images)
        model.blocks = model.blocks[:1]
        with refuses(StateError, "blocks.1", "was replaced after attaching"):
            reg.penalty()


@pytest.mark.parametrize("target", ["features", "block_output"])
def test_dropped_patches_whatever_is_read(target: str, images: Tensor) -> None:
    model = make_vit(patch_drop_rate=0.5).train()
    with vitreg.attach(model, target=target) as reg:
        model(images)
        with refuses(MismatchError, "Token dropping"):
            reg.penalty()


def with_prompts(self: VisionTransformer, x: Tensor) -> Tensor:
    """Put tokens between the class token and the patches, of which timm's attributes say nothing."""
    x = VisionTransformer._pos_embed(self, x)
    return torch.cat([x[:, :1], x.new_zeros(len(x), 5, x.shape[-1]), x[:, 1:]], dim=1)


class Prompted(VisionTransformer):
    _pos_embed = with_prompts


def test_tokens_that_a_subclass_adds_are_seen(images: Tensor) -> None:
    model = Prompted(**SMALL).train()
    assert vitreg.describe(model).num_prefix_tokens == 6
    with SoftmaxRecorder() as recorder, vitreg.trace(model, "attn_logits") as read:
        model(images)
    for ours, whole in zip(read["attn_logits"], recorder.logits, strict=True):
        torch.testing.assert_close(ours, whole[:, :, 0, 6:], atol=1e-5, rtol=1e-5)


def test_tokens_that_are_no_patches(images: Tensor) -> None:
    model = make_vit().train()
    model._pos_embed = types.MethodType(with_prompts, model)
    with vitreg.attach(model) as reg:
        model(images)
        with refuses(MismatchError, "[4, 2, 21]", "4×4 patches", "prompts"):
            reg.penalty()


def test_weights_that_come_later(images: Tensor) -> None:
    with torch.device("meta"):
        model = make_vit(attn_layer=Base)
    assert "meta device" in vitreg.describe(model).extractors["attn_logits"]
    loaded = make_vit(attn_layer=Base)
    model.to_empty(device="cpu").load_state_dict(loaded.state_dict())
    for ours, theirs in zip(model.modules(), loaded.modules(), strict=True):
        ours._buffers.update(copy.deepcopy(theirs._buffers))
    assert not vitreg.describe(model).extractors["attn_logits"]


@pytest.mark.parametrize("value", [[1, 2], "all", slice(0, 1), True, 1.0])
def test_a_block_of_the_source_is_one_number(value: object) -> None:
    with refuses(ArgumentError, "model's index: source's index"):
        vitreg.attach(make_vit(), make_vit(depth=5), layers={0: value})


def test_only_the_head_is_trained_on_images_with_gradients(images: Tensor) -> None:
    model = make_vit().train().requires_grad_(False)
    model.head.requires_grad_(True)
    with vitreg.attach(model) as reg:
        model(images.clone().requires_grad_())
        frozen = reg.penalty()  # it joins when the backbone is trained
        assert frozen.item() == 0
        assert not frozen.requires_grad


def test_resampling_without_a_grid() -> None:
    import timm

    swin = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 1), num_heads=(1, 1))
    with refuses(UnsupportedModelError, "align='resample' needs patch grids", "SwinTransformer"):
        vitreg.attach(swin, target="block_output", align="resample")


def test_a_source_shared_by_models_of_two_types(images: Tensor) -> None:
    model = make_vit().train()
    first = vitreg.attach(model)
    half = copy.deepcopy(model).bfloat16()
    second = vitreg.attach(half, first.source)
    half(images.bfloat16())
    second.penalty()
    model(images)
    with refuses(MismatchError, "float32", "bfloat16", "source of its own"):
        first.penalty()


def test_gta_of_a_model_that_does_what_it_says(images: Tensor) -> None:
    model, source = make_vit(), make_vit()
    with vitreg.attach(model.train(), source, GTA()) as reg, vitreg.trace(source, "attn_logits") as theirs:
        with vitreg.trace(model, "attn_logits") as ours:
            model(images)
        source.eval()(images)
        pairs = zip(ours["attn_logits"], theirs["attn_logits"], strict=True)
        torch.testing.assert_close(reg.penalty(), sum(F.mse_loss(a, b) for a, b in pairs) / 3)
