"""An attention class that nobody registered: guessed from its submodules, and believed only if it checks."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.qkv import QueryKey, qkv_probes
from vitreg.families.registries import TowerParts
from vitreg.functional import cls_row, mean_row, query_key_logits
from vitreg.functional.shards import sharded_by
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
_RETURNS = ("output_attentions", "output_hidden_states", "return_dict")
"""Arguments of transformers that say what is returned, and nothing of what is computed."""

_TOLERANCE = 1e-4

Outcome = tuple[int, frozenset[str]]
"""Which guess holds, and which of its taps the module writes to after they were read."""

_outcomes: weakref.WeakKeyDictionary[nn.Module, Outcome | str] = weakref.WeakKeyDictionary()
"""What holds for a module, or why nothing does: each module is checked once."""


def structural_reading(module: nn.Module, tower: TowerParts) -> AttentionReading:
    """Return how an attention of an unregistered class is read, as found out from its submodules.

    Guesses (norms of q and k, a fused projection, separate ones) are tried on a copy with shaken weights: the
    one is taken whose logits are what enters the module's own softmax.

    Raises:
        UnsupportedModelError: none is, or the module cannot be tried.
    """
    guesses = list(_guesses(module))
    if any(p.is_meta for p in module.parameters()):
        raise UnsupportedModelError(
            _remedy(module, "its weights are on the meta device, so it cannot be tried")
        )
    if module not in _outcomes:
        _outcomes[module] = _try(module, tower)
    outcome = _outcomes[module]
    if isinstance(outcome, str):
        raise UnsupportedModelError(_remedy(module, outcome))
    index, copied = outcome
    guess = guesses[index]
    qkv = {name: replace(probe, copied=copied & probe.taps.keys()) for name, probe in guess.qkv.items()}
    return replace(guess, copied=copied, qkv=qkv)


def _guesses(module: nn.Module) -> Iterator[AttentionReading]:
    """Yield the readings that the names of submodules suggest, always in the same order."""
    heads = next(
        (getattr(module, name) for name in _HEADS if isinstance(getattr(module, name, None), int)), 0
    )
    if heads < 1:
        return
    children = dict(module.named_children())
    own = isinstance(getattr(module, "scale", None), float | int)
    scales = ("own", "width", "one") if own else ("width", "one")

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
            called = {"call": Tap(module, "input"), **taps}
            yield AttentionReading(heads, called, logits, qkv=qkv_probes(taps, query_key))


def _as_they_are(seen: Mapping[str, Any], *, heads_dim: int) -> tuple[Tensor, Tensor]:
    query, key = seen["query"], seen["key"]
    return (query, key) if heads_dim == 1 else (query.transpose(1, 2), key.transpose(1, 2))


def _from_fused(seen: Mapping[str, Any], *, heads: int, heads_first: bool) -> tuple[Tensor, Tensor]:
    order = "(h part d)" if heads_first else "(part h d)"
    query, key, _ = rearrange(seen["qkv"], f"b n {order} -> part b h n d", part=3, h=heads)
    return query, key


def _from_separate(seen: Mapping[str, Any], *, heads: int) -> tuple[Tensor, Tensor]:
    head_dim = seen["query"].shape[-1] // heads
    query = seen["query"].unflatten(-1, (heads, head_dim))
    key = seen["key"].unflatten(-1, (-1, heads, head_dim))[:, :, 0]  # of k and v side by side, k
    return query.transpose(1, 2), key.transpose(1, 2)


def _logits(
    seen: Mapping[str, Any], row: Row, *, module: nn.Module, query_key: QueryKey, scale: str
) -> Tensor:
    args, kwargs = seen["call"]
    named = [a for name, a in kwargs.items() if name not in _RETURNS]
    more = [a for a in (*args[1:], *named) if a is not None and a is not False]
    if len(more) > (0 if args else 1):
        raise UnsupportedModelError(
            f"{type(module).__name__} is read as attention over its tokens alone; it was called with "
            "further arguments, such as a mask. Register the class with `@vitreg.register_family`."
        )
    query, key = query_key(seen)
    own: Any = getattr(module, "scale", 1.0)  # as it is now: it may be annealed
    factor = {"own": float(own), "width": query.shape[-1] ** -0.5, "one": 1.0}[scale]
    return query_key_logits(row(query, 2), key, scale=factor)


def _try(module: nn.Module, tower: TowerParts) -> Outcome | str:
    """Return which guess holds on copies of `module`, or why there is none.

    A guess has to hold in eval and in training mode, there with gradients, on small and on large tokens,
    where what clamps or masks logits shows.
    """
    if sharded_by(module.parameters()) is not None:
        return "its weights are sharded, so it cannot be tried (attach before `fully_shard`)"
    if not list(_guesses(module)):
        return "its submodules have none of the usual names (qkv, q_proj and k_proj, q_norm and k_norm, …)"
    candidates: dict[int, set[str]] | None = None
    for training in (False, True):
        for size in (1.0, 30.0):
            outcome = _try_once(copy.deepcopy(module).cpu().float().train(training), tower, size)
            if isinstance(outcome, str):
                return outcome
            if candidates is not None:
                outcome = {i: changed | candidates[i] for i, changed in outcome.items() if i in candidates}
            candidates = outcome
    if not candidates:
        return "what its submodules suggest does not always enter its softmax"
    index = min(candidates)
    return index, frozenset(candidates[index])


def _try_once(module: nn.Module, tower: TowerParts, size: float) -> dict[int, set[str]] | str:
    """Return the indices of the guesses that hold in one run of `module` on tokens of the given size.

    Beside each, the taps that the module wrote to after they had delivered. A tensor is looked at as it was
    then: so it is read in training, where those that are written to are copied.
    """
    guesses = list(_guesses(module))
    generator = torch.Generator().manual_seed(0)
    num_patches = tower.grid[0] * tower.grid[1] if tower.grid else 64
    delivered: list[dict[str, Any]] = [{} for _ in guesses]
    originals: list[dict[str, tuple[Tensor, int]]] = [{} for _ in guesses]
    again: set[int] = set()

    def receive(index: int, key: str, value: Any) -> None:
        if key in delivered[index]:
            again.add(index)  # which of its runs counts is anyone's guess
        if isinstance(value, Tensor):
            originals[index][key] = value, value._version
            value = value.clone()
        delivered[index][key] = value

    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=[]):
        for tensor in (*module.parameters(), *module.buffers()):  # zeros would hide what is left out
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)
        tokens = torch.randn(2, tower.num_prefix_tokens + num_patches, tower.width, generator=generator)
        hooks = Hooks(
            (tap, partial(receive, index, key))
            for index, guess in enumerate(guesses)
            for key, tap in guess.taps.items()
        )
        try:
            with SoftmaxInput() as softmax, torch.set_grad_enabled(module.training):
                module(size * tokens)
        except Exception as error:  # whatever a user's own module raises
            return f"it cannot be run on tokens alone ({type(error).__name__}: {error})"
        finally:
            hooks.remove()
        if len(softmax.logits) != 1:
            return f"it has {len(softmax.logits)} softmaxes over tokens, expected one"
        whole, num_prefix = softmax.logits[0].detach(), tower.num_prefix_tokens
        errors = [_difference(*pair, whole, num_prefix) for pair in zip(guesses, delivered, strict=True)]
    limit = _TOLERANCE * max(1.0, float(whole.abs().max()))
    holding = {index for index, error in enumerate(errors) if error < limit} - again
    if holding:
        return {i: {key for key, (t, v) in originals[i].items() if t._version != v} for i in holding}
    return f"what its submodules suggest differs from what enters its softmax (by {min(errors):.2g} at best)"


def _difference(guess: AttentionReading, seen: dict[str, Any], whole: Tensor, num_prefix: int) -> float:
    """Return how far a guess is from the class token's and the patches' rows of `whole`, [b, h, n, n]."""
    worst = 0.0
    rows: tuple[tuple[Row, Tensor], ...] = (
        (cls_row, whole[..., 0, :]),
        (partial(mean_row, num_prefix_tokens=num_prefix), whole[..., num_prefix:, :].mean(-2)),
    )
    for row, expected in rows:
        try:
            ours = guess.logits(seen, row)
        except Exception:  # a guess of another layout
            return float("inf")
        if ours.shape != expected.shape:
            return float("inf")
        worst = max(worst, float((ours - expected).abs().max()))
    return worst


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
