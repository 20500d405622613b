import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import readable, refuses, unchanged
from small_models import shake
from vitreg import UnsupportedModelError

NAMES = vitreg.list_extractors()
ON_ATTENTION = ["attn_logits", "attn_probs", "msa_output"]


def test_there_are_extractors() -> None:
    assert set(ON_ATTENTION) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_extractor_says_what_it_reads(name: str) -> None:
    from vitreg.extractors import extractors

    assert extractors[name].probe.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_model(name: str, tower_model: nn.Module, images: Tensor) -> None:
    if name not in readable(tower_model):
        assert name == "class_logits", "of these towers, open_clip's has no head"
        return
    with vitreg.trace(shake(tower_model), name) as trace:  # torchvision's head begins at zero
        tower_model(images)
    sum(value.float().square().sum() for value in trace[name]).backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in tower_model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_each_image_is_read_alone(name: str, vit: object, images: Tensor) -> None:
    model = vit().eval()
    with vitreg.trace(model, name) as trace:
        model(images)
        whole = trace[name]
        model(images[1:2])
        alone = trace[name]
    for a, b in zip(whole, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


class Unknown(nn.Module):
    """An attention that no family knows."""

    def __init__(self, dim: int, num_heads: int, **_: object) -> None:
        super().__init__()
        self.mix = nn.Linear(dim, dim)

    def forward(self, x: Tensor, **_: object) -> Tensor:
        return self.mix(x)


@pytest.mark.parametrize("name", ["attn_logits", "attn_probs"])
def test_unknown_attention(name: str, vit: object) -> None:
    model = vit(attn_layer=Unknown)
    found = (
        f"{name} cannot be read in block 'blocks.0'",
        "expected attention of a known family",
        "test_base.Unknown",
        "register_family",
    )
    with unchanged(model):
        with refuses(UnsupportedModelError, *found):
            vitreg.trace(model, name).__enter__()
        with refuses(UnsupportedModelError, *found):
            vitreg.attach(model, target=name)


def test_what_needs_no_attention_reads_a_model_without(vit: object, images: Tensor) -> None:
    model = vit(attn_layer=Unknown).train()
    with vitreg.attach(model, target=["msa_output", "block_output", "features"]) as attachment:
        model(images)
        assert attachment.penalty().item() == 0


@pytest.mark.parametrize("name", ["attn_logits", "attn_probs"])
def test_no_class_token(name: str, vit: object, images: Tensor) -> None:
    model = vit(class_token=False, global_pool="avg").train()
    message = (f"{name} with query='cls' needs a class token", "VisionTransformer has none", "query='mean'")
    with unchanged(model):
        with refuses(UnsupportedModelError, *message, "block_output"):
            vitreg.trace(model, name).__enter__()
        with refuses(UnsupportedModelError, *message):
            vitreg.attach(model, target=name)
        with vitreg.trace(model, name, query="mean") as trace:
            model(images)
        assert [list(value.shape) for value in trace[name]] == [[4, 2, 16]] * 3
