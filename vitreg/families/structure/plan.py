"""What runs of a copy of a model show of its blocks, tokens and heads, by names inside it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vitreg.families.structure.chains import Link, find_chains
from vitreg.families.structure.pictures import draw_pictures, like_pictures, picture_shapes
from vitreg.families.structure.tokens import Tokens, look_at_tokens
from vitreg.families.structure.trial import CannotTry, Flow, NoTower, Refused, run_through, trial_copy

_HEAD = re.compile(r"(^|\.|_)(heads?|classifier|fc|head_dist|classification_head)$")
_FFN = re.compile("mlp|ffn|ff$|feed_?forward|swiglu")
_SIZES = 16
"""With how many sizes of pictures a tower is tried at most."""

_NO_FEATURES = (
    "it has no head that runs and returns no pooled features. Read block_output, or register the tower with "
    "`@vitreg.register_tower` and say in `features` how they are read."
)


@dataclass(frozen=True)
class Plan:
    """What a tower is, by names inside it.

    Attributes:
        stem: the first submodule to run.
        links: the blocks.
        attention: for each block its attention modules that ran, as often as they did.
        ffn: for each block its feed-forward network, or "".
        last: the module that receives what leaves the last block, where blocks are never called.
        picks: whether tokens are picked out of what the blocks return.
        heads: the heads that ran.
        tokens: what the first block receives.
        features: why pooled features cannot be read, or "".
    """

    stem: str
    links: tuple[Link, ...]
    attention: tuple[tuple[str, ...], ...]
    ffn: tuple[str, ...]
    last: str
    picks: bool
    heads: tuple[str, ...]
    tokens: Tokens
    features: str


def make_plan(module: nn.Module, links: tuple[Link, ...]) -> Plan:
    """Return what runs of a copy show of a tower with these blocks; raises `Refused`."""
    chains = find_chains(module)
    chain = {name for link in links for name, _ in modules_in(module, link.name)}
    outside = (inner for name, inner in module.named_modules() if name not in chain)
    if not any(isinstance(inner, nn.Conv2d | nn.Linear) for inner in outside):
        raise CannotTry("it has no patch embedding of flat pictures")
    try:
        twin = trial_copy(module, [link.name for one in chains for link in one])
    except Exception as error:  # whatever a user's own module raises
        raise CannotTry(f"it cannot be copied ({type(error).__name__}: {error})") from error
    others = [one[0].entry for one in chains if one[0].name not in chain]
    tokens, shape = _find_tokens(twin, links, chain, others)
    like = like_pictures(twin)
    flow = run_through(twin, links, others, draw_pictures(shape, like, 3))
    stem, receives_images = flow.first
    if not receives_images:
        raise Refused(f"its first submodule to run, {stem!r}, does not receive pictures")
    picks = _check_chain(flow, links)
    last = "" if not links[-1].parts else _after_the_last(flow, links)
    heads = tuple(_heads(module, flow))
    features = "" if heads or _is_pooled(flow.returned) else _NO_FEATURES
    ffn = tuple(_ffn(module, link) for link in links)
    attention = tuple(map(tuple, flow.attention))
    return Plan(stem, links, attention, ffn, last, picks, heads, tokens, features)


def _find_tokens(
    twin: nn.Module, links: tuple[Link, ...], chain: set[str], others: Sequence[str]
) -> tuple[Tokens, tuple[int, int, int]]:
    """Return the tokens and the shape of the first pictures on which `twin` runs; raises `Refused`."""
    failure: CannotTry | None = None
    for shape in itertools.islice(picture_shapes(twin, chain), _SIZES):
        try:
            return look_at_tokens(twin, links[0].entry, chain, shape, others), shape
        except NoTower:  # noqa: PERF203
            raise
        except CannotTry as error:
            failure = failure or error
    raise failure or CannotTry("it has no patch embedding")


def _check_chain(flow: Flow, links: tuple[Link, ...]) -> bool:
    """Raise `Refused` unless each block receives what the one before returned.

    Return whether the tokens are picked out of what the blocks return.
    """
    if len(flow.inputs) != len(links) or len({tuple(tokens.shape) for tokens in flow.inputs}) > 1:
        raise Refused("its blocks receive different numbers of tokens")
    if links[0].parts:
        return False
    outputs = [tokens for tokens, _ in flow.outputs]
    if any(output is None or output.shape != flow.inputs[0].shape for output in outputs):
        raise Refused("its blocks do not return the tokens")
    for output, following in zip(outputs, flow.inputs[1:], strict=False):
        assert output is not None
        if not bool((output == following).all()):
            raise Refused("what a block returns is not what the next one receives")
    return not all(is_tensor for _, is_tensor in flow.outputs)


def _after_the_last(flow: Flow, links: tuple[Link, ...]) -> str:
    """Return the name of the module that receives the last block's output, if no module returns it."""
    shape = flow.inputs[0].shape
    inside = tuple(f"{part}." for part in links[-1].parts)
    for name, tokens in flow.after:
        if name not in links[-1].parts and not name.startswith(inside) and tokens.shape == shape:
            return name
    raise Refused("what leaves its last block enters no module")


def _heads(module: nn.Module, flow: Flow) -> Iterator[str]:
    """Yield the names of the outermost modules after the blocks that are called heads and get [b, d]."""
    found: list[str] = []
    for name, value in flow.after:
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if value.dim() == 2 and _HEAD.search(name) and not inside and name not in found:
            found.append(name)
            yield name


def _is_pooled(returned: Any) -> bool:
    first = returned[0] if isinstance(returned, tuple) and returned else returned
    return isinstance(first, Tensor) and first.dim() == 2


def _ffn(module: nn.Module, link: Link) -> str:
    """Return the name of the one feed-forward network in a block, as names and classes say, or ""."""
    found: list[str] = []
    for name, inner in modules_in(module, link.name):
        words = (name.rpartition(".")[2].lower(), type(inner).__name__.lower())
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if name != link.name and not is_inside and any(_FFN.search(word) for word in words):
            found.append(name)
    return found[0] if len(found) == 1 else ""


def modules_in(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the submodule `name` of `module` and all in it, with their names in `module`."""
    for inner, submodule in module.get_submodule(name).named_modules():
        yield f"{name}.{inner}" if inner else name, submodule
