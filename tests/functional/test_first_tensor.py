from collections import OrderedDict
from typing import Any

import pytest
import torch

from laws import refuses
from vitreg import UnsupportedModelError
from vitreg.functional.first_tensor import first_tensor

TOKENS = torch.zeros(2, 5, 8)
WEIGHTS = torch.zeros(2, 4, 5, 5)


def read(returned: Any) -> torch.Tensor:
    return first_tensor(returned, what="block_output", returned_by="a Block", remedy="Read msa_output.")


@pytest.mark.parametrize(
    "returned", [TOKENS, (TOKENS,), [TOKENS], (TOKENS, WEIGHTS), (TOKENS, None), (TOKENS, {"a": TOKENS})]
)
def test_one_is_the_first(returned: Any) -> None:
    assert read(returned) is TOKENS


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ([TOKENS, torch.zeros(6, 3, 8)], "2 tensors such as [2, 5, 8] of torch.float32"),
        ((TOKENS, TOKENS, WEIGHTS), "2 tensors"),
        (OrderedDict(last_hidden_state=TOKENS, hidden_states=None), "OrderedDict with last_hidden_state"),
        ({}, "dict with nothing"),
        (None, "NoneType"),
        ([], "list"),
        ((None, TOKENS), "tuple"),
    ],
)
def test_others_are_refused(returned: Any, found: str) -> None:
    with refuses(UnsupportedModelError, "block_output is one tensor", "a Block returned", found, "Read msa"):
        read(returned)
