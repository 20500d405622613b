"""`attach(model, "base")`: a model with adapters of the peft library is its own source."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import vitreg
from lora_models import make_pair, step, with_lora
from small_models import TOWERS, make_clip
from softmax_recorder import SoftmaxRecorder
from two_processes import in_two_processes

TARGETS = ["attn_logits", "msa_output", "block_output"]


def flags(model: nn.Module) -> dict[str, bool]:
    found = {n: p.requires_grad for n, p in model.named_parameters()}
    for name, module in model.named_modules():
        found[f"{name}.training"] = module.training
        if hasattr(module, "enable_adapters"):
            found[f"{name}.disable_adapters"] = module.disable_adapters
    return found


@pytest.mark.parametrize("autocast", [False, True])
def test_equals_a_separate_frozen_copy(autocast: bool) -> None:
    model, source = make_pair()
    model.base_model.model.blocks[0].norm1.eval()  # a user's own choice
    before = flags(model)
    found = []
    for given in (source, "base"):
        with vitreg.attach(model, given, TARGETS) as reg, torch.autocast("cpu", enabled=autocast):
            found.append((step(model, model, reg), reg.terms))
    (expected, terms), (ours, our_terms) = found
    assert our_terms == terms
    assert all(value > 0 for value in terms.values())
    assert ours.keys() == expected.keys()
    assert sum("lora_" in name for name in ours) == 6
    for name in expected:
        assert torch.equal(ours[name], expected[name]), name
    assert flags(model) == before


def test_no_second_copy() -> None:
    model, _ = make_pair()
    own = {id(p) for p in model.parameters()}
    with vitreg.attach(model, "base") as reg:
        assert {id(p) for p in reg.source.tower.module.parameters()} <= own
        assert "the base of VisionTransformer" in repr(reg)
        with vitreg.attach(model, reg.source, "msa_output") as second:
            assert second.source is reg.source
    other, _ = make_pair()
    with pytest.raises(vitreg.MismatchError, match="belongs to its own model"):
        vitreg.attach(other, reg.source)


def test_other_readers_do_not_see_the_base() -> None:
    model, _ = make_pair(dropout=0.0)
    images = torch.randn(4, 3, 32, 32)
    with vitreg.attach(model, "base") as reg, vitreg.trace(model, "attn_logits") as trace:
        torch.manual_seed(0)
        model(images)
        seen = [value.clone() for value in trace["attn_logits"]]
        reg.penalty().backward()
        assert all(torch.equal(a, b) for a, b in zip(trace["attn_logits"], seen, strict=True))
    model(images)  # nothing is left of it


def test_adapters_come_back_as_they_were() -> None:
    model, _ = make_pair()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["qkv"]))
    for name, parameter in model.named_parameters():
        if "blocks.2" in name:
            parameter.requires_grad_(False)
    before = flags(model)
    with vitreg.attach(model, "base", vitreg.GTA(layers=[0, 1])) as reg:
        assert flags(model) == before
        step(model, model, reg)
        assert flags(model) == before
        with model.disable_adapter():
            switched_off = flags(model)
            model(torch.randn(2, 3, 32, 32))
            assert reg.penalty() == 0
            assert flags(model) == switched_off
        assert step(model, model, reg)


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_what_is_read_is_what_enters_the_softmax(name: str) -> None:
    """Of every Linear layer, also where the attention uses its weight alone and peft has no effect."""
    plain = TOWERS[name]()
    linear = {n for n, m in plain.named_modules() if type(m) is nn.Linear and not n.startswith("head")}
    model = with_lora(plain, sorted(linear))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    images = torch.randn(2, 3, 32, 32)
    with vitreg.trace(model, "attn_logits") as trace, SoftmaxRecorder() as recorder:
        model(images)
    prefix = vitreg.describe(model).num_prefix_tokens
    assert len(recorder.logits) == 3
    for ours, whole in zip(trace["attn_logits"], recorder.logits, strict=True):
        torch.testing.assert_close(ours, whole[:, :, 0, prefix:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("targets", "read"), [(["c_fc", "c_proj"], "attn_logits"), (["attn"], "msa_output")])
def test_open_clip(targets: list[str], read: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    source = make_clip().visual
    model = with_lora(copy.deepcopy(source), targets)
    with torch.no_grad(), vitreg.trace(model, read) as ours, vitreg.trace(source, read) as theirs:
        model(images)
        source(images)
    expected = sum((a - b).square().mean() for a, b in zip(ours[read], theirs[read], strict=True)) / 3
    with vitreg.attach(model, "base", read) as reg:
        model(images)
        value = reg.penalty()
        value.backward()
    assert expected > 0
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(("name", "target"), [("open_clip", "attn"), ("torchvision", "self_attention")])
def test_multihead_attention_with_adapters(name: str, target: str) -> None:
    """Of peft's wrapper around nn.MultiheadAttention, which merges its weights for each call."""
    source = TOWERS[name]()
    model = with_lora(copy.deepcopy(source), [target])
    images = torch.randn(4, 3, 32, 32)
    with vitreg.trace(model, "attn_logits") as trace, SoftmaxRecorder() as recorder:
        model(images)
    for ours, whole in zip(trace["attn_logits"], recorder.logits, strict=True):
        torch.testing.assert_close(ours, whole[:, :, 0, 1:], rtol=1e-4, atol=1e-4)
    found = []
    for given in (source, "base"):
        with vitreg.attach(model, given, TARGETS) as reg:
            found.append((step(model, model, reg), reg.terms))
    for ours, expected in zip(found[1][1].values(), found[0][1].values(), strict=True):
        torch.testing.assert_close(ours, expected)  # peft's merging rounds the weights
    assert found[0][0].keys() == found[1][0].keys()
    for gradient, expected in zip(found[1][0].values(), found[0][0].values(), strict=True):
        torch.testing.assert_close(gradient, expected)
    named = dict(model.named_parameters())
    name = next(n for n in named if f"{target}.lora_A" in n)  # and the gradient is that of the penalty
    with vitreg.attach(model, "base") as reg:
        model.zero_grad()
        model(images)
        reg.penalty().backward()
        direction, values = torch.randn_like(named[name]), []
        slope = (named[name].grad * direction).sum()
        for epsilon in (0.001, -0.002):
            with torch.no_grad():
                named[name].add_(direction, alpha=epsilon)
            model(images)
            values.append(reg.penalty().detach())
    torch.testing.assert_close((values[0] - values[1]) / 0.002, slope, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["function", "in place", "tower"])
