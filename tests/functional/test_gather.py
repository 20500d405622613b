from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from laws import draw
from two_processes import in_two_processes
from vitreg import BSS, ArgumentError
from vitreg.functional import smallest_squared_singular_values
from vitreg.functional.gather import gather_rows

WHOLE = draw(3, 6, 8)


def test_a_process_alone_keeps_its_rows() -> None:
    assert gather_rows(WHOLE) is WHOLE


def _cases(rank: int) -> dict[str, Tensor | str]:
    rows = WHOLE[3 * rank : 3 * rank + 3].clone().requires_grad_()
    gathered = gather_rows(rows)
    weight = (1.0, 3.0)[rank]
    (weight * smallest_squared_singular_values(gathered, k=2)).backward()
    own = BSS(gather=False).value([rows])
    together = BSS().value([rows])
    alone = BSS().value([rows[:1]])  # two rows together, which is enough
    with pytest.raises(ArgumentError) as uneven:
        gather_rows(rows[: 2 + rank])
    values = {"gathered": gathered, "own": own, "together": together, "alone": alone}
    return {n: v.detach() for n, v in values.items()} | {"grad": rows.grad, "uneven": str(uneven.value)}


@pytest.mark.slow
def test_two_processes_see_one_batch(tmp_path: Path) -> None:
    whole = WHOLE.clone().requires_grad_()
    smallest_squared_singular_values(whole, k=2).backward()
    for rank, found in enumerate(in_two_processes(_cases, tmp_path)):
        mine = slice(3 * rank, 3 * rank + 3)
        assert torch.equal(found["gathered"], WHOLE)
        torch.testing.assert_close(found["grad"], 4 * whole.grad[mine])  # weights 1 and 3
        torch.testing.assert_close(found["own"], smallest_squared_singular_values(WHOLE[mine], k=1))
        torch.testing.assert_close(found["together"], smallest_squared_singular_values(WHOLE, k=1))
        torch.testing.assert_close(found["alone"], smallest_squared_singular_values(WHOLE[::3], k=1))
        assert "found (2, 8), (3, 8)" in found["uneven"]
        assert "drop_last=True" in found["uneven"]


@pytest.mark.parametrize("gather", [None, 1, "yes"])
def test_wrong_option(gather: object) -> None:
    with pytest.raises(ArgumentError, match="gather must be True or False"):
        BSS(gather=gather)
