from __future__ import annotations

import torch

from vitreg.reader.random_state import are_equal, random_state, replay

CPU = torch.device("cpu")


def test_the_same_numbers_again_and_the_next_ones_afterwards() -> None:
    state = random_state(CPU)
    first, second = torch.rand(3), torch.rand(3)
    with replay(state, CPU):
        assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.rand(3), second)
        torch.rand(100)
    after = torch.rand(3)
    with replay(state, CPU):
        assert torch.equal(torch.rand(9), torch.cat([first, second, after]))


def test_what_is_drawn_inside_counts_for_nobody() -> None:
    before = random_state(CPU)
    with replay(None, CPU):
        torch.rand(5)
        assert not are_equal(before, random_state(CPU))
    assert are_equal(before, random_state(CPU))
    assert not are_equal(before, None)
    assert are_equal(None, None)
