"""An attention class that nobody registered: guessed from its submodules, and believed only if it checks."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import TowerParts
from vitreg.functional import cls_row, mean_row, query_key_logits
from vitreg.functional.softmax_input import SoftmaxInput
from vitreg.hooks import Hooks
from vitreg.types import AttentionReading, Row, Tap

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nheads", "heads")
_NORMS = (("q_norm", "k_norm"), ("norm_q", "norm_k"), ("ln_q", "ln_k"), ("query_norm", "key_norm"))
_FUSED = ("qkv", "to_qkv", "qkv_proj", "in_proj", "query_key_value", "c_attn")
_SEPARATE = (
    ("q", "k"),
    ("q_proj", "k_proj"),
    ("query", "key"),
    ("wq", "wk"),
    ("w_q", "w_k"),
    ("to_q", "to_k"),
    ("q", "kv"),
    ("to_q", "to_kv"),
    ("q_proj", "kv_proj"),
)
_TOLERANCE = 1e-4

QueryKey = Callable[[Mapping[str, Any]], tuple[Tensor, Tensor]]

_outcomes: weakref.WeakKeyDictionary[nn.Module, int | str] = weakref.WeakKeyDictionary()
"""Which guess holds for a module, or why none does: each module is checked once."""


def structural_reading(module: nn.Module, tower: TowerParts) -> AttentionReading:
    """Return how an attention of an unregistered class is read, as found out from its submodules.

    Guesses (norms of q and k, a fused projection, separate ones) are tried on a copy with shaken weights: the
    one is taken whose logits are what enters the module's own softmax.

    Raises:
        UnsupportedModelError: none is, or the module cannot be tried.
    """
    guesses = list(_guesses(module))
    if module not in _outcomes:
        _outcomes[module] = _try(module, tower)
    outcome = _outcomes[module]
    if isinstance(outcome, str):
        raise UnsupportedModelError(_remedy(module, outcome))
    return guesses[outcome]


def _guesses(module: nn.Module) -> Iterator[AttentionReading]:
    """Yield the readings that the names of submodules suggest, always in the same order."""
    heads = next(
        (getattr(module, name) for name in _HEADS if isinstance(getattr(module, name, None), int)), 0
    )
    if heads < 1:
        return
    children = dict(module.named_children())
    own_scale = getattr(module, "scale", None)
    scales: list[float | None] = [float(own_scale)] if isinstance(own_scale, float | int) else []
    scales += [None, 1.0]  # None: the head's width to the power of -1/2

    found: list[tuple[dict[str, Tap], QueryKey]] = []
    for q, k in _NORMS:
        if q in children and k in children:
            taps = {"query": Tap(children[q]), "key": Tap(children[k])}
            found += [(taps, partial(_as_they_are, heads_dim=dim)) for dim in (1, 2)]
    for name in _FUSED:
        if isinstance(children.get(name), nn.Module):
            taps = {"qkv": Tap(children[name])}
            found += [(taps, partial(_from_fused, heads=heads, heads_first=first)) for first in (False, True)]
    for q, k in _SEPARATE:
        if q in children and k in children:
            taps = {"query": Tap(children[q]), "key": Tap(children[k])}
            found.append((taps, partial(_from_separate, heads=heads)))

    for taps, query_key in found:
        for scale in scales:
            logits = partial(_logits, module=module, query_key=query_key, scale=scale)
            yield AttentionReading(heads, {"call": Tap(module, "input"), **taps}, logits)


def _as_they_are(seen: Mapping[str, Any], *, heads_dim: int) -> tuple[Tensor, Tensor]:
    query, key = seen["query"], seen["key"]
    return (query, key) if heads_dim == 1 else (query.transpose(1, 2), key.transpose(1, 2))


def _from_fused(seen: Mapping[str, Any], *, heads: int, heads_first: bool) -> tuple[Tensor, Tensor]:
    b, n, width = seen["qkv"].shape
    if heads_first:
        parts = seen["qkv"].view(b, n, heads, 3, width // (3 * heads)).permute(3, 0, 2, 1, 4)
    else:
        parts = seen["qkv"].view(b, n, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    return parts[0], parts[1]


def _from_separate(seen: Mapping[str, Any], *, heads: int) -> tuple[Tensor, Tensor]:
    head_dim = seen["query"].shape[-1] // heads
    query = seen["query"].unflatten(-1, (heads, head_dim))
    key = seen["key"].unflatten(-1, (-1, heads, head_dim))[:, :, 0]  # of k and v side by side, k
    return query.transpose(1, 2), key.transpose(1, 2)


def _logits(
    seen: Mapping[str, Any], row: Row, *, module: nn.Module, query_key: QueryKey, scale: float | None
) -> Tensor:
    args, kwargs = seen["call"]
    more = [a for a in (*args[1:], *kwargs.values()) if a is not None and a is not False]
    if len(more) > (0 if args else 1):
        raise UnsupportedModelError(
            f"{type(module).__name__} is read as attention over its tokens alone; it was called with "
            "further arguments, such as a mask. Register the class with `@vitreg.register_family`."
        )
    query, key = query_key(seen)
    return query_key_logits(row(query, 2), key, scale=query.shape[-1] ** -0.5 if scale is None else scale)


def _try(module: nn.Module, tower: TowerParts) -> int | str:
    """Return the index of the guess that holds on a copy of `module`, or why there is none."""
    if any(p.is_meta for p in module.parameters()):
        return "its weights are on the meta device, so it cannot be tried"
    if any(hasattr(p, "placements") for p in module.parameters()):
        return "its weights are sharded, so it cannot be tried (attach before `fully_shard`)"
    copied = copy.deepcopy(module).cpu().float().eval()
    guesses = list(_guesses(copied))
    if not guesses:
        return "its submodules have none of the usual names (qkv, q_proj and k_proj, q_norm and k_norm, …)"
    generator = torch.Generator().manual_seed(0)
    num_patches = tower.grid[0] * tower.grid[1] if tower.grid else 6
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for parameter in copied.parameters():  # zero biases and tables would hide a term that is left out
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        tokens = torch.randn(2, tower.num_prefix_tokens + num_patches, tower.width, generator=generator)
        delivered: list[dict[str, Any]] = [{} for _ in guesses]
        hooks = Hooks(
            (tap, partial(seen.__setitem__, key))
            for guess, seen in zip(guesses, delivered, strict=True)
            for key, tap in guess.taps.items()
        )
        try:
            with SoftmaxInput() as softmax:
                copied(tokens)
        except Exception as error:  # whatever a user's own module raises
            return f"it cannot be run on tokens alone ({type(error).__name__}: {error})"
        finally:
            hooks.remove()
        if len(softmax.logits) != 1:
            return f"it has {len(softmax.logits)} softmaxes over tokens, expected one"
        return _first_match(guesses, delivered, softmax.logits[0], tower.num_prefix_tokens)


def _first_match(
    guesses: list[AttentionReading], delivered: list[dict[str, Any]], whole: Tensor, num_prefix: int
) -> int | str:
    worst = float("inf")
    for index, (guess, seen) in enumerate(zip(guesses, delivered, strict=True)):
        difference = 0.0
        rows: tuple[tuple[Row, Tensor], ...] = (
            (cls_row, whole[..., 0, :]),
            (partial(mean_row, num_prefix_tokens=num_prefix), whole[..., num_prefix:, :].mean(-2)),
        )
        for row, expected in rows:
            try:
                ours = guess.logits(seen, row)
            except Exception:  # a guess of another layout
                ours = None
            if ours is None or ours.shape != expected.shape:
                difference = float("inf")
                break
            difference = max(difference, float((ours - expected).abs().max()))
        if difference < _TOLERANCE * max(1.0, float(whole.abs().max())):
            return index
        worst = min(worst, difference)
    return f"what its submodules suggest differs from what enters its softmax (by {worst:.2g} at best)"


def _remedy(module: nn.Module, reason: str) -> str:
    cls = type(module)
    return (
        f"expected attention of a known family, found {cls.__module__}.{cls.__qualname__}; {reason}. "
        "Read msa_output or block_output, which need no family, or register the class:\n"
        f"  @vitreg.register_family({cls.__name__})\n"
        "  def family(attention):\n"
        "      taps = {'q': vitreg.Tap(attention.q_norm), 'k': vitreg.Tap(attention.k_norm)}\n"
        "      logits = lambda seen, row: query_key_logits(row(seen['q'], 2), seen['k'], "
        "scale=attention.scale)\n"
        "      return vitreg.AttentionReading(attention.num_heads, taps, logits)"
    )
