"""A step computed in parts has the gradients of the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._dynamo.utils import counters

import small_runs
from small_models import make_vit, shake
from small_runs import HYPER, planned, quiet, with_hyper, write_pictures
from vitreg.errors import InputError
from vitreg.train.runs.run import checkpoints_of, trained_model
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training import device as device_module
from vitreg.train.training import step as step_module
from vitreg.train.training.device import check_batch, checkpoint_blocks, make_accelerator, unfuse_attention
from vitreg.train.training.guided_model import Applied
from vitreg.train.training.hyperparameters import Hyperparameters, Mixing
from vitreg.train.training.methods import DEMANDING, METHODS, is_guided, target_of
from vitreg.train.training.step import Step

BATCH = 6

PLAIN = [
    name
    for name, method in METHODS.items()
    if method.is_trained and method.head == "new" and not method.adapters and name not in DEMANDING
]


def needs_whole_batch(method: str) -> bool:
    target = target_of(method, 1.0) if is_guided(method) else None
    return not getattr(target, "is_mean", True)


def hyper_of(micro_batch: int | None, **options: Any) -> Hyperparameters:
    return replace(HYPER, batch_size=BATCH, micro_batch=micro_batch, **options)


@pytest.fixture(scope="module")
def start() -> nn.Module:
    torch.manual_seed(0)
    return make_vit(num_classes=3, drop_path_rate=0.5)


def step_of(
    start: nn.Module,
    method: str,
    micro_batch: int | None,
    *,
    steps: int = 1,
    watch: Callable[[nn.Module], Any] = lambda model: None,
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, Tensor], Step]:
    """Return the gradients and the values of the last of some steps, between which the weights change."""
    hyper = hyper_of(micro_batch, **options)
    torch.manual_seed(3)
    np.random.seed(3)
    model = copy.deepcopy(start).train()
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.tensor([0, 2, 1, 1, 0, 2])
    lam = 2.0 if is_guided(method) else None
    with Applied(model, method, lam, replace(hyper, smoothing=0.1), num_classes=3) as applied:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        step = Step(model, model, applied, Accelerator(cpu=True), hyper)
        watch(model)
        shake(model)  # away from the source
        for number in range(steps):
            mixed, soft = applied.mix(images, labels)
            values = step.gradients(optimizer, mixed, soft, torch.full((BATCH,), -1), step=number)
            if number < steps - 1:
                optimizer.step()
        torch.randn(1)  # which is not the same unless the same numbers were drawn
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return {**gradients, "next random number": torch.rand(1)}, values, step


@pytest.mark.parametrize("method", [m for m in PLAIN if not needs_whole_batch(m)])
def test_parts_have_the_gradients_of_the_whole_batch(start: nn.Module, method: str) -> None:
    whole, values, _ = step_of(start, method, None)
    parts, sums, _ = step_of(start, method, 4)
    assert parts.keys() == whole.keys()
    assert len(whole) > 3
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=2e-6)
    torch.testing.assert_close(sums, values, rtol=1e-5, atol=1e-7)
    assert values["objective"] > values["loss"] or not is_guided(method)


@pytest.mark.parametrize("options", [{"mixing": Mixing(0.8, 1.0)}, {"every": 2}])
def test_with_mixed_pictures_and_a_penalty_now_and_then(start: nn.Module, options: dict[str, Any]) -> None:
    for steps in (1, 2):
        whole, values, _ = step_of(start, "GTA", None, steps=steps, **options)
        parts, sums, _ = step_of(start, "GTA", 4, steps=steps, **options)
        torch.testing.assert_close((parts, sums), (whole, values), rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("method", [m for m in PLAIN if needs_whole_batch(m)])
def test_a_penalty_on_the_whole_batch_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"all pictures of a batch at once.*--grad-checkpointing"):
        check_batch(hyper_of(2), [method])
    check_batch(hyper_of(BATCH), [method])


def test_parts_are_halved_where_the_memory_does_not_hold_them(start: nn.Module) -> None:
    def full(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if len(output) > 2:
            raise torch.OutOfMemoryError

    def watch(model: nn.Module) -> None:
        model.get_submodule("blocks.1").register_forward_hook(full)

    found, values, step = step_of(start, "GTA+TransMix", 0, steps=2, watch=watch)
    told, same, _ = step_of(start, "GTA+TransMix", 2, steps=2)
    assert step.size == 2
    torch.testing.assert_close((found, values), (told, same), rtol=0, atol=0)
    with pytest.raises(torch.OutOfMemoryError):
        step_of(start, "GTA", 4, watch=watch)


@pytest.mark.parametrize("method", ["GTA", "BSS", "L2-SP", "block-output+TransMix"])
def test_blocks_that_are_computed_again_give_the_same_gradients(start: nn.Module, method: str) -> None:
    def watch(model: nn.Module) -> None:
        checkpoint_blocks(model)
        model.get_submodule("blocks.0").register_forward_pre_hook(lambda *_: passes.append(1))

    passes: list[int] = []
    plain = step_of(start, method, None)[:2]
    torch.testing.assert_close(step_of(start, method, None, watch=watch)[:2], plain, rtol=0, atol=0)
    assert len(passes) == 2
    if not needs_whole_batch(method):
        parts = step_of(start, method, 4, watch=watch)[:2]
        torch.testing.assert_close(parts, plain, rtol=1e-3, atol=2e-6)


@pytest.mark.slow
def test_a_compiled_step_is_one_graph_and_is_compiled_once(
    start: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "COMPILER", {"backend": "eager", "fullgraph": True})
    options: dict[str, Any] = {"every": 2, "steps": 5}
    plain, values, _ = step_of(start, "GTA", None, **options)
    torch._dynamo.reset()
    counters.clear()
    compiled, same, _ = step_of(start, "GTA", None, compile=True, **options)
    assert counters["stats"]["unique_graphs"] == 2  # with and without the penalty
    assert not counters["graph_break"]
    torch.testing.assert_close((compiled, same), (plain, values), rtol=1e-3, atol=2e-6)


def test_what_cannot_be_switched_is_refused() -> None:
    with pytest.raises(InputError, match="no attention of timm's"):
        unfuse_attention(nn.Linear(1, 1))
    with pytest.raises(InputError, match="no set_grad_checkpointing; use --micro-batch"):
        checkpoint_blocks(nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"--compile .* --views, .* leave one out"):
        check_batch(hyper_of(None, compile=True, views=2), ["GTA"])
    with pytest.raises(InputError, match=r"--compile .* --fraction, .* leave one out"):
        check_batch(hyper_of(None, compile=True, fraction=0.5), ["GTA"])
    with pytest.raises(InputError, match="--micro-batch three: expected a whole number"):
        hyper_of("three")  # type: ignore[arg-type]


def test_precision_is_bf16_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(device_module, "Accelerator", lambda **options: told.append(options))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability in ((7, 5), (8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        make_accelerator("auto", "auto")
        make_accelerator("cpu", "auto")
    assert [one["mixed_precision"] for one in told] == ["no", "no", "bf16", "no"]


def test_fused_attention_is_another_run_and_unfused_is_not_fused(start: nn.Module, tmp_path: Path) -> None:
    model = copy.deepcopy(start)
    unfuse_attention(model)
    assert {m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")} == {False}
    write_pictures(tmp_path)
    run = planned(tmp_path, ("fine-tune",))[0]
    for options in ({"compile": True}, {"grad_checkpointing": True}, {"micro_batch": "auto"}):
        assert with_hyper(run, **options).configuration.folder == run.configuration.folder
    unfused = replace(run, configuration=replace(run.configuration, fused_attention=False))
    assert unfused.configuration.folder != run.configuration.folder
    assert "fused_attention" not in run.configuration.identity
    trained, _ = trained_model(unfused, accelerator=Accelerator(cpu=True), workers=0)
    assert {m.fused_attn for m in trained.modules() if hasattr(m, "fused_attn")} == {False}


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_a_run_in_parts_goes_on_bit_for_bit_and_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    write_pictures(tmp_path)
    whole = planned(tmp_path, ("GTA",))[0]
    whole = with_hyper(whole, steps=4, fraction=fraction)
    run = with_hyper(whole, micro_batch=3)
    # Of each part others are drawn than of the whole.
    assert (run.configuration.folder == whole.configuration.folder) == (fraction == 1)
    now = small_runs.count_steps(monkeypatch)
    accelerator = Accelerator(cpu=True)

    class KilledError(Exception):
        pass

    def kill() -> None:
        if now[0] == 2:
            raise KilledError

    def trained(out: Path, on_step: Callable[[], None] = lambda: None) -> tuple[nn.Module, Any]:
        checkpoints = checkpoints_of(run, Workplace(out, accelerator, 0, quiet(), checkpoint_seconds=1))
        checkpoints.path.parent.mkdir(parents=True, exist_ok=True)
        return trained_model(
            run, accelerator=accelerator, workers=0, checkpoints=checkpoints, on_step=on_step
        )

    model, log = trained(tmp_path / "whole")
    now[0] = 0
    with pytest.raises(KilledError):
        trained(tmp_path / "killed", kill)
    now[0] = 100
    continued, same = trained(tmp_path / "killed")
    assert now[0] == 102  # it went on
    assert log == same
    torch.testing.assert_close(continued.state_dict(), model.state_dict(), rtol=0, atol=0)
    entries = trained_model(whole, accelerator=accelerator, workers=0)[1]
    assert entries[-1]["loss"] == pytest.approx(log[-1]["loss"], rel=1e-3)
    lora = replace(whole.configuration, method="LoRA")
    assert replace(lora, hyper=hyper_of(2)).identity != replace(lora, hyper=hyper_of(None)).identity
