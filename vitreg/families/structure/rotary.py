"""An unregistered attention that is handed tables of sines and cosines: guessed, and checked by a run."""

from __future__ import annotations

import copy
import inspect
import itertools
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import TowerParts
from vitreg.families.structure.trial import without_hooks
from vitreg.functional import cls_row, mean_row, query_key_logits
from vitreg.functional.shards import sharded_by
from vitreg.functional.softmax_input import SoftmaxInput
from vitreg.hooks import Hooks
from vitreg.types import AttentionReading, Row, Tap

_TABLES = ("rope", "rope_sincos", "position_embeddings", "rotary_pos_emb", "rotary_emb", "freqs")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "heads")
_PAIRS = (("q_norm", "k_norm"), ("q_proj", "k_proj"), ("query", "key"), ("wq", "wk"), ("to_q", "to_k"))
_FUSED = ("qkv", "to_qkv", "qkv_proj")
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Guess:
    """How q and k are rotated.

    Attributes:
        taps: names of the submodules that q and k, or q, k and v together, leave.
        sine_first: whether the tables come as sines and cosines.
        halves: whether the first half of a head is paired with the second, or each number with its neighbour.
        rounds: whether q and k take on the tables' type while they are rotated.
    """

    taps: tuple[str, ...]
    sine_first: bool
    halves: bool
    rounds: bool


_outcomes: weakref.WeakKeyDictionary[nn.Module, _Guess | str] = weakref.WeakKeyDictionary()
"""Which guess holds for a module, or why none does: each module is checked once."""


def rotary_reading(module: nn.Module, tower: TowerParts) -> AttentionReading | None:
    """Return how an unregistered attention with rotary positions is read, or None if it takes no tables.

    A copy with shaken weights is run on a few tokens with random tables; a guess is taken if its logits are
    what enters the module's own softmax. Tokens without a row in the tables, the first ones, are not rotated.

    Raises:
        UnsupportedModelError: no guess is, or the module cannot be tried.
    """
    place = _place_of_tables(module)
    if place is None:
        return None
    if module not in _outcomes:
        _outcomes[module] = _try(module, tower, place)
    outcome = _outcomes[module]
    if isinstance(outcome, str):
        raise UnsupportedModelError(
            f"expected rotary attention that can be read as it is, found {type(module).__name__}; {outcome}. "
            "Read msa_output or block_output, or register it with `@vitreg.register_family`."
        )
    return _reading(module, outcome, place)


def _place_of_tables(module: nn.Module) -> tuple[int, str] | None:
    """Return the position and the name of the tables among the arguments of `module`."""
    for index, name in enumerate(inspect.signature(module.forward).parameters):
        if name in _TABLES:
            return index, name
    return None


def _reading(module: nn.Module, guess: _Guess, place: tuple[int, str]) -> AttentionReading:
    taps = {name: Tap(module.get_submodule(name)) for name in guess.taps}
    logits = partial(_logits, module=module, guess=guess, place=place)
    return AttentionReading(_num_heads(module), {"call": Tap(module, "input"), **taps}, logits)


def _logits(
    seen: Mapping[str, Any], row: Row, *, module: nn.Module, guess: _Guess, place: tuple[int, str]
) -> Tensor:
    args, kwargs = seen["call"]
    index, name = place
    tables = args[index] if len(args) > index else kwargs.get(name)
    others = [*args[1:index], *args[index + 1 :], *(v for k, v in kwargs.items() if k != name)]
    others = [value for value in others if value is not None and value is not False]
    if len(others) > (0 if args else 1):
        raise UnsupportedModelError(
            f"{type(module).__name__} is read as attention over its tokens and {name}; it was called with "
            "further arguments, such as a mask. Register the class with `@vitreg.register_family`."
        )
    query, key = _query_key(seen, guess, _num_heads(module))
    scale = query.shape[-1] ** -0.5
    if tables is None:
        return query_key_logits(row(query, 2), key, scale=scale)
    sine, cosine = tables if guess.sine_first else reversed(tables)
    if row is cls_row:
        query = query[:, :, :1] if key.shape[2] > sine.shape[-2] else query
    turned = _rotate(key, sine, cosine, guess)
    if query.shape[2] == key.shape[2]:
        query = _rotate(query, sine, cosine, guess)
    elif guess.rounds:
        query = query.to(sine.dtype).to(query.dtype)
    return query_key_logits(row(query, 2), turned, scale=scale)


def _query_key(seen: Mapping[str, Any], guess: _Guess, num_heads: int) -> tuple[Tensor, Tensor]:
    """Return q and k, each [b, h, n, d]."""
    if len(guess.taps) == 1:
        query, key, _ = seen[guess.taps[0]].unflatten(-1, (3, num_heads, -1)).unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2)
    query, key = (seen[name] for name in guess.taps)
    if query.dim() == 3:
        query, key = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key))
    elif query.shape[1] != num_heads:
        query, key = query.transpose(1, 2), key.transpose(1, 2)
    return query, key


