"""The only file that registers torch hooks: all of them or none, and each can be removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.utils.hooks import RemovableHandle

from vitreg.errors import StateError
from vitreg.types import Tap

F = TypeVar("F", bound=Callable[..., Any])


def eagerly(function: F) -> F:
    """Return `function` for `torch.compile` to leave alone: it ends the graph before the call.

    What looks at modules and hooks them has nothing to compile, and takes minutes to be traced.
    `torch.compiler.disable` does the same, but loads the compiler, which takes as long as torch itself, here
    and not at the first call.
    """
    return cast(F, _disable_dynamo(function))


def _ignore(*_: Any) -> None:
    """Do nothing: what a hook becomes in a copied or unpickled model."""


def _inert() -> Callable[..., None]:
    return _ignore


class _ScriptError(StateError, AttributeError):
    """An `AttributeError`, so that whoever asks whether there is such an attribute is answered."""


def _without_hooks(tool: str) -> str:
    return (
        f"{tool} needs a model without hooks, found those of vitreg: call attachment.remove() first "
        "(torch.compile, torch.export and torch.jit.trace take the model as it is)."
    )


class _Hook:
    """Hands what a tap delivers to a function.

    A copy of a hooked model (EMA by `copy.deepcopy`, `torch.save` of the module) must not write into the
    original's readings, so a copied or pickled hook is one that does nothing.
    """

    def __init__(self, tap: Tap, receive: Callable[[Any], None]) -> None:
        self.module = tap.module
        self.receive = receive

    @property
    def __name__(self) -> str:
        """What `torch.jit.script` asks for first, to compile the hook."""
        raise _ScriptError(_without_hooks("torch.jit.script"))

    def check(self, module: nn.Module, delivered: Any) -> None:
        """Refuse a replica, whose threads would mix up what is read, and symbols in place of tensors."""
        if torch.compiler.is_compiling():
            return
        if module is not self.module:
            raise StateError(
                "A hook ran in a replica of the model, as nn.DataParallel makes them. "
                "Use torch.nn.parallel.DistributedDataParallel."
            )
        if isinstance(delivered, torch.fx.Proxy):
            raise StateError(_without_hooks("torch.fx"))

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _ignore

    def __reduce__(self) -> Any:
        return _inert, ()


class _OutputHook(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.check(module, output)
        self.receive(output)


class _InputHook(_Hook):
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.check(module, next(iter((*args, *kwargs.values())), None))
        self.receive((args, kwargs))


def foreign_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """Return the hooks of others on the forward pass of `module`, which may change what it does."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return [hook for hook in hooks if hook is not _ignore and not isinstance(hook, _Hook)]


class Hooks:
    """Hooks on several taps, registered together or not at all."""

    def __init__(self, receivers: Iterable[tuple[Tap, Callable[[Any], None]]]) -> None:
        self._handles: list[RemovableHandle] = []
        self._places: list[tuple[dict[int, Any], int]] = []
        try:
            for tap, receive in receivers:
                if tap.side == "input":
                    handle = tap.module.register_forward_pre_hook(_InputHook(tap, receive), with_kwargs=True)
                    self._places.append((tap.module._forward_pre_hooks, handle.id))
                else:
                    handle = tap.module.register_forward_hook(_OutputHook(tap, receive))
                    self._places.append((tap.module._forward_hooks, handle.id))
                self._handles.append(handle)
        except BaseException:
            self.remove()
            raise

    def come_last(self) -> None:
        """Let the hooks run behind those of others that came later, which may change what they deliver.

        Torch calls a module's hooks in this order, from a list that it makes when the module is called.
        """
        for hooks, own in self._places:
            for key in reversed(hooks):
                if key == own:
                    break
                if not isinstance(hooks[key], _Hook):
                    hooks[own] = hooks.pop(own)
                    break

    def remove(self) -> None:
        """Remove every hook; calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()
        self._places.clear()


class StepHooks:
    """Hooks around each step of an optimiser; a copy of the optimiser has none.

    Args:
        optimizer: the optimiser itself, not what wraps it.
        before: called when the gradients are there, before the weights move: as the step begins, or, with a
            closure, when that has returned for the first time. It receives what `GradScaler` has multiplied
            the gradients by, or None.
        after: called after the step; not where `GradScaler` lets a fused optimiser skip it, as a gradient was
            not finite. Other optimisers are not called at all then.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        before: Callable[[Tensor | None], None],
        after: Callable[[], None],
    ) -> None:
        self._before, self._after = before, after
        self._has_begun = False
        self._handles = [
            optimizer.register_step_pre_hook(self._enter),
            optimizer.register_step_post_hook(self._leave),
        ]

    def remove(self) -> None:
        """Remove the hooks; calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def _enter(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        self._has_begun = False  # an earlier step may have ended in an exception
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._begin(optimizer)
            return None

        def noting(*given: Any, **more: Any) -> Any:
            returned = closure(*given, **more)
            if not self._has_begun:
                self._begin(optimizer)
            return returned

        if "closure" in kwargs:
            return args, {**kwargs, "closure": noting}
        return (args[0], noting, *args[2:]), kwargs

    @eagerly
    @torch.no_grad()
    def _begin(self, optimizer: torch.optim.Optimizer) -> None:
        self._before(getattr(optimizer, "grad_scale", None))
        self._has_begun = True

    @eagerly
    @torch.no_grad()
    def _leave(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # A step that calls that of its base class, which has the hooks as well, comes here twice.
        has_begun, self._has_begun = self._has_begun, False
        found_inf = getattr(optimizer, "found_inf", None)
        if has_begun and not (isinstance(found_inf, Tensor) and found_inf.item()):
            self._after()
