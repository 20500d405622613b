"""What a file of weights holds, whatever kind of file it is, and what a file is that is none.

What a file is, is told from its first bytes and not from its name. Nothing in it is executed.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitreg.errors import InputError
from vitreg.wording import first_line, listed

_PASSED_OVER = (
    *("argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict"),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("int", "float", "list", "dict")
    ),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
"""Objects that trainers keep beside the weights: they are read as `_Unread`, which does nothing."""

_PART = re.compile(r"-\d+-of-(?!0*1\D)\d+\.\w+$|\.index\.json$")
"""What the names of the parts of a model end with, and that of their list."""


def content_of(path: Path, model: str) -> Any:
    """Return what a file of weights of the timm model `model` holds: tensors by name, or a checkpoint.

    Raises:
        InputError: It cannot be read without executing it.
    """
    if path.is_dir():
        raise InputError(f"cannot read the weights {path}: {_folder(path)}")
    if path.exists() and not path.is_file():  # which would be waited for
        raise InputError(f"cannot read the weights {path}: expected a file, found a pipe or a device")
    if _PART.search(path.name):
        raise InputError(f"cannot read the weights {path}: {_IN_PARTS}")
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
        if "Object arrays" in str(error):  # numpy advises to execute them
            raise InputError(_executable(path)) from error
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
    if path.suffix.lower() == ".npz":
        return "npz"
    if beginning.startswith(b"\x80"):  # how a pickle begins, which torch wrote before it wrote archives
        return "torch"
    what = next(
        (what for start, what in _BEGINNINGS.items() if beginning.startswith(start)), "something else"
    )
    return f"expected a .safetensors, .npz or torch file, found {what}; ask its owner for a .safetensors file"


_BEGINNINGS = {
    b"\x89HDF": "a file of Keras or TensorFlow",
    b"GGUF": "a GGUF file",
    b"\x08": "what may be an ONNX file",
    b"\x1f\x8b": "a compressed file, which has to be unpacked first",
}
"""What a file that is none of weights begins with, and what it is then."""


_IN_PARTS = (
    "expected a single file, found a model in parts; put them together: load each part by "
    "safetensors.torch.load_file, and save all tensors by save_file"
)


def _folder(path: Path) -> str:
    files = {entry.name for entry in path.iterdir()}
    whole = next((name for name in ("model.safetensors", "pytorch_model.bin") if name in files), None)
    if "config.json" in files and '"model_type"' in (path / "config.json").read_text(errors="replace"):
        return (
            "it is a folder of transformers, expected a file of timm's; give the weights that timm serves "
            "(--weights timm or hf-hub:OWNER/NAME), or train the transformers model itself with vitreg.attach"
        )
    if any(map(_PART.search, files)):
        return _IN_PARTS
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
    known: list[Any] = [(_Unread, name) for name in _PASSED_OVER]
    if zipfile.is_zipfile(path):
        check_archive(path)
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = re.findall(r"GLOBAL ([\w.]+)", str(error))
        is_code = named or "torchscript" in str(error).lower() or "weights_only" in str(error)
        if not is_code or _is_broken(path):
            raise
        held = f" ({listed(dict.fromkeys(named))})" if named else ""
        raise InputError(_executable(path, held)) from error


def _executable(path: Path, held: str = "") -> str:
    return (
        f"cannot read the weights {path}: it holds more than tensors{held}, which would have to be executed "
        "to be read, and is not; ask its owner for a .safetensors file, or for the tensors alone (the "
        "model's state_dict)"
    )


def check_archive(path: Path) -> None:
    """Compare the content of an archive of torch with the checksums in it, at which torch does not look.

    Raises:
        BadZipFile: It is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.CRC:  # torch can be told to leave them out, and writes 0
                with archive.open(entry) as file:
                    while file.read(2**20):
                        pass


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Have torch read nothing but tensors inside the block, whatever a library asks it for.

    timm before its version 1.0.26 executes files from folders.
    """
    forced, freed = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (forced, freed)}
    os.environ[forced] = "1"
    try:
        yield
    finally:
        os.environ.pop(forced)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _is_broken(path: Path) -> bool:
    """Return whether a file is nothing that torch has written: no archive, and no pickle either."""
    if zipfile.is_zipfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(1) != b"\x80"


def _of_arrays(path: Path, model: str) -> dict[str, Tensor]:
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
