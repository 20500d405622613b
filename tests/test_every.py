"""`attach(every=k)`: the penalty on every k-th step, as strong on average, and nothing in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vitreg
from small_models import Factory
from vitreg.attachment.rhythm import is_due


@pytest.fixture
def model(vit: Factory) -> nn.Module:
    return vit().train()


def taken(attachment: vitreg.Attachment, model: nn.Module, images: Tensor, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        model(images)
        values.append(attachment.penalty().item())
    return values


@pytest.mark.parametrize("target", ["attn_logits", "l2sp", "bss", ["block_output", "l2sp"]])
def test_the_sum_over_steps_is_that_of_every_step(
    model: nn.Module, images: Tensor, perturb: Callable[[nn.Module], None], target: object
) -> None:
    source = vitreg.FrozenSource(model)
    perturb(model)
    with vitreg.attach(model, source, target) as attachment:
        each = taken(attachment, model, images, 6)
    with vitreg.attach(model, source, target, every=3) as attachment:
        some = taken(attachment, model, images, 6)
        assert attachment.step == 6
    assert [value > 0 for value in some] == [1, 0, 0, 0, 1, 0]  # one of each three, not always the first
    assert sum(some) == pytest.approx(sum(each), rel=1e-6)


def test_steps_in_between_read_nothing(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model, every=2) as attachment:
        passes: list[int] = []
        attachment.source.tower.blocks[0].module.norm1.register_forward_hook(lambda *_: passes.append(1))
        reader = attachment._readings._target_reader
        for step in range(4):
            model(images)
            assert len(reader.values) == (3 if step in (0, 3) else 0)
            value = attachment.penalty()
            assert value.requires_grad == (step in (0, 3))
        assert len(passes) == 2
        assert "every 2 steps" in repr(attachment)


def test_a_training_that_goes_on_keeps_its_rhythm(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model, every=3) as attachment:
        attachment.step = 2
        assert [bool(torch.is_nonzero(_asked(attachment, model, images))) for _ in range(4)] == [0, 0, 1, 0]


def _asked(attachment: vitreg.Attachment, model: nn.Module, images: Tensor) -> Tensor:
    model(images)
    return torch.tensor(attachment.penalty().requires_grad)


def test_lam_as_a_function_sees_the_true_step(model: nn.Module, images: Tensor) -> None:
    seen: list[int] = []
    with vitreg.attach(model, lam=lambda step: float(seen.append(step) or 1), every=2) as attachment:
        taken(attachment, model, images, 4)
    assert seen == [0, 3]


def test_a_step_that_counts_still_needs_its_pass(model: nn.Module, images: Tensor) -> None:
    with vitreg.attach(model, every=2) as attachment:
        taken(attachment, model, images, 3)
        with pytest.raises(vitreg.StateError, match="forward pass"):
            attachment.penalty()


@pytest.mark.slow
def test_a_compiled_model_is_read_when_it_counts(model: nn.Module, images: Tensor) -> None:
    source = vitreg.FrozenSource(model)
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(1.5)
    with vitreg.attach(model, source, every=2) as attachment:
        eager = taken(attachment, model, images, 4)
    with vitreg.attach(model, source, every=2) as attachment:
        assert taken(attachment, torch.compile(model, backend="eager"), images, 4) == pytest.approx(eager)


@pytest.mark.parametrize("every", [1, 2])
def test_checkpointed_blocks_run_again_as_they_ran(model: nn.Module, images: Tensor, every: int) -> None:
    model.set_grad_checkpointing()
    with vitreg.attach(model, every=every) as attachment:
        for _ in range(3):
            (model(images).sum() + attachment.penalty()).backward()


@pytest.mark.parametrize("rhythm", [2, 3, 4, 5, 7, 12, 64])
@pytest.mark.parametrize("every", [2, 3, 4, 5, 8, 10])
def test_each_phase_of_a_loop_is_penalised_as_often(rhythm: int, every: int) -> None:
    steps = 400 * rhythm * every
    due = [step for step in range(steps) if is_due(step, every)]
    assert len(due) == steps // every
    counts = [sum(step % rhythm == phase for step in due) for phase in range(rhythm)]
    assert counts == pytest.approx([400] * rhythm, rel=0.05)


def test_both_passes_of_sam_are_penalised(
    model: nn.Module, images: Tensor, perturb: Callable[[nn.Module], None]
) -> None:
    with vitreg.attach(model, every=2) as attachment:
        perturb(model)
        values = taken(attachment, model, images, 8)
    whole = max(values)
    assert values == pytest.approx([whole, 0, 0, whole, whole, 0, 0, whole])  # ascent, descent, ascent, …


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_is_a_whole_number(model: nn.Module, every: object) -> None:
    with pytest.raises(vitreg.ArgumentError, match="every"):
        vitreg.attach(model, every=every)
