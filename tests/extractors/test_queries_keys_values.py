"""What is read as queries, keys and values is what the attention of each library computes with."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import TOWERS, shake
from softmax_recorder import SoftmaxRecorder
from vitreg import UnsupportedModelError

NAMES = ("queries", "keys", "values")


def literal(model: nn.Module, index: int, images: Tensor) -> list[Tensor]:
    """Return q, k and v of a plain timm attention by a second writing in float64, [b, h, n, d_head] each."""
    attention = model.blocks[index].attn
    entering: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model(images)
    handle.remove()
    x, width, heads = entering[0].detach().double(), attention.qkv.in_features, attention.num_heads
    weight, bias = attention.qkv.weight.detach().double(), attention.qkv.bias.detach().double()
    parts = []
    for part in range(3):
        out = torch.empty(x.shape[0], heads, x.shape[1], width // heads, dtype=torch.float64)
        for h in range(heads):
            for e in range(width // heads):
                row = part * width + h * (width // heads) + e
                out[:, h, :, e] = x @ weight[row] + bias[row]
        parts.append(out)
    return parts


def test_literal(vit: object, images: Tensor) -> None:
    model = vit().eval()
    with vitreg.trace(model, *NAMES) as trace:
        model(images)
        for index in range(3):
            for name, expected in zip(NAMES, literal(model, index, images), strict=True):
                torch.testing.assert_close(trace[name][index].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tower", sorted(TOWERS))
def test_their_product_is_what_enters_the_softmax(tower: str, images: Tensor) -> None:
    model = shake(TOWERS[tower]()).eval()
    with torch.no_grad(), SoftmaxRecorder() as recorder, vitreg.trace(model, "queries", "keys") as trace:
        model(images)
    pairs = zip(trace["queries"], trace["keys"], recorder.logits, strict=True)
    for block, (query, key, logits) in enumerate(pairs):
        ours = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if tower == "timm_beit":  # the rest is its table of relative positions
            logits = logits - _beit_positions(model, block)
        torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)


def _beit_positions(model: nn.Module, block: int) -> Tensor:
    return model.blocks[block].attn._get_rel_pos_bias()


@pytest.mark.parametrize("tower", sorted(TOWERS))
def test_values_averaged_and_projected_are_the_attentions_output(tower: str, images: Tensor) -> None:
    model = shake(TOWERS[tower]()).eval()
    with torch.no_grad(), SoftmaxRecorder() as recorder, vitreg.trace(model, "values", "msa_output") as trace:
        model(images)
    blocks = [block.attention for block in vitreg.families.find_tower(model).blocks]
    for attention, value, logits, output in zip(
        blocks, trace["values"], recorder.logits, trace["msa_output"], strict=True
    ):
        heads = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        projection = attention.proj if hasattr(attention, "proj") else attention.out_proj
        inner = attention.norm(heads) if hasattr(attention, "norm") else heads
        expected = F.linear(inner, projection.weight, projection.bias)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_what_a_family_does_not_say_is_refused(vit: object) -> None:
    class Unknown(nn.Module):
        def __init__(self, dim: int, **_: object) -> None:
            super().__init__()

    model = vit(attn_layer=Unknown)
    for name in NAMES:
        with refuses(UnsupportedModelError, f"{name} cannot be read", "blocks.0", "known family"):
            vitreg.trace(model, name).__enter__()