def test_compiled_after_attaching(how: str) -> None:
    model, source = make_pair(dropout=0.0)
    with vitreg.attach(model, source, TARGETS) as reg:
        expected = step(model, model, reg)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    with vitreg.attach(model, "base", TARGETS) as reg:
        call = torch.compile(model, backend=backend) if how == "function" else model
        if how != "function":
            (model if how == "in place" else model.base_model.model).compile(backend=backend)
        for count in range(3):
            ours = step(model, call, reg)
            assert ours.keys() == expected.keys()
            for name in expected:
                torch.testing.assert_close(ours[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")
            assert len(graphs) <= min(count + 1, 2)  # the first pass copies all; the base runs eagerly


def _sharded(rank: int) -> list[dict[str, Tensor]]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, _ = make_pair(dropout=0.0)
    found = []
    part = slice(2 * rank, 2 * rank + 2)
    with vitreg.attach(model, "base", TARGETS) as reg:
        found.append(step(model, model, reg))
    ddp = nn.parallel.DistributedDataParallel(model)
    with vitreg.attach(ddp, "base", TARGETS) as reg:
        for _ in range(2):
            last = step(model, lambda images: ddp(images[part]), reg)
        found.append(last)
    model.zero_grad()
    mesh = init_device_mesh("cpu", (2,))
    with vitreg.attach(model, "base", TARGETS) as reg:
        for block in model.base_model.model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model.base_model.model, mesh=mesh)
        for _ in range(2):
            last = step(model, lambda images: model(images[part]), reg)
        found.append({n: g.full_tensor() for n, g in last.items()})
    return found


@pytest.mark.slow
def test_ddp_and_fsdp2_with_two_processes(tmp_path: Path) -> None:
    for plain, *others in in_two_processes(_sharded, tmp_path):
        for found in others:
            assert found.keys() == plain.keys()
            for name in plain:
                torch.testing.assert_close(found[name], plain[name], rtol=1e-4, atol=1e-6)
