"""The tensors of a checkpoint by the names that the network gives them, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitreg.errors import InputError
from vitreg.weights.content import content_of
from vitreg.wording import listed, plain

State = dict[str, Tensor]

WRAPPERS = (
    *("state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema_model", "ema"),
    *("params_ema", "teacher", "target_encoder"),
    *("state_dict", "model_state_dict", "model_state", "model", "student"),
    *("module", "net", "network", "encoder", "backbone", "weights", "params", "current_model_state"),
)
"""Under which keys a checkpoint keeps its weights, the wanted ones first: the moving average (EMA) before the
weights that it is the average of, as timm takes it, and the teacher, which is one, before the student.
Lightning's WeightAveraging keeps the average as `state_dict` and the others as `current_model_state`."""

_SETS = ("model_ema.", "ema_model.", "ema.", "teacher.", "student.")
PREFIXES = (
    *_SETS,
    *("module.", "_orig_mod.", "_fsdp_wrapped_module."),
    *("backbone.", "base_encoder.", "model.", "net.", "network."),
)
"""With what the names may begin, the wanted ones first: of averages and teachers, of DDP, `torch.compile`,
FSDP, and of what trainers call the network beside their heads (DINO, iBOT, DINOv2, MoCo-v3, Lightning)."""

_ROOT = re.compile(r"((?:\w+\.)*)blocks\.0\.")
_WRAPPED = re.compile(r"(?<=\.)_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
_UNUSED = ("masked_embed", "n_averaged")
"""What stands for a masked patch in iBOT, where fine-tuning masks none, and the count of an average."""


def read_weights(path: Path, *, model: str = "", say: Callable[[str], None] = lambda text: None) -> State:
    """Return the tensors of a file in float32, by the names that the network itself gives them.

    Read are `.safetensors`, torch's files, and the `.npz` of Google's ViT and AugReg, which timm translates.
    Freed are the weights from their checkpoint (`WRAPPERS`) and names from what they begin with (`PREFIXES`,
    and whatever the names of all blocks begin with); what does not begin so is a trainer's own, such as a
    projection head, and left out.

    Args:
        path: the file.
        model: the timm model that they are of, which the `.npz` of Google need.
        say: is told where a file holds several sets of weights, and which is taken.

    Raises:
        InputError: It cannot be read without executing it, holds no tensors, or a value is not finite.
    """
    loaded = content_of(path, model)
    if average := _average_of_callbacks(loaded, path, say):
        loaded = average
    while keys := _wrappers_in(loaded, _has_tensors):
        # An average may also be kept as a list, whose tensors nobody can name.
        unread = [key for key in _wrappers_in(loaded, bool) if key not in keys]
        if keys[1:] or unread:
            say(f"{path} holds {listed([*keys, *unread])}; {keys[0]} is used")
        loaded = loaded[keys[0]]
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"cannot read the weights {path}: expected tensors by name (a state_dict), found a "
            f"{type(loaded).__name__}"
        )
    state = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        found = listed([repr(plain(str(key))) for key in loaded]) or "nothing"
        raise InputError(
            f"cannot read the weights {path}: expected tensors by name, alone or under one of "
            f"{listed(WRAPPERS, at_most=20)}; found {found}"
        )
    while prefixes := [p for p in PREFIXES if any(key.startswith(p) for key in state)]:
        first = prefixes[0]
        others = [p for p in prefixes[1:] if p in (*_SETS, "model.", "module.")]
        if first == "base_encoder.":  # MoCo-v3's, which fine-tuning starts from, and not their average
            others = ["momentum_encoder."] * any(key.startswith("momentum_encoder.") for key in state)
        if first in (*_SETS, "base_encoder.") and others:
            say(f"{path} holds weights under {listed([first, *others])}; {first} is used")
        state = {key.removeprefix(first): value for key, value in state.items() if key.startswith(first)}
    state = _below_one_root(state, path)
    if any(re.search(r"embeddings\.patch_embed|encoder\.layers?\.0\.", key) for key in state):
        raise InputError(
            f"cannot read the weights {path}: they are in the layout of transformers, expected timm's; give "
            "those that timm serves (--weights timm or hf-hub:OWNER/NAME), or train the transformers model "
            "itself with vitreg.attach"
        )
    state = {_WRAPPED.sub("", key): value for key, value in state.items()}
    # DINOv2 trains its blocks in chunks: blocks.1.7 is block 7.
    named = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value for key, value in state.items()}
    return finite({key: value for key, value in named.items() if key not in _UNUSED}, str(path))


