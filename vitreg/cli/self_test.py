"""A small model on each device: does GTA do there what it promises?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import vitreg
from vitreg.functional.softmax_input import SoftmaxInput

TOLERANCE = 1e-3
"""Of a logit: what different kernels of a GPU differ by, in float32 or TF32."""

_ZERO = 1e-6
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_REPORT = "report it with the output of `vitreg doctor --json`"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what is checked.
        device: where.
        ok: whether it holds.
        expected: what was expected.
        found: what was found.
        remedy: what to do if it does not hold.
    """

    name: str
    device: str
    ok: bool
    expected: str
    found: str
    remedy: str = ""


def self_test(device: torch.device) -> Iterator[Check]:
    """Yield the checks of one device, each as it is done."""

    def check(name: str, expected: str, holds: Callable[[], tuple[bool, str]]) -> Check:
        try:
            ok, found = holds()
        except Exception as error:  # whatever it is, it is what the check found
            ok, found = False, f"{type(error).__name__}: {error}"
        remedy = "" if ok else _remedy(device)
        return Check(name, str(device), ok, expected, found, remedy)

    trial: list[_Trial] = []

    def attached() -> tuple[bool, str]:
        trial.append(_Trial(device))
        return True, "attached"

    yield check("GTA is attached to a small Vision Transformer", "attached", attached)
    if not trial:
        return
    one = trial[0]
    yield check("GTA is zero where the model is its source", "0", one.is_zero_at_first)
    yield check("GTA is positive once the model has moved", "more than 0", one.is_positive_later)
    yield check("its gradient reaches the model, not the source", "the model alone", one.gradient)
    yield check("the logits read are those in the softmax", f"less than {TOLERANCE:g} apart", one.logits)
    yield check("remove() takes every hook away", "0 hooks", one.removal)


def _remedy(device: torch.device) -> str:
    if device.type == "cpu":
        return f"Install the versions above that failed; if none did, {_REPORT}."
    return f"See whether PyTorch works on {device} at all; if the checks on cpu are ok, {_REPORT}."


class _Trial:
    """A small model with GTA, and what is asked of it."""

    def __init__(self, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = VisionTransformer(
                img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5
            )
            self.images = torch.randn(2, 3, 32, 32).to(device)
            self.steps = [0.1 * torch.randn(p.shape) for p in model.parameters()]
        self.source = copy.deepcopy(model).to(device)
        self.model = model.to(device).train()
        self.guide = vitreg.attach(self.model, self.source, target="attn_logits", lam=1.0)

    def _penalty(self) -> Tensor:
        self.model(self.images)
        return self.guide.penalty()

    def is_zero_at_first(self) -> tuple[bool, str]:
        value = float(self._penalty().detach())
        return abs(value) < _ZERO, f"{value:g}"

    def is_positive_later(self) -> tuple[bool, str]:
        with torch.no_grad():
            for parameter, step in zip(self.model.parameters(), self.steps, strict=True):
                parameter += step.to(parameter.device)
        value = float(self._penalty().detach())
        return math.isfinite(value) and value > _ZERO, f"{value:g}"

    def gradient(self) -> tuple[bool, str]:
        self._penalty().backward()
        assert isinstance(self.guide.source, vitreg.FrozenSource)
        sources: list[nn.Module] = [self.source, self.guide.source.tower.module]
        reached = [
            name
            for name, modules in (("the model", [self.model]), ("the source", sources))
            if any(_has_gradient(p) for module in modules for p in module.parameters())
        ]
        return reached == ["the model"], " and ".join(reached) or "neither"

    def logits(self) -> tuple[bool, str]:
        self.model.eval()
        with torch.no_grad(), SoftmaxInput() as softmax, vitreg.trace(self.model, "attn_logits") as trace:
            self.model(self.images)
        read = trace["attn_logits"]
        if len(softmax.logits) != len(read):
            return False, f"{len(softmax.logits)} softmaxes for {len(read)} blocks"
        pairs = zip(read, softmax.logits, strict=True)
        apart = max(float((ours - theirs[:, :, 0, 1:]).abs().max()) for ours, theirs in pairs)
        return apart < TOLERANCE, f"{apart:.1e} apart"

    def removal(self) -> tuple[bool, str]:
        self.guide.remove()
        left = sum(len(getattr(m, hooks) or ()) for m in self.model.modules() for hooks in _HOOKS)
        return left == 0, f"{left} hooks"


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool((parameter.grad != 0).any())
