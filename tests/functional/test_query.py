import torch
from hypothesis import given
from hypothesis import strategies as st

from laws import draw
from vitreg.functional import cls_row, mean_row, query_key_logits

seeds = st.integers(0, 99)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), seeds)
def test_cls_row_is_token_0(b: int, n: int, d: int, seed: int) -> None:
    tokens = draw(seed, b, n, d)
    assert torch.equal(cls_row(tokens, 1), tokens[:, 0])
    assert torch.equal(cls_row(tokens.transpose(0, 1), 0), tokens[:, 0])


@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 3), seeds)
def test_mean_row_is_the_mean_of_the_patches(b: int, prefix: int, p: int, d: int, seed: int) -> None:
    tokens = draw(seed, b, prefix + p, d)
    literal = torch.zeros(b, d, dtype=torch.float64)
    for i in range(b):
        for k in range(prefix, prefix + p):
            literal[i] += tokens[i, k].double() / p
    got = mean_row(tokens, 1, num_prefix_tokens=prefix)
    torch.testing.assert_close(got.double(), literal, rtol=1e-5, atol=1e-6)


def test_the_mean_querys_logits_are_the_mean_logits() -> None:
    query, key = draw(0, 2, 3, 6, 4), draw(1, 2, 3, 6, 4)  # [b, h, n, d]
    rows = torch.stack([query_key_logits(query[:, :, i], key, scale=0.5) for i in range(2, 6)])
    got = query_key_logits(mean_row(query, 2, num_prefix_tokens=2), key, scale=0.5)
    torch.testing.assert_close(got, rows.mean(0))
