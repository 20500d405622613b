"""Models with LoRA whose source would not be the model without it."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import VisionTransformer

import vitreg
from lora_models import make_pair, step, with_lora
from small_models import make_vit


def test_refused() -> None:
    model, source = make_pair()
    with pytest.raises(vitreg.ArgumentError, match="found none in VisionTransformer"):
        vitreg.attach(source, "base")
    with pytest.raises(vitreg.ArgumentError, match="'l2sp' compares parameters"):
        vitreg.attach(model, "base", "l2sp")
    model.base_model.model.blocks[1].norm1.weight.requires_grad_()
    with pytest.raises(vitreg.ArgumentError, match=r"found 1 that are trained, such as 'blocks\.1\.norm1"):
        vitreg.attach(model, "base")
    biases, _ = make_pair(bias="all")
    with pytest.raises(vitreg.ArgumentError, match="base weights that stay what they are"):
        vitreg.attach(biases, "base")


@pytest.mark.filterwarnings("ignore:Already unmerged")
def test_merged_adapters_are_refused() -> None:
    model, _ = make_pair()
    weights = {n: p.clone() for n, p in model.named_parameters()}
    with vitreg.attach(model, "base") as reg:
        model(torch.randn(2, 3, 32, 32))
        model.merge_adapter()
        with pytest.raises(vitreg.ArgumentError, match="unmerge_adapter"):
            reg.penalty()
        with pytest.raises(vitreg.ArgumentError, match="unmerge_adapter"):
            vitreg.attach(model, "base", "msa_output")
        assert model.base_model.model.blocks[0].attn.qkv.merged
        model.unmerge_adapter()
        assert step(model, model, reg)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, weights[name])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers so
@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_an_attention_pooling_with_adapters_is_refused(library: str) -> None:
    """Its weights are read before peft merges the adapters into them."""
    if library == "open_clip":
        pooled = {"attentional_pool": True, "attn_pooler_heads": 2, "output_dim": 16}  # one width, for peft
        model, target = VisionTransformer(32, 8, 16, 1, 2, 2.0, **pooled), ["attn_pool.attn"]
    else:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        model, target = (
            SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=8)),
            ["head.attention"],
        )
    vitreg.attach(model, query="pool").remove()
    with pytest.raises(vitreg.UnsupportedModelError, match="found an adapter"):
        vitreg.attach(with_lora(model, target), query="pool")


def test_base_weights_that_are_unfrozen_later() -> None:
    model = with_lora(make_vit(), ["qkv"])
    with vitreg.attach(model, "base") as reg:
        for _ in range(2):
            model(torch.randn(2, 3, 32, 32))
            next(p for n, p in model.named_parameters() if "base_layer.weight" in n).requires_grad_(True)
            with pytest.raises(vitreg.ArgumentError, match="base weights that stay what they are"):
                reg.penalty()
