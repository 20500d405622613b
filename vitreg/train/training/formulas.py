"""What a method computes, in a few numbers, so that a run knows whether it is still the same method.

The loss, the penalty and their gradient are computed on a small fixed model and fixed pictures. A changed
formula changes the numbers; another way to write it, another version of torch or another processor changes
their last digits at most, which do not count. How the linear probe of a `head` is fitted is not looked at.

`formulas.json` holds what the methods computed when runs began to be told apart by it: these numbers add
nothing to a run's identity, so that the runs from before keep theirs. Nothing is ever added to it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitreg
from vitreg.train.training.composition import settings_of
from vitreg.train.training.guided_model import Applied, Whole
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import METHODS, Method, target_of
from vitreg.views import random_numbers

FILE = Path(__file__).with_suffix(".json")

TOLERANCE = 1e-3
"""How far numbers of one formula lie apart at most, relative to their size."""

LAM = 2.0
HYPER = Hyperparameters(steps=2, batch_size=4, lr=0.1, weight_decay=0.0, smoothing=0.1)
NUM_CLASSES = 3
PARTS = ("attn", "mlp", "norm", "embed", "head")
"""What of a parameter's name tells its part of the model; the gradient is summed up for each."""


def formula(method: str) -> str:
    """Return what tells the method's formula from earlier ones and others.

    Nothing for a formula of `formulas.json`, else a hash of the numbers' first three digits. For a row that a
    plugin brings it is the hash of the plugin's file, whatever it computes.
    """
    row = METHODS[method]
    return f"plugin {row.plugin}" if row.plugin else _formula(method, row)


@cache
def _formula(method: str, row: Method) -> str:
    found, first = compute(method), _first_formulas().get(method)
    if first is not None and are_same(found, first):
        return ""
    rough = {name: [f"{value:.2e}" for value in values] for name, values in found["numbers"].items()}
    return hashlib.sha256(repr((rough, found["settings"])).encode()).hexdigest()[:10]


def compute(method: str) -> dict[str, Any]:
    """Return the method's settings that are not the usual ones, and the numbers that it computes."""
    row = METHODS[method]
    # What a penalty or a projection computes is in the numbers.
    not_looked_at = ("target", "grid", "projection", "plugin")
    settings = {name: value for name, value in settings_of(row).items() if name not in not_looked_at}
    with random_numbers(0):  # TransMix draws a box
        model, pictures = _model(), _wave((4, 3, 16, 16), 0.7)
        lam = LAM if row.grid else None
        whole = None
        if isinstance(target_of(method, lam), vitreg.CoTuning):
            whole = Whole(_model(), _wave((NUM_CLASSES, NUM_CLASSES), 0.4).softmax(-1))
        with Applied(model, method, lam, HYPER, num_classes=NUM_CLASSES, whole=whole) as applied:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            applied.project(optimizer)
            with torch.no_grad():
                for number, weight in enumerate(model.parameters()):
                    weight.add_(0.05 * _wave(weight.shape, 1.3 + number))
            mixed, labels = applied.mix(pictures, torch.tensor([0, 1, 2, 1]))
            seen = [mixed, mixed.flip(-1)][: applied.passes]  # as nothing is dropped here
            loss = torch.stack([applied.loss(model(view), labels) for view in seen]).mean()
            masks = torch.ones(4, 16, 16, dtype=torch.bool).tril()
            penalty = torch.as_tensor(applied.penalty(labels=labels, masks=masks))
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(loss + penalty, list(trained.values()), allow_unused=True)
            numbers = {"value": [loss.item(), penalty.item()], "gradient": _sums(trained, gradients)}
            if applied.projector is not None:
                before = [p.detach().clone() for p in trained.values()]
                for _ in range(2):  # some learn from the second step on
                    for p, gradient in zip(trained.values(), gradients, strict=True):
                        p.grad = gradient
                    optimizer.step()
                moves = [p.detach() - start for p, start in zip(trained.values(), before, strict=True)]
                numbers["moves"] = _sums(trained, moves)
    rounded = {name: [float(f"{value:.6g}") for value in values] for name, values in numbers.items()}
    return {"settings": settings, "numbers": rounded}


def _sums(names: Iterable[str], values: Iterable[Tensor | None]) -> list[float]:
    """Return the sum of the absolute values for each part of the model."""
    sums = dict.fromkeys(PARTS, 0.0)
    for name, value in zip(names, values, strict=True):
        part = next((part for part in PARTS if part in name), "head")
        sums[part] += 0.0 if value is None else float(value.double().abs().sum())
    return list(sums.values())


def are_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two results of `compute` are those of one formula."""
    numbers = (itertools.chain(*found["numbers"].values()) for found in (one, other))
    pairs = zip(*numbers, strict=True)
    are_near = all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-9) for a, b in pairs)
    return are_near and one["settings"] == other["settings"]


def _wave(shape: Sequence[int], pace: float) -> Tensor:
    """Return numbers between -1 and 1 that are the same on every machine and look like none."""
    return torch.sin(pace * torch.arange(1, math.prod(shape) + 1).square() % 100).view(*shape)


def _model() -> nn.Module:
    model = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=NUM_CLASSES
    )
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(0.3 * _wave(weight.shape, 0.9 + number) + (1.0 if weight.ndim == 1 else 0.0))
    return model.train()


@cache
def _first_formulas() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found
