import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laws import draw
from vitreg.functional import absorbed_key_logits, project_row, query_key_logits

size = st.integers(1, 4)
seeds = st.integers(0, 99)


def literal_logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    b, h, n, d = key.shape
    logits = torch.zeros(b, h, n, dtype=torch.float64)
    for i in range(b):
        for j in range(h):
            for k in range(n):
                for e in range(d):
                    logits[i, j, k] += scale * query[i, j, e].double() * key[i, j, k, e].double()
    return logits


def literal_projection(tokens: Tensor, weight: Tensor, bias: Tensor | None, num_heads: int) -> Tensor:
    """Return tokens [b, n, d] projected and split into heads, [b, h, n, d_head]."""
    b, n, d = tokens.shape
    d_head = weight.shape[0] // num_heads
    out = torch.zeros(b, num_heads, n, d_head, dtype=torch.float64)
    for i in range(b):
        for k in range(n):
            for row in range(weight.shape[0]):
                total = 0.0 if bias is None else bias[row].double()
                for e in range(d):
                    total = total + weight[row, e].double() * tokens[i, k, e].double()
                out[i, row // d_head, k, row % d_head] = total
    return out


@given(size, size, size, size, st.floats(0.01, 4), seeds)
def test_query_key_logits(b: int, h: int, n: int, d: int, scale: float, seed: int) -> None:
    query, key = draw(seed, b, h, d), draw(seed + 1, b, h, n, d)
    got = query_key_logits(query, key, scale=scale)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), literal_logits(query, key, scale), rtol=1e-4, atol=1e-5)


@given(size, size, size, size, size, st.booleans(), seeds)
def test_absorbed_key_logits(b: int, h: int, n: int, d: int, d_head: int, biased: bool, seed: int) -> None:
    query, tokens = draw(seed, b, h, d_head), draw(seed + 1, b, n, d)
    weight = draw(seed + 2, h * d_head, d)
    bias = draw(seed + 3, h * d_head) if biased else None
    key = literal_projection(tokens, weight, bias, h)
    got = absorbed_key_logits(query, tokens, weight, bias, scale=0.3)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), literal_logits(query, key, 0.3), rtol=1e-4, atol=1e-5)


@given(size, size, size, size, st.booleans(), seeds)
def test_project_row(b: int, h: int, d: int, d_head: int, biased: bool, seed: int) -> None:
    token, weight = draw(seed, b, d), draw(seed + 1, h * d_head, d)
    bias = draw(seed + 2, h * d_head) if biased else None
    got = project_row(token, weight, bias, num_heads=h)
    literal = literal_projection(token[:, None], weight, bias, h)[:, :, 0]
    torch.testing.assert_close(got.double(), literal, rtol=1e-4, atol=1e-5)


def test_a_key_bias_shifts_a_whole_row() -> None:
    query, tokens, weight = draw(0, 2, 3, 4), draw(1, 2, 5, 8), draw(2, 12, 8)
    plain = absorbed_key_logits(query, tokens, weight, None, scale=0.5)
    shifted = absorbed_key_logits(query, tokens, weight, draw(3, 12), scale=0.5)
    shift = shifted - plain
    torch.testing.assert_close(shift, shift[..., :1].expand_as(shift))
    torch.testing.assert_close(plain.softmax(-1), shifted.softmax(-1))


def test_autocast_does_not_reach_the_logits() -> None:
    query, key, token = draw(0, 2, 3, 8), draw(1, 2, 3, 5, 8), draw(2, 2, 24)
    weight = draw(3, 24, 24)
    exact = (
        query_key_logits(query, key, scale=0.3),
        absorbed_key_logits(query, token[:, None], weight, None, scale=0.3),
        project_row(token, weight, None, num_heads=3),
    )
    with torch.autocast("cpu", torch.bfloat16):
        under = (
            query_key_logits(query, key, scale=0.3),
            absorbed_key_logits(query, token[:, None], weight, None, scale=0.3),
            project_row(token, weight, None, num_heads=3),
        )
    assert all(torch.equal(a, b) for a, b in zip(exact, under, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_keys_in_half_precision_are_not_kept_in_float32(dtype: torch.dtype) -> None:
    query, key, weight = draw(0, 2, 3, 8), draw(1, 2, 3, 9, 8), draw(2, 2, 3, 9)
    gradients = []
    for is_rounded in (True, False):
        q, k = (t.to(dtype).requires_grad_() for t in (query, key))
        kept: list[Tensor] = []

        def keep(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            ours = (q, k) if is_rounded else (q.float(), k.float())
            logits = query_key_logits(*ours, scale=0.5)
        assert any(t.dtype == torch.float32 and t.numel() == key.numel() for t in kept) != is_rounded
        gradients.append(torch.autograd.grad(logits, (q, k), weight))
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs)
