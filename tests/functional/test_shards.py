from __future__ import annotations

import torch
from torch import nn

from vitreg.functional.shards import sharded_by


def test_shards_of_both_kinds() -> None:
    whole, flat, original, sharded = (nn.Parameter(torch.ones(1)) for _ in range(4))
    flat._is_flat_param = True
    original._fsdp_flattened = True
    sharded.placements = ()
    assert sharded_by([]) is None
    assert sharded_by([whole]) is None
    assert sharded_by([whole, flat]) == "FSDP1"
    assert sharded_by([original]) == "FSDP1"
    assert sharded_by([whole, sharded]) == "FSDP2"
