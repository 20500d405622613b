import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitreg import Block, MismatchError
from vitreg.extractors.resample import resample_row, resample_share, resample_tokens

BLOCK = Block("blocks.0", nn.Identity(), num_prefix_tokens=2)


def test_a_row_is_resampled_as_a_picture() -> None:
    value = torch.randn(2, 3, 12)
    ours = resample_row(value, BLOCK, (3, 4), (6, 2))
    expected = F.interpolate(value.view(2, 3, 3, 4), (6, 2), mode="bilinear", antialias=True)
    torch.testing.assert_close(ours, expected.flatten(2))


def test_a_constant_and_a_linear_row_stay_what_they_are() -> None:
    across = torch.linspace(0.5, 3.5, 4).expand(4, 4).reshape(1, 1, 16)
    finer = resample_row(across, BLOCK, (4, 4), (8, 8)).view(8, 8)
    torch.testing.assert_close(finer[0, 1:-1], torch.linspace(0.75, 3.25, 6))
    torch.testing.assert_close(
        resample_row(torch.ones(1, 1, 16), BLOCK, (4, 4), (3, 5)), torch.ones(1, 1, 15)
    )


@pytest.mark.parametrize("grid", [(2, 2), (8, 8), (7, 5)])
def test_shares_keep_their_sum(grid: tuple[int, int]) -> None:
    shares = torch.rand(2, 3, 16).softmax(-1)
    ours = resample_share(shares, BLOCK, (4, 4), grid)
    torch.testing.assert_close(ours.sum(-1), torch.ones(2, 3), rtol=0.05, atol=0)


def test_prefix_tokens_stay_what_they_are() -> None:
    tokens = torch.randn(2, 2 + 4, 5)
    ours = resample_tokens(tokens, BLOCK, (2, 2), (4, 4))
    assert ours.shape == (2, 2 + 16, 5)
    torch.testing.assert_close(ours[:, :2], tokens[:, :2])
    maps = tokens[:, 2:].transpose(1, 2).reshape(2, 5, 2, 2)
    expected = F.interpolate(maps, (4, 4), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours[:, 2:], expected)


def test_patches_that_were_dropped_are_an_error() -> None:
    with pytest.raises(MismatchError, match=r"Expected 2×3 patches in block 'blocks\.0', found 5"):
        resample_row(torch.randn(1, 1, 5), BLOCK, (2, 3), (4, 4))
