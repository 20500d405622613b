import torch
from hypothesis import given
from hypothesis import strategies as st

from laws import draw
from vitreg.functional import attention_share, box_on_grid, patch_coverage

seeds = st.integers(0, 99)


@given(st.integers(1, 4), st.integers(1, 9), seeds)
def test_literal(b: int, p: int, seed: int) -> None:
    attention, mask = draw(seed, b, p).softmax(-1) * 0.7, (draw(seed + 1, p) > 0).float()
    got = attention_share(attention, mask)
    assert got.dtype == torch.float32
    for i in range(b):
        under = total = 0.0
        for k in range(p):
            total += attention[i, k].double()
            under += mask[k].double() * attention[i, k].double()
        torch.testing.assert_close(got[i].double(), torch.as_tensor(under / total), rtol=1e-5, atol=1e-6)


@given(st.integers(2, 9), st.floats(0.01, 100), seeds)
def test_shares_add_up_and_do_not_depend_on_scale(p: int, scale: float, seed: int) -> None:
    attention, mask = draw(seed, 3, p).softmax(-1), (draw(seed + 1, p) > 0).float()
    share = attention_share(attention, mask)
    assert bool(((share >= 0) & (share <= 1 + 1e-6)).all())
    torch.testing.assert_close(share + attention_share(attention, 1 - mask), torch.ones(3))
    torch.testing.assert_close(attention_share(attention * scale, mask), share)
    torch.testing.assert_close(attention_share(attention, torch.ones(p)), torch.ones(3))
    assert attention_share(attention, torch.zeros(p)).abs().sum() == 0


@given(st.data())
def test_box_on_grid_literal(data: st.DataObject) -> None:
    grid = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    height, width = grid[0] * data.draw(st.integers(1, 5)), grid[1] * data.draw(st.integers(1, 5))
    top, left = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    bottom, right = data.draw(st.integers(top, height)), data.draw(st.integers(left, width))
    got = box_on_grid(height, width, (top, bottom, left, right), grid)
    assert got.shape == (grid[0] * grid[1],)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = row * height // grid[0], column * width // grid[1]  # nearest: a patch's first pixel
            inside = top <= y < bottom and left <= x < right
            assert got[row * grid[1] + column].item() == inside


def test_uniform_attention_gives_the_area_of_a_box_of_whole_patches() -> None:
    mask = box_on_grid(32, 48, (8, 24, 0, 16), (4, 6))
    share = attention_share(torch.full((1, 24), 0.02), mask)
    torch.testing.assert_close(share, torch.tensor([16 * 16 / (32 * 48)]))


@given(st.integers(1, 3), st.integers(1, 4), seeds)
def test_a_mask_an_image(b: int, p: int, seed: int) -> None:
    attention, masks = draw(seed, b, p).softmax(-1), draw(seed + 1, b, p).sigmoid()
    one_by_one = [attention_share(attention[i : i + 1], masks[i]) for i in range(b)]
    torch.testing.assert_close(attention_share(attention, masks), torch.cat(one_by_one))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), seeds)
def test_patch_coverage_literal(b: int, rows: int, side: int, seed: int) -> None:
    grid = (rows, rows + 1)
    masks = draw(seed, b, grid[0] * side, grid[1] * side) > 0
    got = patch_coverage(masks, grid).unflatten(-1, grid)
    for i in range(b):
        for r in range(grid[0]):
            for c in range(grid[1]):
                inside = [
                    bool(masks[i, r * side + y, c * side + x]) for y in range(side) for x in range(side)
                ]
                torch.testing.assert_close(float(got[i, r, c]), sum(inside) / side**2, rtol=1e-6, atol=1e-7)
