"""The tensors of a file of weights, whoever wrote it: the one reader of checkpoints.

What a file is, is told from its first bytes and not from its name. Nothing in it is executed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitreg.errors import InputError
from vitreg.wording import first_line, listed, plain

State = dict[str, Tensor]

WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher"),
    *("state_dict", "model_state_dict", "model_state", "model", "student", "module", "net"),
)
"""Under which keys a checkpoint keeps its weights, the wanted ones first: the moving average (EMA) before the
weights that it is the average of, as timm takes it, and the teacher, which is one, before the student."""

_SETS = ("model_ema.", "ema_model.", "ema.", "teacher.", "student.")
PREFIXES = (
    *_SETS,
    *("module.", "_orig_mod.", "_fsdp_wrapped_module."),
    *("backbone.", "base_encoder.", "model.", "net.", "network."),
)
"""With what the names may begin, the wanted ones first: of averages and teachers, of DDP, `torch.compile`,
FSDP, and of what trainers call the network beside their heads (DINO, iBOT, DINOv2, MoCo-v3, Lightning)."""

_UNUSED = ("masked_embed", "n_averaged")
"""What stands for a masked patch in iBOT, where fine-tuning masks none, and the count of an average."""

_PASSED_OVER = (
    *("argparse.Namespace", "collections.OrderedDict", "collections.defaultdict"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
"""Objects that trainers keep beside the weights: they are read as `_Unread`, which does nothing."""


def read_weights(path: Path, *, model: str = "", say: Callable[[str], None] = lambda text: None) -> State:
    """Return the tensors of a file in float32, by the names that the network itself gives them.

    Read are `.safetensors`, torch's files, and the `.npz` of Google's ViT and AugReg, which timm translates.
    Freed are the weights from their checkpoint (`WRAPPERS`) and names from what they begin with (`PREFIXES`);
    what does not begin so is a trainer's own, such as a projection head, and left out.

    Args:
        path: the file.
        model: the timm model that they are of, which the `.npz` of Google need.
        say: is told where a file holds several sets of weights, and which is taken.

    Raises:
        InputError: It cannot be read without executing it, holds no tensors, or a value is not finite.
    """
    loaded = _loaded(path, model)
    seen: list[str] = []
    while isinstance(loaded, Mapping) and (keys := [key for key in WRAPPERS if _is_full(loaded.get(key))]):
        if len(keys) > 1:
            say(f"{path} holds {listed(keys)}; {keys[0]} is used")
        seen.append(keys[0])
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
        if first in _SETS and others:
            say(f"{path} holds weights under {listed([first, *others])}; {first} is used")
        state = {key.removeprefix(first): value for key, value in state.items() if key.startswith(first)}
    if any("embeddings.patch_embeddings" in key for key in state):
        raise InputError(
            f"cannot read the weights {path}: they are in the layout of transformers, expected timm's; give "
            "those that timm serves (--weights timm or hf-hub:OWNER/NAME), or train the transformers model "
            "itself with vitreg.attach"
        )
    # DINOv2 trains its blocks in chunks: blocks.1.7 is block 7.
    named = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value for key, value in state.items()}
    return finite({key: value for key, value in named.items() if key not in _UNUSED}, str(path))


def finite(state: Mapping[str, Tensor], where: str) -> State:
    """Return the tensors in float32.

    Raises:
        InputError: A tensor of `where` has a value that is not finite.
    """
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(f"{where} has values that are not finite in {listed(broken)}")
    return dict(state)


def _loaded(path: Path, model: str) -> Any:
    """Return what a file holds."""
    if path.is_dir():
        raise InputError(f"cannot read the weights {path}: {_folder(path)}")
    try:
        with open(path, "rb") as file:
            beginning = file.read(512)
        kind = _kind(path, beginning)
        if kind == "safetensors":
            return load_file(path)
        if kind == "npz":
            return _of_arrays(path, model)
        if kind != "torch":
            raise InputError(f"cannot read the weights {path}: {kind}")
        return _of_torch(path)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"cannot read the weights {path}: expected a file of weights, found none") from error
    except Exception as error:  # whatever the broken bytes lead the readers into
        raise InputError(
            f"cannot read the weights {path}: expected a whole .safetensors, .npz or torch file "
            f"({first_line(error)}); fetch it again"
        ) from error


def _kind(path: Path, beginning: bytes) -> str:
    """Return `safetensors`, `npz`, `torch`, or what the file is instead, with a remedy."""
    if not beginning:
        return "the file is empty; fetch it again"
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < 2**27:
        return "safetensors"
    if beginning.lstrip()[:1] == b"<":
        return "it is a web page, not a file of weights; fetch the file itself, not the page that shows it"
    if beginning.startswith(b"version https://git-lfs"):
        return "it is what Git LFS leaves in place of a file; git lfs pull fetches the file"
    if beginning.lstrip()[:1] in (b"{", b"["):
        return "it is a text in JSON, not a file of weights; fetch the file of weights beside it"
    if path.suffix.lower() == ".safetensors":
        return "safetensors"
    if beginning.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "npz" if names and all(name.endswith(".npy") for name in names) else "torch"
    return "npz" if path.suffix.lower() == ".npz" else "torch"


def _folder(path: Path) -> str:
    files = {entry.name for entry in path.iterdir()}
    whole = next((name for name in ("model.safetensors", "pytorch_model.bin") if name in files), None)
    if "config.json" in files and '"model_type"' in (path / "config.json").read_text(errors="replace"):
        return (
            "it is a folder of transformers, expected a file of timm's; give the weights that timm serves "
            "(--weights timm or hf-hub:OWNER/NAME), or train the transformers model itself with vitreg.attach"
        )
    return f"expected a file of weights, found a folder; give {path / whole if whole else 'a file in it'}"


class _Unread:
    """What stands for an object beside the weights: nothing of its class has to run to pass over it."""

    def __init__(self, *parts: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def _of_torch(path: Path) -> Any:
    known: list[Any] = [(_Unread, name) for name in _PASSED_OVER if not name.startswith("collections.")]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.findall(r"GLOBAL ([\w.]+)", str(error))
        is_code = named or "torchscript" in str(error).lower() or "weights_only" in str(error)
        if not is_code or _is_broken(path):
            raise
        held = f" ({listed(dict.fromkeys(named))})" if named else ""
        raise InputError(
            f"cannot read the weights {path}: it holds more than tensors{held}, which would have to be "
            "executed to be read, and is not; ask its owner for a .safetensors file, or for the tensors "
            "alone (the model's state_dict)"
        ) from error


def _is_broken(path: Path) -> bool:
    """Return whether a file is nothing that torch has written: no archive, and no pickle either."""
    if zipfile.is_zipfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(1) != b"\x80"


def _of_arrays(path: Path, model: str) -> State:
    with np.load(path, allow_pickle=False) as stored:
        names = list(stored.files)
        kernel = next((name for name in names if name.endswith("embedding/kernel")), None)
        if kernel is None:
            return {name: torch.from_numpy(np.ascontiguousarray(stored[name])) for name in names}
        if not model:
            raise InputError(f"{path} has Flax's names, which only the model they are of can translate")
        side = stored[kernel].shape[0]
        positions = next((stored[name] for name in names if name.endswith("pos_embedding")), None)
    blocks = {found[1] for name in names if (found := re.search(r"encoderblock_(\d+)/", name))}
    pixels = {} if positions is None else {"img_size": side * int((positions.shape[-2]) ** 0.5)}
    network = timm.create_model(model, num_classes=0, **pixels)
    if blocks and len(blocks) != len(network.blocks):
        raise InputError(
            f"the weights {path} do not fit {model}: {len(blocks)} blocks, not {len(network.blocks)}"
        )
    network.load_pretrained(str(path))
    return dict(network.state_dict())


def _is_full(inner: object) -> bool:
    return isinstance(inner, Mapping) and bool(inner)
