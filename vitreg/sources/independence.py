"""Whether a source computes with weights of its own, and not with those of the model that is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitreg.errors import UnsupportedModelError
from vitreg.hooks import foreign_hooks
from vitreg.reader.random_state import replay
from vitreg.types import Tower


def check_independent(
    source: Tower,
    original: nn.Module,
    beside: Sequence[Tensor | nn.Module],
    size: tuple[int, int] | None,
) -> None:
    """Raise `UnsupportedModelError` if the copy `source` still computes with the weights of its `original`.

    A function that was put on a module, as its forward, a hook or a patch, may refer to the original where
    nobody sees it, as by a global name. Only a copy with such functions is run, on one picture of `size`; the
    first pass of every source is watched again, see `own_weights_only`. `beside` belongs to the copy.
    """
    own = list(weights_of([source.module, *beside]))
    ours = {_storage(tensor) for tensor in own} - {None}
    theirs = named_storages(original)
    shared = [name for storage, name in theirs.items() if storage in ours]
    if shared:
        raise UnsupportedModelError(
            f"Expected a copy with weights of its own, found {shared[0]!r} shared with the model, by a "
            f"__deepcopy__ of its module. Let it copy the weights, or pass a source that was created apart."
        )
    if size is None or not any(_has_functions(part) for part in source.module.modules()):
        return
    weight = next(source.module.parameters())
    channels = next((m.in_channels for m in source.stem.modules() if isinstance(m, nn.Conv2d)), 3)
    picture = torch.zeros(1, channels, *size, device=weight.device, dtype=weight.dtype)
    try:
        watch = own_weights_only(source.module, given=own, others=theirs)
        with torch.no_grad(), replay(None, weight.device), watch:
            source.module(picture)
    except UnsupportedModelError:
        raise
    except Exception:  # it needs something else than one picture: its first pass is watched
        return


def weights_of(parts: Iterable[Tensor | nn.Module]) -> Iterator[Tensor]:
    """Yield the tensors among `parts`, and the parameters and buffers of the modules."""
    for part in parts:
        yield from (*part.parameters(), *part.buffers()) if isinstance(part, nn.Module) else (part,)


@contextmanager
def own_weights_only(
    module: nn.Module, *, given: Iterable[Tensor] = (), others: dict[int | None, str] | None = None
) -> Iterator[None]:
    """Raise `UnsupportedModelError` inside as soon as an operation takes a parameter that is not `module`'s.

    Parameters are what is trained: a tensor that requires a gradient, or an `nn.Parameter`. `given` is what
    the module is called with, `others` are storages that are foreign too, such as buffers. It looks at every
    operation, so it is meant for one pass.
    """
    if torch.compiler.is_compiling():
        yield
        return
    own = {_storage(t) for t in (*weights_of([module]), *given)}
    watch = _Watch(module, own, others or {})
    try:
        with watch:
            yield
    finally:  # whatever became of the error on its way
        if watch.error is not None:
            raise watch.error


def named_storages(module: nn.Module | None) -> dict[int | None, str]:
    """Return the names of a module's parameters and buffers by what tells their memory from others'."""
    if module is None:
        return {}
    return {_storage(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}


class _Watch(TorchDispatchMode):
    def __init__(self, module: nn.Module, own: set[int | None], others: dict[int | None, str]) -> None:
        super().__init__()
        self.module = module
        self.error: UnsupportedModelError | None = None
        self.own = own
        self.others = others

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for argument in (*args, *(kwargs or {}).values()):
            for tensor in argument if isinstance(argument, list | tuple) else (argument,):
                if isinstance(tensor, Tensor) and self._is_foreign(tensor):
                    self.error = UnsupportedModelError(self._message(tensor))
                    raise self.error
        return func(*args, **(kwargs or {}))

    def _is_foreign(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        if storage is None or storage in self.own:
            return False
        is_trained = isinstance(tensor, nn.Parameter) or (tensor.requires_grad and tensor.is_leaf)
        if not is_trained and storage not in self.others:
            return False
        self.own |= set(map(_storage, self.module.parameters()))  # FSDP2 puts whole ones in their place now
        return storage not in self.own

    def _message(self, tensor: Tensor) -> str:
        name = self.others.get(_storage(tensor))
        found = repr(name) if name else f"a parameter {list(tensor.shape)}"
        return (
            f"Expected a source with weights of its own, found {type(self.module).__name__} take {found} "
            "of another model. A forward, a hook or a patch that is a function refers to the model "
            "that it was made for, and still does so in a copy; modules in a plain list are in no "
            "`parameters()`. Write it as a method of a subclass, put it on after attaching, register modules "
            "(nn.ModuleList), or pass as source a model without it."
        )


def _storage(tensor: Tensor) -> int | None:
    """Return what tells a tensor's memory from others', or None where it has none of its own."""
    tensor = getattr(tensor, "_local_tensor", tensor)  # a DTensor's own part
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return None


def _has_functions(module: nn.Module) -> bool:
    """Return whether somebody has put functions on a module itself, rather than on its class."""
    attributes = vars(module)
    functions = [
        value
        for name, value in attributes.items()
        if name == "forward"
        or isinstance(value, MethodType)
        or (isinstance(value, FunctionType) and (value.__closure__ or value.__defaults__))
    ]
    return bool(foreign_hooks(module) or functions)
