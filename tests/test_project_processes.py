"""`project` in several processes: DDP and FSDP2 end with the weights of one process; others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_vit
from two_processes import FSDP2_ON_CPU, in_two_processes
from vitreg import FTP, MARS, SPD, L2Ball, UnsupportedModelError

PROJECTIONS = (SPD(), FTP(lr=0.1), MARS(radius=0.05), L2Ball(radius=0.05))


def made() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    source = make_vit(depth=1, num_classes=3)  # 3 rows in two shards: one of them is shorter
    model = make_vit(depth=1, num_classes=3)
    model.load_state_dict(source.state_dict())
    return model.train(), source


def trained(model: nn.Module, wrapped: nn.Module, optimizer: torch.optim.Optimizer, part: slice) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        images, labels = torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 0])
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(images[part]), labels[part]).backward()
        optimizer.step()


def _weights(rank: int) -> list[list[dict[str, Tensor]]]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    _check_refused()
    found = []
    for projection in PROJECTIONS:
        ends = []
        for kind in ("one", "ddp", "fsdp2"):
            model, source = made()
            wrapped, part = model, slice(2 * rank, 2 * rank + 2)
            if kind == "one":
                part = slice(None)
            if kind == "ddp":
                wrapped = nn.parallel.DistributedDataParallel(model)
            if kind == "fsdp2":
                mesh = init_device_mesh("cpu", (2,))
                fully_shard(model.blocks[0], mesh=mesh)
                fully_shard(model, mesh=mesh)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            # A source that is sharded, too: a copy of the model as it is.
            given = None if kind == "fsdp2" and projection.name == "spd" else source
            pull = vitreg.project(wrapped, optimizer, given, projection, new_head="head" if given else None)
            trained(model, wrapped, optimizer, part)
            pull.load_state_dict(pull.state_dict())
            ends.append(
                {
                    name: (p.full_tensor() if kind == "fsdp2" else p).detach().clone()
                    for name, p in model.named_parameters()
                }
            )
        found.append(ends)
    return found


def _check_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import Shard, distribute_tensor

    model, source = made()
    mesh = init_device_mesh("cpu", (2,))
    weight = model.blocks[0].mlp.fc1.weight
    model.blocks[0].mlp.fc1.weight = nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(1)]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with refuses(UnsupportedModelError, "along their first dimension", "fc1.weight'", "fully_shard alone"):
        vitreg.project(model, optimizer, source, SPD())
    for original in (False, True):
        model, source = made()
        cpu = torch.device("cpu")
        wrapped = FullyShardedDataParallel(model, use_orig_params=original, device_id=cpu)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.5)
        with refuses(UnsupportedModelError, "found FSDP1", "FSDP2"):
            vitreg.project(wrapped, optimizer, source, SPD())


@pytest.mark.slow
@FSDP2_ON_CPU
def test_ddp_and_fsdp2_with_two_processes(tmp_path: Path) -> None:
    for found in in_two_processes(_weights, tmp_path):
        assert len(found) == len(PROJECTIONS)
        for one, *others in found:
            for other in others:
                assert one.keys() == other.keys()
                for name in one:
                    torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-5)