def _rotate(tokens: Tensor, sine: Tensor, cosine: Tensor, guess: _Guess) -> Tensor:
    num_prefix = tokens.shape[2] - sine.shape[-2]
    typed = tokens.to(sine.dtype) if guess.rounds else tokens
    prefix, patches = typed[:, :, :num_prefix], typed[:, :, num_prefix:]
    if guess.halves:
        first, second = patches.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        turned = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
    rotated = patches * cosine + turned * sine
    return torch.cat([prefix, rotated], dim=2).to(tokens.dtype)


def _num_heads(module: nn.Module) -> int:
    return next((n for name in _HEADS if isinstance(n := getattr(module, name, None), int)), 0)


def _guesses(module: nn.Module) -> Iterator[_Guess]:
    children = dict(module.named_children())
    taps: list[tuple[str, ...]] = [pair for pair in _PAIRS if set(pair) <= children.keys()]
    taps += [(name,) for name in _FUSED if name in children]
    for tap, *flags in itertools.product(taps, (True, False), (True, False), (True, False)):
        yield _Guess(tap, *flags)


def _try(module: nn.Module, tower: TowerParts, place: tuple[int, str]) -> _Guess | str:
    parameters = list(module.parameters())
    if any(p.is_meta for p in parameters) or sharded_by(parameters) is not None:
        return "its weights are sharded or on the meta device, so it cannot be tried"
    if not list(_guesses(module)) or not _num_heads(module):
        return "its submodules have none of the usual names (qkv, q_proj and k_proj, q_norm and k_norm)"
    outcome: list[_Guess] | str = ""
    for num_prefix in dict.fromkeys((tower.num_prefix_tokens, 0)):  # tables of the patches, or of all tokens
        outcome = list(_guesses(module))
        for training, dtype in itertools.product((False, True), (torch.float32, torch.bfloat16)):
            if not isinstance(outcome, str):
                outcome = _try_once(module, tower, place, outcome, training, dtype, num_prefix)
        if not isinstance(outcome, str):
            return outcome[0]
    assert isinstance(outcome, str)
    return outcome


def _try_once(
    module: nn.Module,
    tower: TowerParts,
    place: tuple[int, str],
    guesses: list[_Guess],
    training: bool,
    dtype: torch.dtype,
    num_prefix: int,
) -> list[_Guess] | str:
    """Return the guesses that hold in a run on random tokens; the tables leave out `num_prefix` of them."""
    twin = without_hooks(copy.deepcopy(module)).cpu().float().train(training)
    generator = torch.Generator().manual_seed(0)
    num_tokens = tower.num_prefix_tokens + 12
    head_dim = tower.width // _num_heads(module)
    seen: dict[str, Any] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for tensor in twin.parameters():  # zeros would hide what is left out
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)
        tokens = torch.randn(2, num_tokens, tower.width, generator=generator)
        tables = tuple(torch.randn(2, num_tokens - num_prefix, head_dim, generator=generator).to(dtype))
        taps = {"call": Tap(twin, "input")}
        taps |= {name: Tap(twin.get_submodule(name)) for guess in guesses for name in guess.taps}
        hooks = Hooks((tap, partial(seen.__setitem__, name)) for name, tap in taps.items())
        try:
            with SoftmaxInput() as softmax:
                twin(tokens, **{place[1]: tables})
        except Exception as error:  # whatever a user's own module raises
            return f"it cannot be run on tokens and tables ({type(error).__name__}: {error})"
        finally:
            hooks.remove()
        if len(softmax.logits) != 1:
            return f"it has {len(softmax.logits)} softmaxes over tokens, expected one"
        whole = softmax.logits[0].float()
        limit = _TOLERANCE * max(1.0, float(whole.abs().max()))
        holding = [g for g in guesses if _difference(twin, g, place, seen, whole, tower) < limit]
    return holding or "no way to rotate q and k gives what enters its softmax"


def _difference(
    twin: nn.Module,
    guess: _Guess,
    place: tuple[int, str],
    seen: Mapping[str, Any],
    whole: Tensor,
    tower: TowerParts,
) -> float:
    """Return how far a guess is from the first token's and the patches' rows of `whole`, [b, h, n, n]."""
    prefix = tower.num_prefix_tokens
    rows: tuple[tuple[Row, Tensor], ...] = (
        (cls_row, whole[..., 0, :]),
        (partial(mean_row, num_prefix_tokens=prefix), whole[..., prefix:, :].mean(-2)),
    )
    worst = 0.0
    for row, expected in rows:
        try:
            ours = _logits(seen, row, module=twin, guess=guess, place=place)
        except Exception:  # a guess of another layout
            return float("inf")
        if ours.shape != expected.shape:
            return float("inf")
        worst = max(worst, float((ours - expected).abs().max()))
    return worst