def _below_one_root(state: State, path: Path) -> State:
    """Return the tensors without what the names of all blocks begin with, whatever a trainer calls it."""
    if any("lora_" in key for key in state):
        raise InputError(
            f"cannot read the weights {path}: they are of LoRA's adapters; merge them into their model "
            "(merge_and_unload in peft), and give its weights"
        )
    roots = sorted({found[1] for key in state if (found := _ROOT.match(key))})
    if not roots or "" in roots or roots[0].startswith("visual."):  # which timm translates
        return state
    if len(roots) > 1:
        raise InputError(
            f"cannot read the weights {path}: expected one network, found {listed(roots)}; give a file with "
            "the tensors of one of them"
        )
    return {key.removeprefix(roots[0]): value for key, value in state.items() if key.startswith(roots[0])}


def _average_of_callbacks(
    loaded: object, path: Path, say: Callable[[str], None]
) -> Mapping[str, Tensor] | None:
    """Return the average of the weights that a callback of Lightning keeps, if any, and say what is used.

    Raises:
        InputError: There are several.
    """
    if not isinstance(loaded, Mapping):
        return None
    places = ("callbacks", "optimizer_states")
    found = {name: kept for place in places for name, kept in _averages_in(loaded.get(place), place)}
    named = {name: kept for name, kept in found.items() if kept is not None}
    if len(named) > 1:
        raise InputError(
            f"cannot read the weights {path}: expected one average of the weights, found {listed(named)}; "
            "give a file with the tensors of one of them"
        )
    known = [*named, *_wrappers_in(loaded, _has_tensors)]
    others = [*known[1:], *(name for name in found if name not in named)]
    if found and known:
        say(f"{path} holds {listed([known[0], *others])}; {known[0]} is used")
    return next(iter(named.values()), None)


def _averages_in(kept: object, place: str) -> Iterator[tuple[str, Mapping[str, Tensor] | None]]:
    """Yield where weights are kept below `place`, and them, or None where they are a list without names."""
    if isinstance(kept, Mapping):
        if any(isinstance(value, Tensor) and _ROOT.match(str(key)) for key, value in kept.items()):
            yield place, kept
        elif kept.get("n_averaged") != 0:  # before the first average of SWA there is a copy of the start
            for key, value in kept.items():
                yield from _averages_in(value, f"{place}/{key}")
    elif isinstance(kept, (list, tuple)):
        if kept and all(isinstance(value, Tensor) for value in kept):
            yield place, None
        else:
            for number, value in enumerate(kept):
                yield from _averages_in(value, f"{place}/{number}")


def finite(state: Mapping[str, Tensor], where: str) -> State:
    """Return the tensors in float32.

    Raises:
        InputError: A tensor of `where` has a value that is not finite, or is none of plain numbers.
    """
    odd = [key for key, value in state.items() if not _is_plain(value)]
    if odd:
        raise InputError(
            f"{where}: expected tensors of plain numbers, found quantised, sparse, complex or empty ones in "
            f"{listed(odd)}; save them in float32"
        )
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"{where} has values that are not finite in {listed(broken)}")
    return dict(state)


def _is_plain(tensor: Tensor) -> bool:
    is_laid_out = tensor.layout == torch.strided and not tensor.is_meta
    return is_laid_out and not tensor.is_quantized and not tensor.is_complex()


def _wrappers_in(loaded: object, is_wanted: Callable[[object], bool]) -> list[str]:
    """Return those of `WRAPPERS` under which a checkpoint keeps a mapping that is wanted."""
    if not isinstance(loaded, Mapping):
        return []
    return [key for key in WRAPPERS if isinstance(loaded.get(key), Mapping) and is_wanted(loaded[key])]


def _has_tensors(inner: object) -> bool:
    return isinstance(inner, Mapping) and any(
        isinstance(value, Tensor) or _has_tensors(value) for value in inner.values()
    )
