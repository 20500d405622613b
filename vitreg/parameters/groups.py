"""Parameter groups for an optimiser: a learning rate for each layer, and weight decay for matrices alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from vitreg.errors import ArgumentError, UnsupportedModelError
from vitreg.families import find_tower
from vitreg.parameters.heads import head_parameters
from vitreg.types import NewHead, Tower

_TABLES = re.compile(
    r"(?<![a-z])(pos_embed|position|rel_pos|relative|cpb_mlp)|(token|tokens|embedding|table|latent|probe)(_?\d+)?$"
)
"""What tokens, position embeddings and tables of relative positions are called."""


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.05,
    *,
    layer_decay: float = 0.75,
    head_lr: float | None = None,
    new_head: NewHead | None = None,
) -> list[dict[str, Any]]:
    r"""Return the model's trained parameters in groups for an optimiser, with a learning rate for each layer.

    $$\text{lr}_l = \text{lr} \cdot \gamma^{L + 1 - l}$$

    of L blocks: l = 0 for what comes before the blocks (patch embedding, tokens, position embeddings),
    1 … L for the blocks, L + 1 for what comes after them (norm, pooling). The task head has `head_lr`. What
    lies between two blocks, as the merging of patches in a hierarchy, goes with the later one. Parts of a
    pre-trained composite beside the Vision Transformer, such as CLIP's text tower, have `lr`.

    Biases, norms, LayerScale, tokens, position embeddings and tables of relative positions are not decayed.
    Frozen parameters are left out, and every other one is in exactly one group. A scheduler of torch keeps
    the proportions between the groups. Freeze and add adapters before.

        optimizer = torch.optim.AdamW(vitreg.param_groups(model, lr=1e-4, head_lr=1e-3))

    Args:
        model: a Vision Transformer or any module with one inside.
        lr: the learning rate of the last layer.
        weight_decay: of matrices.
        layer_decay: γ, above 0 and at most 1; 1 gives every layer the same learning rate.
        head_lr: the learning rate of the task head, by default `lr`; a new head often takes 1 to 10 times it.
        new_head: names of the modules or parameters that are the task head, see `vitreg.freeze`.

    Returns:
        groups with "params", "lr", "weight_decay" and "name" (such as "blocks.3, no decay"), in the order of
        the layers.

    Raises:
        ArgumentError: a number is out of range, or nothing is trained.
        UnsupportedModelError: there is no Vision Transformer with blocks that vitreg knows.

    Source: Bao et al. 2022 (ICLR), "BEiT", arXiv 2106.08254, fine-tuning; He et al. 2022 (CVPR), "Masked
    Autoencoders Are Scalable Vision Learners", arXiv 2111.06377.
    """
    head_lr = lr if head_lr is None else head_lr
    for name, value in (("lr", lr), ("head_lr", head_lr), ("layer_decay", layer_decay)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ArgumentError(f"{name} must be a number above 0, got {value!r}.")
    if layer_decay > 1:
        raise ArgumentError(f"layer_decay must be at most 1, got {layer_decay!r}.")
    if isinstance(weight_decay, bool) or not 0 <= weight_decay < math.inf:
        raise ArgumentError(f"weight_decay must be a number of at least 0, got {weight_decay!r}.")
    tower = find_tower(model)
    blocks = _outermost(tower)
    if not blocks:
        raise UnsupportedModelError(
            f"Expected blocks in {type(tower.module).__name__}, found none, so there are no layers. Use "
            "model.parameters() with one learning rate."
        )
    layers = _layers(model, tower, blocks, new_head)
    exempt = _without_decay(model, tower)
    names = ("stem", *blocks, "norm", "head", "beside")
    rates = [lr * layer_decay**above for above in range(len(blocks) + 1, -1, -1)] + [head_lr, lr]
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        layer, is_decayed = layers[id(parameter)], id(parameter) not in exempt
        group = found.setdefault(
            (layer, is_decayed),
            {
                "params": [],
                "lr": rates[layer],
                "weight_decay": float(weight_decay) if is_decayed else 0.0,
                "name": names[layer] if is_decayed else f"{names[layer]}, no decay",
            },
        )
        group["params"].append(parameter)
    if not found:
        raise ArgumentError(
            f"Expected parameters to train in {type(model).__name__}, found all of them frozen."
        )
    return [found[key] for key in sorted(found, key=lambda key: (key[0], not key[1]))]


def _outermost(tower: Tower) -> dict[str, nn.Module]:
    """Return the blocks by name, in running order, each once and without those inside another one."""
    blocks = {block.name: block.module for block in tower.blocks}
    return {
        name: block
        for name, block in blocks.items()
        if not any(name.startswith(f"{other}.") for other in blocks)
    }


def _layers(
    model: nn.Module, tower: Tower, blocks: Mapping[str, nn.Module], new_head: NewHead | None
) -> dict[int, int]:
    """Return the number of the layer of each parameter, by its identity.

    0 is what comes before the blocks, then the blocks from 1, what comes after them, the head, and what
    stands beside the tower. Outside of the blocks a parameter's place is where it is registered: models
    register their parts in the order in which they run.
    """
    head = {id(p) for p in head_parameters(model, tower, new_head)}
    last = len(blocks) + 1
    found = {id(p): last + 1 if id(p) in head else last + 2 for p in model.parameters()}
    of_block = {
        id(p): layer for layer, block in enumerate(blocks.values(), start=1) for p in block.parameters()
    }
    around = {
        name.rpartition(".")[0] for name in blocks
    }  # the modules that hold blocks, and what holds these
    around |= {name[:end] for name in around for end in range(len(name)) if name[end] == "."} | {""}
    in_stem = {id(p) for p in tower.stem.parameters()} - of_block.keys()
    if any(tower.stem is tower.module.get_submodule(name) for name in around):
        in_stem = set()  # CrossViT itself receives the pictures
    places = set(tower.position_embeddings)
    highest = 0  # the layer that the last block before this parameter has
    for name, parameter in tower.module.named_parameters():
        if id(parameter) in head:
            continue
        if id(parameter) in of_block:
            found[id(parameter)] = of_block[id(parameter)]
            highest = max(highest, of_block[id(parameter)])
        elif id(parameter) in in_stem or name in places:
            found[id(parameter)] = 0
        elif name.rpartition(".")[0] in around and _is_matrix(name, parameter):
            found[id(parameter)] = last  # a projection of the output, such as open_clip's `proj`
        else:
            found[id(parameter)] = highest + 1 if highest else 0
    return found


def _without_decay(model: nn.Module, tower: Tower) -> set[int]:
    """Return the identities of the parameters that are not decayed: all that is no matrix."""
    places = set(tower.position_embeddings)
    of_model: Any = getattr(tower.module, "no_weight_decay", None)  # timm's own list
    places |= set(of_model()) if callable(of_model) else set()
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    named = {id(p) for name, p in tower.module.named_parameters() if name in places}
    vectors = {id(p) for name, p in model.named_parameters() if not _is_matrix(name, p)}
    return tables | named | vectors


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter maps features to features, rather than being one vector or a table."""
    return sum(size > 1 for size in parameter.shape) > 1 and _TABLES.search(name) is None
