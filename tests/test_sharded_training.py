"""Two processes, with DDP and FSDP2, against the gradients of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from plain_training import assert_same, batch, gradients, make_pair
from two_processes import FSDP2_ON_CPU, in_two_processes

SHARDABLE = ["attn_logits", "msa_output", "l2sp", vitreg.BSS(lam=0.1)]


@dataclass(frozen=True, kw_only=True)
class Shift(vitreg.ParameterPenalty):
    """A penalty of somebody's own, by torch's functions alone."""

    def selects(self, name: str, parameter: Tensor) -> bool:
        return True

    def value(self, parameters, start, head):
        return sum((p - s).square().sum() for p, s in zip(parameters, start, strict=True))


def _ddp(rank: int) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    x, y = batch()
    part = slice(rank * 2, rank * 2 + 2)
    found = []
    for is_static in (False, True):
        model, source = make_pair()
        model.set_grad_checkpointing(is_static)
        ddp = nn.parallel.DistributedDataParallel(model, static_graph=is_static)
        with vitreg.attach(ddp, source, SHARDABLE) as reg:
            (F.cross_entropy(ddp(x[part]), y[part]) + reg.penalty()).backward()
            found.append((gradients(model), reg.terms))
            ddp(x[: 2 + rank])
            with pytest.raises(vitreg.ArgumentError, match=r"found \(2, 192\), \(3, 192\)"):
                reg.penalty()
    return found


@pytest.mark.slow
def test_ddp_with_two_processes(tmp_path: Path) -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, SHARDABLE) as reg:
        (F.cross_entropy(model(x), y) + reg.penalty()).backward()
    each = in_two_processes(_ddp, tmp_path)
    for (first, first_terms), (second, second_terms) in zip(*each, strict=True):
        for found in (first, second):
            assert_same(found, gradients(model), rtol=1e-4, atol=1e-6)
        for name, value in reg.terms.items():  # shares of equal size: their mean is the penalty of the whole
            torch.testing.assert_close((first_terms[name] + second_terms[name]) / 2, value)
        assert first_terms["bss"] == second_terms["bss"]
        assert first_terms["attn_logits"] != second_terms["attn_logits"]


def _fsdp(rank: int) -> list[dict[str, Tensor]]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (2,))
    x, y = batch()
    part = slice(rank * 2, rank * 2 + 2)
    found = []
    # By default what is not in a block stays whole from the forward to the backward pass.
    for reshards in (None, True):
        model, source = make_pair()
        with vitreg.attach(model, source, SHARDABLE) as reg:
            for block in model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh, reshard_after_forward=reshards)
            (F.cross_entropy(model(x[part]), y[part]) + reg.penalty()).backward()
            found.append({n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None})
            found[-1]["l2sp"] = reg.terms["l2sp"].detach()
    with vitreg.attach(model, source):  # a sharded model is the same model
        pass
    with pytest.raises(vitreg.UnsupportedModelError, match="sharded"):
        vitreg.attach(model)
    with pytest.raises(vitreg.UnsupportedModelError, match="takes_shards = True"):
        vitreg.attach(model, source, Shift())
    coarse, source = make_pair()
    with vitreg.attach(coarse, source, "l2sp") as reg:
        fully_shard(coarse, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
        coarse(batch()[0])
        with pytest.raises(vitreg.UnsupportedModelError, match="too coarse"):
            reg.penalty()
    return found


@pytest.mark.slow
@FSDP2_ON_CPU
def test_fsdp2_with_two_processes(tmp_path: Path) -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, SHARDABLE) as reg:
        (F.cross_entropy(model(x), y) + reg.penalty()).backward()
    expected = gradients(model) | {"l2sp": reg.terms["l2sp"].detach()}
    for found in in_two_processes(_fsdp, tmp_path):
        for ours in found:
            assert_same(ours, expected, rtol=1e-4, atol=1e-6)
