import torch
from hypothesis import given
from hypothesis import strategies as st

from laws import draw
from vitreg.functional import attention_rollout


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_literal(b: int, n: int, depth: int, seed: int) -> None:
    blocks = [draw(seed + index, b, n, n).softmax(-1) for index in range(depth)]
    start = draw(seed - 1, n).softmax(-1)
    got = attention_rollout(start, blocks)
    assert got.dtype == torch.float32
    for i in range(b):
        product = torch.eye(n, dtype=torch.float64)
        for block in blocks:  # the first block acts first
            mixed = torch.zeros(n, n, dtype=torch.float64)
            for q in range(n):
                for k in range(n):
                    mixed[q, k] = 0.5 * block[i, q, k].double() + (0.5 if q == k else 0.0)
            product = mixed @ product
        torch.testing.assert_close(got[i].double(), start.double() @ product, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.sum(-1), torch.ones(b))
