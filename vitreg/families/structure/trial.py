"""Runs of a copy of a tower on pictures, up to its first block or through all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.families.structure.chains import Link, find_attention
from vitreg.hooks import Hooks
from vitreg.types import Tap


class Refused(Exception):  # noqa: N818
    """A tower is not what its shape suggests; the message ends the sentence that says why."""


class CannotTry(Refused):
    """A tower cannot be run, so that nothing is known of it."""


class NoTower(CannotTry):
    """A module runs on pictures and is no tower, whatever their size."""


class _Reached(Exception):  # noqa: N818
    """Ends a run at the first block."""


def trial_copy(tower: nn.Module, names: Sequence[str]) -> nn.Module:
    """Return a copy of a tower whose blocks, of these names, share their weights with the original's.

    All other parameters are copied and shaken, because zeros would hide what they do.
    """
    shared = {id(p): p for name in names for p in tower.get_submodule(name).parameters()}
    twin = without_hooks(copy.deepcopy(tower, dict(shared)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            if id(parameter) not in shared and parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter), alpha=0.05)
    return twin


def without_hooks(twin: nn.Module) -> nn.Module:
    """Take the hooks off a copy, which would hand the trial's tokens to somebody; those of torch stay."""
    for module in twin.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if not type(hook).__module__.startswith("torch."):
                    del hooks[key]
    return twin


def first_tokens(
    twin: nn.Module, entry: str, images: Tensor, *, training: bool, others: Sequence[str] = ()
) -> Tensor:
    """Return what the first block receives; each run draws the same random numbers.

    Raises:
        NoTower: it is no [b, n, d], the block is not reached, or one of the others runs before it.
    """
    seen: list[Tensor] = []

    def receive(delivered: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
        value = first_tensor(delivered)
        if value is not None:
            seen.append(value.detach().clone())
        raise _Reached

    twin.train(training)
    hooks = Hooks([(Tap(twin.get_submodule(entry), "input"), receive), *_refusals(twin, entry, others)])
    try:
        _run(twin, images)
    except _Reached:
        pass
    finally:
        hooks.remove()
    if not seen:
        raise NoTower("its first block does not run")
    if seen[0].dim() != 3:
        raise NoTower(f"its first block receives {list(seen[0].shape)}, which are no tokens [b, n, d]")
    return seen[0]


@dataclass
class Flow:
    """What happened in a run of a whole tower.

    Attributes:
        first: the name of the first submodule that ran, and whether it received pictures.
        inputs: what each block received.
        outputs: the tokens that each block returned, where it is called, and whether it returned them alone.
        attention: for each block the names of its attention modules that ran.
        after: names and inputs of the modules that ran after the last block began, outside of it.
        returned: what the tower returned.
    """

    first: tuple[str, bool] = ("", False)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[tuple[Tensor | None, bool]] = field(default_factory=list)
    attention: list[list[str]] = field(default_factory=list)
    after: list[tuple[str, Tensor]] = field(default_factory=list)
    returned: Any = None


def run_through(twin: nn.Module, links: Sequence[Link], others: Sequence[str], images: Tensor) -> Flow:
    """Run a whole tower once and return what happened; `others` name blocks that should not run.

    Raises:
        Refused: it does not run, or a block does not run once after the one before.
        NoTower: one of the others runs.
    """
    flow = Flow()
    order: list[int] = []
    inside = {link.name for link in links}
    candidates = [find_attention(twin.get_submodule(link.name), link.name) for link in links]
    flow.attention = [[] for _ in links]
    taps: list[tuple[Tap, Any]] = []

    def starts(name: str, delivered: Any) -> None:
        value = first_tensor(delivered)
        if not flow.first[0]:
            flow.first = (name, value is not None and value.dim() == 4 and len(value) == len(images))
        if order and value is not None and not any(name == b or name.startswith(f"{b}.") for b in inside):
            flow.after.append((name, value.detach().clone()))

    def enters(index: int, delivered: Any) -> None:
        value = first_tensor(delivered)
        order.append(index)
        flow.after.clear()
        if value is not None:
            flow.inputs.append(value.detach().clone())

    def leaves(delivered: Any) -> None:
        value = first_tensor(delivered)
        tokens = None if value is None else value.detach().clone()  # the next block may write into it
        flow.outputs.append((tokens, isinstance(delivered, Tensor)))

    taps += _refusals(twin, links[0].name, others)
    for name, module in twin.named_modules():
        if name:
            taps.append((Tap(module, "input"), lambda d, name=name: starts(name, d)))
    for index, link in enumerate(links):
        taps.append((Tap(twin.get_submodule(link.entry), "input"), lambda d, i=index: enters(i, d)))
        if not link.parts:
            taps.append((Tap(twin.get_submodule(link.name)), leaves))
        for name in candidates[index]:
            runs = flow.attention[index]
            taps.append((Tap(twin.get_submodule(name), "input"), lambda _, n=name, r=runs: r.append(n)))
    twin.eval()
    hooks = Hooks(taps)
    try:
        flow.returned = _run(twin, images)
    finally:
        hooks.remove()
    if order != list(range(len(links))):
        raise Refused(f"its blocks run in the order {order[:12]}, expected each once, one after the other")
    return flow


def _refusals(twin: nn.Module, entry: str, others: Sequence[str]) -> list[tuple[Tap, Any]]:
    """Return what raises `NoTower` when a block of another chain runs."""

    def refuse(name: str, _: Any) -> None:
        raise NoTower(f"blocks with attention run in several places ({entry!r}, {name!r})")

    return [(Tap(twin.get_submodule(name), "input"), partial(refuse, name)) for name in others]


def first_tensor(delivered: Any) -> Tensor | None:
    """Return the first tensor of what a tap delivered: `(args, kwargs)`, a tensor, a tuple or a mapping."""
    if isinstance(delivered, Tensor):
        return delivered
    if isinstance(delivered, dict):
        delivered = tuple(delivered.values())
    if isinstance(delivered, tuple | list):
        return next((t for one in delivered if (t := first_tensor(one)) is not None), None)
    return None


def _run(twin: nn.Module, images: Tensor) -> Any:
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        try:
            return twin(images.clone())  # which it may write to
        except (_Reached, Refused):
            raise
        except Exception as error:  # whatever a user's own module raises
            lines = str(error).splitlines() or [""]
            raise CannotTry(
                f"it does not run on pictures alone ({type(error).__name__}: {lines[0]})"
            ) from error
