"""The few data types that the floors of vitreg hand to each other.

Shape letters: b images, h heads, n tokens, p patches, d width, l blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

Layers: TypeAlias = "int | Sequence[int] | slice | Literal['all', 'spread']"
"""Which blocks: an index (negative ones count from the end), several, a slice, "all", or "spread" for five at
even distances, the last one among them."""

LayerMap: TypeAlias = "Mapping[int, int]"
"""Which block of the source stands beside which block of the model: {model's index: source's index}."""

Query: TypeAlias = Literal["cls", "mean", "pool", "registers", "all"]
"""Whose attention is read: the class token's, the mean of the patches' queries, or the latent query of an
attention pooling; or that of several tokens at once, one row each: the prefix tokens beside the class token
(registers, a distillation token), or all tokens, which is the whole matrix."""

SEVERAL: tuple[Query, ...] = ("registers", "all")
"""The queries that are several tokens."""

Grid: TypeAlias = tuple[int, int]
"""Patches, vertically and horizontally."""

Align: TypeAlias = Literal["exact", "resample"]
"""What is done where model and source divide a picture into different patch grids: refuse, or resample."""

Heads: TypeAlias = Literal["each", "mean"]
"""Whether attention heads are compared one by one, or by their mean."""

Reduction: TypeAlias = Literal["mean", "sum_layers", "sum"]
"""How a squared distance is reduced, see `vitreg.functional.squared_distance`."""

Lam: TypeAlias = "float | Callable[[int], float]"
"""A weight: a number, or a function of the step (the number of penalties taken so far)."""

NewHead: TypeAlias = "str | Sequence[str]"
"""Names of the modules or parameters that are new and not pre-trained; empty where everything is."""

ViewNumbers: TypeAlias = "Tensor | Sequence[int]"
"""The numbers of the views that a batch of pictures holds, one a picture, see `vitreg.CachedSource`."""

Passes: TypeAlias = Literal["last", "all"]
"""Which forward passes since the last penalty count."""

Key: TypeAlias = tuple[str, Query]
"""An extractor's name and the query."""

Slot: TypeAlias = tuple[str, Query, int]
"""A key and the index of a block."""

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""What a module is called with: by position, and by name."""

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
    """How one value is read: from what the taps delivered, under the same keys, to a tensor.

    `copied` names the taps whose tensors the module writes to afterwards, so that they are copied at once.
    With `either`, the first tap to deliver in a pass is read alone, and the others are not waited for.
    """

    taps: Mapping[str, Tap]
    read: Callable[[Mapping[str, Any]], Tensor]
    copied: frozenset[str] = frozenset()
    either: bool = False


@dataclass(frozen=True)
class AttentionReading:
    """How one attention module computes its attention: what a family says of it.

    Attributes:
        num_heads: the number of query heads.
        taps: what has to be observed while the module runs.
        logits: from what the taps delivered and a `Row`, the query's pre-softmax logits over all
            tokens, [b, h, n], in float32.
        output: how the output after the projection is read, [b, n, d]; None where it is what the module
            returns.
        queries: whose attention there is; class attention, for one, has the class token's only.
        maps_per_head: how many softmaxes a head combines; `num_heads` counts each. Differential attention
            subtracts the second of two from the first.
        copied: which taps are copied, see `Probe`.
        qkv: how "queries", "keys" and "values" are read as they enter attention, [b, h, n, d_head], as far as
            they can be.
    """

    num_heads: int
    taps: Mapping[str, Tap]
    logits: Callable[[Mapping[str, Any], Row], Tensor]
    output: Probe | None = None
    queries: tuple[Query, ...] = ("cls", "mean")
    maps_per_head: int = 1
    copied: frozenset[str] = frozenset()
    qkv: Mapping[str, Probe] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """One transformer block, or an attention pooling.

    Attributes:
        name: its dotted name inside the tower.
        module: the whole block.
        attention: its attention module.
        ffn: its feed-forward network (MLP).
        reading: how its attention is computed, or None where no family knows it.
        obstacle: why `reading` is None, where that is known.
        output: how its multi-head self-attention's output is read, or None where it has none.
        whole: how the block's own output is read, or None where it is what the module returns.
        num_prefix_tokens: tokens before the patches among the keys.
        has_class_token: whether token 0 is a class token here.
        grid: patches (vertically, horizontally), or None where it is known only at run time.
    """

    name: str
    module: nn.Module
    attention: nn.Module | None = None
    ffn: nn.Module | None = None
    reading: AttentionReading | None = None
    obstacle: str = ""
    output: Probe | None = None
    whole: Probe | None = None
    num_prefix_tokens: int = 0
    has_class_token: bool = False
    grid: Grid | None = None


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
        has_class_token: whether token 0 is a class token, if only in some blocks.
        grid: patches (vertically, horizontally), or None where it is known only at run time.
        width: the tokens' width d.
        patch_size: a patch's height and width in pixels, or None where it is not known.
        covered: the height and width in pixels that the patches cover, from the top left, of a picture of
            fixed size with pixels left over; None where none are.
        position_embeddings: names, inside `module`, of its position embeddings.
        batch_first: whether blocks receive [b, n, d] rather than [n, b, d].
        pool: the attention pooling between the blocks and the head, or None.
        features: how the pooled features are read, [b, d], or why they cannot be; None where they are what
            the first head receives or, without a head, what the tower returns.
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
    grid: Grid | None
    width: int
    position_embeddings: tuple[str, ...] = ()
    batch_first: bool = True
    patch_size: tuple[int, int] | None = None
    covered: tuple[int, int] | None = None
    pool: Block | None = None
    features: Probe | str | None = None
