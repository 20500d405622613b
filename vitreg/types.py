"""The few data types that the floors of vitreg hand to each other.

Shape letters: b images, h heads, n tokens, p patches, d width, l blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

Layers: TypeAlias = "int | Sequence[int] | slice | Literal['all']"
"""Which blocks: an index (negative ones count from the end), several, a slice, or "all"."""

Query: TypeAlias = Literal["cls", "mean"]
"""Whose attention is read: the class token's, or the mean of the patches' queries."""

Reduction: TypeAlias = Literal["mean", "sum_layers", "sum"]
"""How a squared distance is reduced, see `vitreg.functional.squared_distance`."""

Lam: TypeAlias = "float | Callable[[int], float]"
"""A weight: a number, or a function of the step (the number of penalties taken so far)."""

Row: TypeAlias = Callable[[Tensor, int], Tensor]
"""Reduces the token dimension `dim` of a tensor to the one query of interest."""


@dataclass(frozen=True)
class Tap:
    """What enters or leaves one module while the model runs.

    An output tap delivers what the module returned, an input tap the pair `(args, kwargs)`.
    """

    module: nn.Module
    side: Literal["input", "output"] = "output"


@dataclass(frozen=True)
class Probe:
    """How one value is read: from what the taps delivered, under the same keys, to a tensor."""

    taps: Mapping[str, Tap]
    read: Callable[[Mapping[str, Any]], Tensor]


def _identity(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class AttentionReading:
    """How one attention module computes its attention: what a family says of it.

    Attributes:
        num_heads: the number of query heads.
        taps: what has to be observed while the module runs.
        logits: from what the taps delivered and a `Row`, the query's pre-softmax logits over all
            tokens, [b, h, n], in float32.
        output: from what the module returns, its output after the projection, [b, n, d].
    """

    num_heads: int
    taps: Mapping[str, Tap]
    logits: Callable[[Mapping[str, Any], Row], Tensor]
    output: Callable[[Any], Tensor] = _identity


@dataclass(frozen=True)
class Block:
    """One transformer block: the module, its attention and its feed-forward network (MLP).

    `reading` is None where no family knows the attention; `obstacle` then says what a family found wrong.
    """

    name: str
    module: nn.Module
    attention: nn.Module | None
    ffn: nn.Module | None
    reading: AttentionReading | None
    obstacle: str = ""


@dataclass(frozen=True)
class Tower:
    """A Vision Transformer found inside a model.

    Attributes:
        module: the Vision Transformer itself; called with one batch of images [b, c, height, width].
        name: its dotted name inside the model, "" for the model itself.
        stem: the first submodule to run; its first argument is the batch of images.
        blocks: the transformer blocks in the order in which they run.
        heads: names, inside `module`, of its task heads: the first receives the pooled features, a distilled
            model has a second; empty where the tower has none.
        num_prefix_tokens: tokens before the patches (class token, distillation token, registers).
        has_class_token: whether token 0 is a class token.
        grid: patches (vertically, horizontally), or None where it is known only at run time.
        width: the tokens' width d.
        patch_size: a patch's height and width in pixels, or None where it is not known.
        position_embeddings: names, inside `module`, of its position embeddings.
        batch_first: whether blocks receive [b, n, d] rather than [n, b, d].
        home: the pre-trained model that the tower belongs to: the tower itself, or what holds it beside
            other pre-trained parts, such as a CLIP model.
    """

    module: nn.Module
    name: str
    home: nn.Module
    stem: nn.Module
    blocks: tuple[Block, ...]
    heads: tuple[str, ...]
    num_prefix_tokens: int
    has_class_token: bool
    grid: tuple[int, int] | None
    width: int
    position_embeddings: tuple[str, ...] = ()
    batch_first: bool = True
    patch_size: tuple[int, int] | None = None
