"""A model's own linear head: found while the model runs, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.families import find_tower
from vitreg.functional.shards import sharded_by
from vitreg.hooks import Hooks
from vitreg.parameters.heads import head_parameters
from vitreg.types import NewHead, Tap

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)
"""What may have parameters between the features and the linear layer: it starts as the identity."""


class LinearHead:
    """The linear layer, or the layers whose mean, that a model's logits are; what enters them is read.

    Use it as a context manager: inside, `read` watches a forward pass of the model and returns what entered
    the head.

    A distilled model has two heads, and CrossViT one for each of its branches. Their mean is one linear
    function of their inputs side by side, so they are fitted and written together.

    Raises:
        UnsupportedModelError: the model has no head, or one that is not linear or is sharded.
    """

    def __init__(self, model: nn.Module, new_head: NewHead | None = None) -> None:
        self.model = model
        own = {id(p) for p in head_parameters(model, find_tower(model), new_head)}
        self._owners = {
            name: module
            for name, module in model.named_modules()
            if any(id(p) in own for p in module.parameters(recurse=False))
        }
        self._linears = {name: m for name, m in self._owners.items() if isinstance(m, nn.Linear)}
        if not self._linears:
            found = ", ".join(sorted({type(m).__name__ for m in self._owners.values()})) or "none"
            raise UnsupportedModelError(
                f"Expected a linear head (torch.nn.Linear) in {type(model).__name__}, found {found}. "
                "Create the model with num_classes, or put a torch.nn.Linear behind it, as in "
                "torch.nn.Sequential(model, torch.nn.Linear(width, num_classes))."
            )
        for name, linear in self._linears.items():
            if sharded_by(linear.parameters()) is not None:
                raise UnsupportedModelError(
                    f"Expected a head whose weights are whole, found {name!r} sharded (FSDP2). "
                    "Fit it before `fully_shard`."
                )
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._names: tuple[str, ...] = ()  # of the layers whose mean the logits are, once a pass has shown it

    @property
    def layers(self) -> tuple[nn.Linear, ...]:
        """The layers whose mean the logits are."""
        return tuple(self._linears[name] for name in self._names)

    @property
    def num_classes(self) -> int:
        """How many logits there are."""
        return self.layers[0].out_features

    @property
    def has_bias(self) -> bool:
        """Whether a bias is added."""
        return any(layer.bias is not None for layer in self.layers)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The weights and biases."""
        return tuple(p for layer in self.layers for p in layer.parameters(recurse=False))

    def __enter__(self) -> LinearHead:
        self._hooks = Hooks(
            pair
            for name, linear in self._linears.items()
            for pair in (
                (Tap(linear, "input"), self._receiver(name, self._inputs, _first_argument)),
                (Tap(linear), self._receiver(name, self._outputs, lambda seen: seen)),
            )
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._hooks.remove()
        self._inputs.clear()
        self._outputs.clear()

    def read(self, run: Callable[[], Any]) -> tuple[Tensor, Any]:
        """Return what enters the head while `run()` runs the model once, [b, d], and what `run()` returns.

        Raises:
            UnsupportedModelError: the output is not that of a linear head.
        """
        self._inputs.clear()
        self._outputs.clear()
        output = run()
        if not self._names:
            self._names = self._find(output)
        missing = [name for name in self._names if name not in self._inputs]
        if missing:
            raise UnsupportedModelError(
                f"Expected each pass to run the head {missing[0]!r}, found that one did not."
            )
        return torch.cat([self._inputs[name] for name in self._names], dim=1), output

    def write(self, weight: Tensor, bias: Tensor) -> None:
        """Write weight [c, d] and bias [c], rounded to the type of the model's own, into the model.

        Raises:
            ArgumentError: a value is too large for the type; nothing is written then.
        """
        count, num_biases = len(self.layers), sum(layer.bias is not None for layer in self.layers)
        parts = weight.split([layer.in_features for layer in self.layers], dim=1)
        pairs: list[tuple[Tensor, Tensor]] = []
        for layer, part in zip(self.layers, parts, strict=True):
            pairs.append((layer.weight, (count * part).to(layer.weight)))
            if layer.bias is not None:
                pairs.append((layer.bias, (count / num_biases * bias).to(layer.bias)))
        if not all(bool(new.isfinite().all()) for _, new in pairs):
            raise ArgumentError(
                f"The fitted head does not fit into {self.layers[0].weight.dtype}: found a value that is too "
                "large. Keep the head in float32."
            )
        with torch.no_grad():
            for own, new in pairs:
                own.copy_(new)
        torch.clear_autocast_cache()  # it may hold the old weights in lower precision

    def check_written(self, features: Tensor, output: Any) -> None:
        """Raise `UnsupportedModelError` unless the model's `output` is the head's on `features` [b, d]."""
        logits = _mean_of_layers(self.layers, features)
        if not any(_is_close(tensor, logits) for tensor in _tensors(output)):
            raise UnsupportedModelError(self._not_the_output(self._names))

    def _receiver(
        self, name: str, store: dict[str, Tensor], read: Callable[[Any], Tensor]
    ) -> Callable[[Any], None]:
        def receive(delivered: Any) -> None:
            if name in store:
                raise UnsupportedModelError(
                    f"Expected the head to run once in a pass, found {name!r} run twice. Fit a head that is "
                    "called once, on pooled features [b, d]."
                )
            store[name] = read(delivered).detach()

        return receive

    def _find(self, output: Any) -> tuple[str, ...]:
        """Return the names of the layers whose mean is among the output's tensors."""
        ran = [name for name, value in self._outputs.items() if value.dim() == 2]
        tensors = list(_tensors(output))

        def is_output(names: Sequence[str]) -> bool:
            values = [self._outputs[name] for name in names]
            same = bool(values) and all(value.shape == values[0].shape for value in values)
            return same and any(_is_close(t, torch.stack(values).mean(0)) for t in tensors)

        found = next((names for names in (ran, *([name] for name in ran)) if is_output(names)), None)
        if found is None:
            raise UnsupportedModelError(self._not_the_output(ran))
        others = [
            (name, module)
            for name, module in self._owners.items()
            if name not in found
            and not isinstance(module, _NORMS)
            and (name in self._outputs or not isinstance(module, nn.Linear))
        ]
        if others:
            name, module = others[0]
            raise UnsupportedModelError(
                f"Expected a linear head, found {type(module).__name__} {name!r} with weights of its own "
                f"beside {found[0]!r}: the features would go through weights that nothing has trained. "
                "Replace the head by one torch.nn.Linear on the pooled features, or name it in new_head if "
                "the rest is pre-trained."
            )
        return tuple(found)

    def _not_the_output(self, names: Sequence[str]) -> str:
        return (
            f"Expected {type(self.model).__name__} to return the output of its linear head, or the mean of "
            f"them ({', '.join(map(repr, names or self._linears))}), found that it returns something else. "
            "Return the logits as they leave the head, without what is added to them (VOLO's aux_head)."
        )


def _first_argument(call: tuple[tuple[Any, ...], Mapping[str, Any]]) -> Tensor:
    args, kwargs = call
    first: Tensor = (*args, *kwargs.values())[0]
    return first


def _mean_of_layers(layers: Sequence[nn.Linear], features: Tensor) -> Tensor:
    """Return the logits [b, c] that the layers make of their inputs side by side."""
    parts = features.split([layer.in_features for layer in layers], dim=1)
    with torch.no_grad():
        pairs = zip(layers, parts, strict=True)  # not called: the hooks would see it
        return torch.stack([F.linear(part, layer.weight, layer.bias) for layer, part in pairs]).mean(0)


def _is_close(found: Tensor, logits: Tensor) -> bool:
    """Return whether two tensors are the same up to the rounding of the coarser type."""
    if found.shape != logits.shape or not found.is_floating_point():
        return False
    eps = max(torch.finfo(found.dtype).eps, torch.finfo(logits.dtype).eps)
    error = (found.double() - logits.double()).abs().max()
    return bool(error <= 64 * eps * logits.double().abs().max())


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in what a model returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for one in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(one)
