import torch
from torch import Tensor

import vitreg
from laws import refuses
from small_models import TOWERS, shake
from softmax_recorder import SoftmaxRecorder
from vitreg import UnsupportedModelError


def literal_row(model: object, index: int, images: Tensor, query: str = "cls") -> Tensor:
    """Return the query's logits over all tokens by a second writing in float64, [b, h, n]."""
    block = model.blocks[index]
    entering: list[Tensor] = []
    handle = block.attn.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model(images)
    handle.remove()
    x = entering[0].double()
    b, n, d = x.shape
    h = block.attn.num_heads
    weight, bias = block.attn.qkv.weight.double(), block.attn.qkv.bias.double()
    rows = [0] if query == "cls" else list(range(model.num_prefix_tokens, n))
    logits = torch.zeros(b, h, n, dtype=torch.float64)
    for j in range(h):
        part = slice(j * d // h, (j + 1) * d // h)
        q = x @ weight[:d][part].T + bias[:d][part]
        k = x @ weight[d : 2 * d][part].T + bias[d : 2 * d][part]
        for i in rows:
            for key in range(n):
                logits[:, j, key] += (q[:, i] * k[:, key]).sum(-1) * (d // h) ** -0.5 / len(rows)
    return logits.detach()


def test_literal(vit: object, images: Tensor) -> None:
    model = vit().eval()
    with vitreg.trace(model, "attn_logits") as trace:
        model(images)
        for index, value in enumerate(trace["attn_logits"]):
            assert value.dtype == torch.float32
            literal = literal_row(model, index, images)[..., 1:]
            torch.testing.assert_close(value.double(), literal, rtol=1e-4, atol=1e-5)


def test_the_mean_query(vit: object, images: Tensor) -> None:
    model = vit(reg_tokens=2).eval()
    with vitreg.trace(model, "attn_logits", query="mean") as trace:
        model(images)
        for index, value in enumerate(trace["attn_logits"]):
            literal = literal_row(model, index, images, "mean")[..., 3:]
            torch.testing.assert_close(value.double(), literal, rtol=1e-4, atol=1e-5)


def test_keys_of_prefix_tokens_are_dropped(vit: object, images: Tensor) -> None:
    model = vit(reg_tokens=2).eval()
    with vitreg.trace(model, "attn_logits", layers=-1) as trace:
        model(images)
        literal = literal_row(model, 2, images)
        assert literal.shape[-1] == 19
        torch.testing.assert_close(trace["attn_logits"][0].double(), literal[..., 3:], rtol=1e-4, atol=1e-5)


def test_several_queries_are_the_rows_of_the_matrix(images: Tensor) -> None:
    for name, make in TOWERS.items():
        model = shake(make()).eval()
        prefix = vitreg.describe(model).num_prefix_tokens
        with torch.no_grad(), SoftmaxRecorder() as recorder:
            with vitreg.trace(model, "attn_logits", query="all") as trace:
                model(images)
            for ours, whole in zip(trace["attn_logits"], recorder.logits, strict=True):
                torch.testing.assert_close(ours, whole[..., prefix:], rtol=1e-4, atol=1e-4)
            if prefix == 1:
                with refuses(UnsupportedModelError, "prefix tokens beside the class token", "query='mean'"):
                    vitreg.trace(model, "attn_logits", query="registers").__enter__()
                continue
            with vitreg.trace(model, "attn_logits", query="registers") as trace:
                model(images)
            for ours, whole in zip(trace["attn_logits"], recorder.logits, strict=False):
                torch.testing.assert_close(ours, whole[:, :, 1:prefix, prefix:], rtol=1e-4, atol=1e-4)
                assert name == "timm_registers"


def test_a_guide_of_all_queries(vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    penalty = vitreg.GTA(query="all", layers=-1, heads="mean")
    with vitreg.attach(model, target=penalty) as attachment:
        model(images)
        assert attachment.penalty().item() == 0
        perturb(model)
        model(images)
        attachment.penalty().backward()
    wide, source = vit(reg_tokens=2).train(), vit(reg_tokens=2, patch_size=16)
    resampled = vitreg.GTA(query="registers", align="resample")
    with vitreg.attach(wide, source, target=resampled) as attachment:
        wide(images)
        assert attachment.penalty().item() > 0


def test_float32_under_autocast(vit: object, images: Tensor) -> None:
    model = vit().eval()
    with vitreg.trace(model, "attn_logits") as trace, torch.autocast("cpu", torch.bfloat16):
        model(images)
        assert all(value.dtype == torch.float32 for value in trace["attn_logits"])
