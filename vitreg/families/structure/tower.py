"""Towers that nobody registered, and their parts as runs of a copy showed them."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.errors import UnsupportedModelError
from vitreg.families.registries import BlockParts, TowerParts
from vitreg.families.structure.chains import Link, find_chains
from vitreg.families.structure.plan import Plan, make_plan, modules_in
from vitreg.families.structure.remedy import refusal
from vitreg.families.structure.trial import CannotTry, Refused, first_tensor
from vitreg.functional.shards import sharded_by
from vitreg.types import Probe, Tap

_Structure = tuple[tuple[str, type], ...]

_Found = tuple[_Structure, dict[str, Plan | Refused]]

_plans: weakref.WeakKeyDictionary[nn.Module, _Found] = weakref.WeakKeyDictionary()
"""What was found of a module while it had this structure, by its chains' first blocks: each is tried once."""


def structural_towers(model: nn.Module) -> tuple[list[tuple[str, nn.Module]], dict[str, Refused]]:
    """Return names and modules of the towers in `model` that nobody registered, and why blocks are in none.

    A tower is the innermost module that runs on pictures alone and has a chain of blocks with attention; the
    reasons stand under the first block's name.
    """
    found: dict[str, nn.Module] = {}
    reasons: dict[str, Refused] = {}
    for links in find_chains(model):
        first = links[0].name
        if any(not name or first.startswith(f"{name}.") for name in found):
            continue
        path = first.split(".")
        for depth in range(len(path) - 1, -1, -1):
            name = ".".join(path[:depth])
            module = model.get_submodule(name)
            if any(not name or other.startswith(f"{name}.") for other in found):
                break  # it holds a tower already: this chain is beside it, like a text tower's
            if isinstance(module, nn.ModuleList):
                continue
            outcome = _outcome(module, tuple(link.inside(name) for link in links))
            if isinstance(outcome, Plan):
                found[name] = module
                reasons.pop(first, None)
                break
            if first not in reasons or isinstance(reasons[first], CannotTry):
                reasons[first] = outcome
            if "several places" in str(outcome):
                break  # what is around it has even more
    return list(found.items()), reasons


def structural_parts(module: nn.Module) -> TowerParts:
    """Return the parts of a tower that nobody registered.

    Raises:
        UnsupportedModelError: it has not the shape of a Vision Transformer, or runs otherwise.
    """
    plan = _first_outcome(module)
    if isinstance(plan, Refused):
        raise UnsupportedModelError(refusal(module, {"": plan}))
    tokens = plan.tokens
    chain = {name for link in plan.links for name, _ in modules_in(module, link.name)}
    positions = tuple(
        name
        for name, _ in module.named_parameters()
        if name.rpartition(".")[0] not in chain and "pos" in name.lower()
    )
    return TowerParts(
        stem=module.get_submodule(plan.stem),
        blocks=list(_blocks(module, plan)),
        heads=plan.heads,
        num_prefix_tokens=tokens.num_prefix,
        has_class_token=tokens.has_class_token,
        grid=None if tokens.any_size else tokens.grid,
        width=tokens.width,
        position_embeddings=positions,
        batch_first=tokens.batch_first,
        patch_size=tokens.patch,
        features=plan.features or None,
    )


def checked_parts(module: nn.Module, parts: TowerParts) -> TowerParts:
    """Return the parts that are registered for the base of `module`, with the tokens that a run of it showed.

    A tower that cannot be run on pictures alone is believed to be like its base.

    Raises:
        UnsupportedModelError: its tokens are not the picture's patches.
    """
    plan = _first_outcome(module)
    if isinstance(plan, CannotTry):
        return parts
    if isinstance(plan, Refused):
        raise UnsupportedModelError(refusal(module, {"": plan}))
    return dataclasses.replace(
        parts,
        num_prefix_tokens=plan.tokens.num_prefix,
        has_class_token=plan.tokens.has_class_token,
        grid=None if plan.tokens.any_size else plan.tokens.grid,
        patch_size=plan.tokens.patch,
    )


def _first_outcome(module: nn.Module) -> Plan | Refused:
    """Return the plan of a tower with its first chain of blocks that has one, or why none has."""
    outcomes: list[Refused] = [CannotTry("it has no blocks with attention")]
    for links in find_chains(module):
        outcome = _outcome(module, links)
        if isinstance(outcome, Plan):
            return outcome
        outcomes.append(outcome)
    return next((one for one in outcomes if not isinstance(one, CannotTry)), outcomes[-1])


def _outcome(module: nn.Module, links: tuple[Link, ...]) -> Plan | Refused:
    """Return the plan of a tower with these blocks, or why there is none."""
    structure = tuple((name, type(inner)) for name, inner in module.named_modules())
    if module not in _plans or _plans[module][0] != structure:
        _plans[module] = structure, {}
    found = _plans[module][1]
    if links[0].name not in found:
        found[links[0].name] = _try(module, links)
    return found[links[0].name]


def _try(module: nn.Module, links: tuple[Link, ...]) -> Plan | Refused:
    parameters = list(module.parameters())
    if any(p.is_meta for p in parameters):
        return CannotTry("its weights are on the meta device, so it cannot be tried")
    if sharded_by(parameters) is not None:
        return CannotTry("its weights are sharded, so it cannot be tried (attach before `fully_shard`)")
    try:
        return make_plan(module, links)
    except Refused as refused:  # without its traceback, which holds the copy
        return type(refused)(str(refused))


def _blocks(module: nn.Module, plan: Plan) -> Iterator[BlockParts]:
    entries = [link.entry for link in plan.links[1:]] + [plan.last]
    for link, attention, ffn, following in zip(plan.links, plan.attention, plan.ffn, entries, strict=True):
        obstacle, output = "", None
        if len(set(attention)) > 1:
            obstacle = (
                f"Expected one attention in a block, found {len(set(attention))} "
                f"({', '.join(attention)}). Read msa_output, which is their sum, or block_output."
            )
            taps = {name: Tap(module.get_submodule(name)) for name in attention}
            output = Probe(taps, partial(_sum, batch_first=plan.tokens.batch_first))
        elif len(attention) > 1:
            obstacle = "Expected an attention that runs once in a pass, found one that runs more often."
        whole = None
        if link.parts:
            whole = _probe(module.get_submodule(following), "input", plan.tokens.batch_first)
        elif plan.picks:
            whole = _probe(module.get_submodule(link.name), "output", plan.tokens.batch_first)
        yield BlockParts(
            block=module.get_submodule(link.name),
            attention=module.get_submodule(attention[0]) if len(set(attention)) == 1 else None,
            ffn=module.get_submodule(ffn) if ffn else None,
            output=output,
            whole=whole,
            obstacle=obstacle,
        )


def _probe(module: nn.Module, side: Any, batch_first: bool) -> Probe:
    return Probe({"tokens": Tap(module, side)}, partial(_tokens, batch_first=batch_first))


def _tokens(seen: Mapping[str, Any], *, batch_first: bool) -> Tensor:
    tokens = first_tensor(seen["tokens"])
    assert tokens is not None
    return tokens if batch_first else tokens.transpose(0, 1)


def _sum(seen: Mapping[str, Any], *, batch_first: bool) -> Tensor:
    parts = [_tokens({"tokens": value}, batch_first=batch_first) for value in seen.values()]
    return torch.stack(parts).sum(0)
