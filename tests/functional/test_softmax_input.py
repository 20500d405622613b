import torch
import torch.nn.functional as F

from softmax_recorder import SoftmaxRecorder
from vitreg.functional.softmax_input import SoftmaxInput

Q, K, V = torch.randn(3, 2, 4, 5, 8).unbind(0)


def test_fused_attention_with_every_option() -> None:
    mask = torch.rand(5, 5) > 0.3
    with SoftmaxInput() as seen:
        F.scaled_dot_product_attention(Q, K, V)
        F.scaled_dot_product_attention(Q, K, V, scale=0.5)
        F.scaled_dot_product_attention(Q, K, V, attn_mask=mask)
        F.scaled_dot_product_attention(Q, K, V, attn_mask=torch.full((5, 5), 0.25))
        F.scaled_dot_product_attention(Q, K, V, is_causal=True)
        F.scaled_dot_product_attention(Q, K[:, :2], V[:, :2], enable_gqa=True)
    plain = Q @ K.transpose(-1, -2)
    torch.testing.assert_close(seen.logits[0], plain * 8**-0.5)
    torch.testing.assert_close(seen.logits[1], plain * 0.5)
    torch.testing.assert_close(seen.logits[2], (plain * 8**-0.5).masked_fill(~mask, -torch.inf))
    torch.testing.assert_close(seen.logits[3], plain * 8**-0.5 + 0.25)
    assert bool((seen.logits[4].isinf() == torch.ones(5, 5).triu(1).bool()).all())
    grouped = K[:, :2].repeat_interleave(2, 1)
    torch.testing.assert_close(seen.logits[5], Q @ grouped.transpose(-1, -2) * 8**-0.5)


def test_softmax_in_each_spelling_over_the_last_dimension_only() -> None:
    x = torch.randn(2, 3, 4)
    with SoftmaxInput() as seen:
        x.softmax(-1)
        x.softmax(dim=2)
        torch.softmax(x, -1)
        F.softmax(x, dim=-1)
        x.softmax(1)
        x[0].softmax(-1)
    assert len(seen.logits) == 4
    assert all(logits is x for logits in seen.logits)


def test_it_agrees_with_the_recorder_of_the_tests() -> None:
    with SoftmaxInput() as ours, SoftmaxRecorder() as theirs:
        F.scaled_dot_product_attention(Q, K, V)
    torch.testing.assert_close(ours.logits, theirs.logits)
