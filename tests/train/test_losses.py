"""What the losses of a training say: too short, too far, or neither."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitreg.train.losses import describe_losses, smoothing_floor
from vitreg.train.training.hyperparameters import Hyperparameters

HYPER = Hyperparameters(steps=20, batch_size=1, lr=1.0, weight_decay=0.0)


def log(losses: list[float]) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses)]


@pytest.mark.parametrize(("smoothing", "num_classes"), [(0.0, 3), (0.1, 2), (0.3, 7)])
def test_the_floor_is_the_smallest_smoothed_loss(smoothing: float, num_classes: int) -> None:
    logits = torch.zeros(1, num_classes, dtype=torch.float64, requires_grad=True)
    label = torch.zeros(1, dtype=torch.long)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits, label, label_smoothing=smoothing)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() == pytest.approx(smoothing_floor(smoothing, num_classes), abs=1e-4)


@pytest.mark.parametrize(
    ("losses", "held_out", "before", "said"),
    [
        (
            [2.0] * 4 + [1.0] * 4 + [0.8] * 4 + [0.5] * 4,
            0.5,
            1.0,
            "under-trained, the loss was still falling",
        ),
        ([2.0] * 16, 1.0, 1.0, "under-trained, the loss did not fall"),
        ([2.0] * 4 + [0.5] * 4 + [0.1] * 8, 1.5, 1.0, "over-fitted"),
        ([2.0] * 4 + [0.5] * 4 + [0.1] * 8, 0.5, 1.0, "neither"),
        ([2.0] * 4 + [0.5] * 4 + [0.1] * 8, None, None, "neither"),
        ([2.0], 1.0, 1.0, "too few steps"),
    ],
)
def test_verdicts(losses: list[float], held_out: float | None, before: float | None, said: str) -> None:
    told = describe_losses(log(losses), HYPER, 3, held_out=held_out, held_out_before=before)
    assert told.startswith(said)
    assert told.count(". ") == 0  # one sentence
    if held_out is not None and said != "too few steps":
        assert f"held-out loss {before:.2f} → {held_out:.2f}" in told
