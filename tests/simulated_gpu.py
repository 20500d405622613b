"""A GPU that is not there: tensors of the CPU that say `cuda:0`, and refuse to be mixed with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
aten = torch.ops.aten
WAITING = {aten._local_scalar_dense, aten.equal, aten.nonzero, aten.masked_select, aten.bincount}
WAITING |= {aten._unique2, aten._linalg_eigh, aten._linalg_svd}
MIXING = {aten.copy_, aten._to_copy, aten.index, aten.index_put_, aten._index_put_impl_, aten.set_}
"""What takes tensors of both devices; the result lies where the first one does."""

JOINING = {aten.cat, aten.stack}
"""What takes not even a single number of the other device."""


class SimulatedGpu(TorchFunctionMode):
    """Inside this context `cuda` is a device, whose tensors are those of the CPU with their memory marked.

    Attributes:
        waits: the operations since it was emptied for which the CPU would have waited for the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.creates = False  # whether what is made of no other tensor lies on the GPU
        self._marked: set[StorageWeakRef] = set()  # its entries keep their address from being used again

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor lies on the GPU."""
        return _memory(tensor) in self._marked

    def mark(self, made: Any, *, held: bool = True) -> Any:
        """Say of the tensors in `made` whether they lie on the GPU, and return it."""
        for tensor in _tensors(made):
            (self._marked.add if held else self._marked.discard)(_memory(tensor))
        return made

    def call(self, func: Any, args: Any, kwargs: Any, *, creates: bool) -> Any:
        """Return what `func` returns, while what it makes of no other tensor lies on the GPU or not."""
        before, self.creates = self.creates, creates
        try:
            return func(*args, **kwargs)
        finally:
            self.creates = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "__get__" and (asked := func.__self__.__name__) in ("device", "is_cuda", "is_cpu"):
            held = self.holds(args[0])
            return {"device": GPU if held else CPU, "is_cuda": held, "is_cpu": not held}[asked]
        if func is Tensor.backward:  # with the mode on inside, for what is computed again
            with self:
                torch.autograd.backward(args[0], kwargs.pop("gradient", None), **kwargs)
            return None
        if name in ("to", "cuda", "cpu", "as_tensor") and isinstance(args[0], Tensor):
            return self._moved(name, *args, **kwargs)
        if name == "_parse_to":  # by which `Module.to` reads its arguments
            return func(*args, **kwargs)
        held = any(map(self.holds, _tensors((args, kwargs))))
        if (wanted := kwargs.get("device")) is not None:
            held, kwargs["device"] = torch.device(wanted).type == "cuda", CPU
        made = self.call(func, args, kwargs, creates=held)
        if held and name in ("tensor", "as_tensor", "new_tensor"):
            self.waits.append(name)
            self.mark(made)
        return made

    def _moved(self, name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what `Tensor.to`, `cuda` or `cpu` returns, or `torch.as_tensor`."""
        before = self.holds(tensor)
        device, dtype = {"cuda": GPU, "cpu": CPU}.get(name), None
        free = bool(kwargs.pop("non_blocking", False))
        for value in (*args, *(kwargs.pop(key, None) for key in ("other", "device", "dtype"))):
            if isinstance(value, Tensor):
                device, dtype = (GPU if self.holds(value) else CPU), value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, bool):  # the first of them
                free = value
            elif value is not None:
                device = torch.device(value)
        after = before if device is None else device.type == "cuda"
        if before and not after and free:
            raise RuntimeError("a copy from the GPU was not waited for, and may be read before it is there")
        if before != after and not free:
            self.waits.append(f"to {device}")
        copies = {"copy": before != after or kwargs.get("copy", False)}
        moved = self.call(tensor.to, (dtype or tensor.dtype,), copies, creates=after)
        return self.mark(moved, held=after) if moved is not tensor else tensor


class _Operations(TorchDispatchMode):
    """Looks at every operation: where its tensors lie, and so where its result does."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kind = self._gpu, func.overloadpacket
        given = list(_tensors((args, kwargs)))
        held = [gpu.holds(tensor) for tensor in given]
        if any(held) and kind not in MIXING:
            for tensor, is_held in zip(given, held, strict=True):
                if not is_held and (tensor.dim() or kind in JOINING):
                    raise RuntimeError(f"{func}: one on cuda:0, one {list(tensor.shape)} on the cpu")
        by_mask = kind is aten.index and any(tensor.dtype == torch.bool for tensor in given[1:])
        if any(held) and (kind in WAITING or by_mask):
            gpu.waits.append(str(func))
        made = func(*args, **(kwargs or {}))
        if held[0] if kind in MIXING else any(held) if given else gpu.creates:
            gpu.mark(made)
        return made


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, and in the lists, tuples and mappings that it holds."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _memory(tensor: Tensor) -> StorageWeakRef:
    with torch._C.DisableTorchFunction():
        return StorageWeakRef(tensor.untyped_storage())


def _of_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the name of a device that takes the simulated one's for the CPU's."""
    return lambda kind="cuda", *args, **kwargs: function(kind.replace("cuda", "cpu"), *args, **kwargs)


@contextmanager
def simulated_gpu() -> Iterator[SimulatedGpu]:
    """Yield a simulated GPU, which autocast, `GradScaler` and random numbers know, too.

    What it computes is what the CPU does. It has no kernels, streams or graphs of its own: what these do
    wrong, only a GPU can tell.
    """
    gpu, state = SimulatedGpu(), torch.get_rng_state()
    known = {name: _of_cpu(getattr(torch, name)) for name in ("autocast", "is_autocast_enabled")}
    known |= {"get_autocast_dtype": _of_cpu(torch.get_autocast_dtype)}
    known |= {"amp.GradScaler": _of_cpu(torch.amp.GradScaler)}
    known |= {"cuda.is_current_stream_capturing": lambda: False}
    known |= {"cuda.get_rng_state": lambda device=None: state, "cuda.set_rng_state": lambda *args: None}
    with ExitStack() as stack:
        for name, function in known.items():
            stack.enter_context(patch(f"torch.{name}", function))
        stack.enter_context(_Operations(gpu))
        yield stack.enter_context(gpu)
