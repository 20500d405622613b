import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import refuses
from vitreg import ArgumentError
from vitreg.layers import ranges, resolve_layers


@pytest.mark.parametrize(
    ("layers", "indices"),
    [
        ("all", (0, 1, 2, 3)),
        (0, (0,)),
        (-1, (3,)),
        ([3, 1], (1, 3)),
        ((0, -1), (0, 3)),
        (range(1, 3), (1, 2)),
        (slice(None), (0, 1, 2, 3)),
        (slice(2, None), (2, 3)),
        (slice(None, None, -2), (1, 3)),
        (slice(-2, 99), (2, 3)),
    ],
)
def test_indices(layers: object, indices: tuple[int, ...]) -> None:
    assert resolve_layers(layers, 4) == indices


def test_spread_is_five_at_even_distances_with_the_last() -> None:
    assert resolve_layers("spread", 12) == (1, 4, 6, 9, 11)
    assert resolve_layers("spread", 24) == (4, 9, 13, 18, 23)
    assert resolve_layers("spread", 6) == (0, 1, 3, 4, 5)
    for depth in range(1, 6):
        assert resolve_layers("spread", depth) == tuple(range(depth))


@given(st.integers(1, 30), st.data())
def test_as_python_indexes_a_list(depth: int, data: st.DataObject) -> None:
    blocks = list(range(depth))
    index = data.draw(st.integers(-depth, depth - 1))
    assert resolve_layers(index, depth) == (blocks[index],)
    part = data.draw(st.slices(depth))
    if blocks[part]:
        assert resolve_layers(part, depth) == tuple(sorted(blocks[part]))
    else:
        with pytest.raises(ArgumentError):
            resolve_layers(part, depth)


@pytest.mark.parametrize("layers", [4, -5, [0, 4], (99,)])
def test_out_of_range(layers: object) -> None:
    with refuses(ArgumentError, "between -4 and 3", "4 blocks", "got"):
        resolve_layers(layers, 4)


@pytest.mark.parametrize("layers", [[], (), slice(4, None), slice(2, 2), range(0)])
def test_nothing_selected(layers: object) -> None:
    with refuses(ArgumentError, repr(layers), "selects none", "4 blocks"):
        resolve_layers(layers, 4)


@pytest.mark.parametrize("layers", [[1, 1], [0, -4]])
def test_a_block_twice(layers: object) -> None:
    with refuses(ArgumentError, repr(layers), "twice"):
        resolve_layers(layers, 4)


@pytest.mark.parametrize(
    "layers",
    ["last", 1.5, [1.5], True, [True], None, {0, 1}, ["0"], slice("a", None), slice(0, 1.5), slice(0, 3, 0)],
)
def test_wrong_type(layers: object) -> None:
    with refuses(ArgumentError, "layers", "indices, a slice, 'all' or 'spread'", "got"):
        resolve_layers(layers, 4)


@pytest.mark.parametrize(
    ("indices", "words"),
    [((), ""), ((3,), "3"), ((0, 1, 2), "0–2"), ((0, 2, 3, 7), "0, 2–3, 7"), ({1: 5, 2: 9}, "1–2")],
)
def test_indices_in_words(indices: object, words: str) -> None:
    assert ranges(indices) == words
