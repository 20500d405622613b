"""A model from its name, built without weights: to be described, not to be run."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from vitreg.errors import ArgumentError
from vitreg.wording import near

EXTRAS = {"open_clip": "clip", "transformers": "transformers", "matplotlib": "plot"}
"""Which extra of vitreg installs a library that it does not need itself."""

LISTED = "`vitreg models` lists those that vitreg was tried on."


def build(model: str) -> nn.Module:
    """Return the model that `model` names, on the meta device where it can be built there, else on the CPU.

    Raises:
        ArgumentError: no such model, its library is not installed, or its configuration cannot be read.
    """
    library, colon, name = model.partition(":")
    if not colon:
        return _build_timm(model)
    if library not in _BUILDERS:
        forms = ", ".join(f"{form}:" for form in _BUILDERS)
        raise ArgumentError(
            f"Expected the name of a timm model, or a name behind one of {forms}; found {model!r}. "
            "`vitreg describe --help` shows each form."
        )
    if not name:
        raise ArgumentError(f"Expected the name of a model after {model!r}, found nothing.")
    return _BUILDERS[library](name)


def need(library: str, *, what: str) -> ModuleType:
    """Return a library; raises `ArgumentError`, which says how to install it, if it is not there."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ArgumentError(
            f'{what} needs {library}, which is not installed: pip install "vitreg[{EXTRAS[library]}]", or '
            f'pip install -e ".[{EXTRAS[library]}]" in a clone.'
        ) from None


def check_timm_name(name: str) -> None:
    """Raise `ArgumentError` unless `name` is a model of timm, with or without a tag of weights."""
    import timm

    if name.startswith(("hf-hub:", "local-dir:")):
        return
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = near(architecture, timm.list_models(), otherwise=LISTED)
        if "/" in name:
            hint = (
                f"On the hub it is hf-hub:{name} (timm) or hf:{name} (transformers), "
                f"in a folder local-dir:{name} or hf:{name}."
            )
        raise ArgumentError(f"timm has no model {architecture!r}. {hint}")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        known = f"Its weights are {', '.join(map(repr, tags))}." if tags else "It has none."
        raise ArgumentError(f"timm has no weights {tag!r} of {architecture!r}. {near(tag, tags) or known}")


def first_line(error: BaseException) -> str:
    """Return what an error of another library says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _without_values(make: Callable[[], nn.Module]) -> nn.Module:
    """Return what `make` makes: on the meta device, or on the CPU where that fails."""
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):  # a constructor that looks at values
        return make()


def _build_timm(name: str) -> nn.Module:
    import timm

    check_timm_name(name)
    if ":" not in name:
        return _without_values(lambda: timm.create_model(name))
    return _read_configuration(name, lambda: _without_values(lambda: timm.create_model(name)))


def _build_open_clip(name: str) -> nn.Module:
    open_clip = need("open_clip", what=f"open_clip:{name}")
    if ":" not in name and name not in open_clip.list_models():
        hint = near(name, open_clip.list_models(), otherwise=LISTED)
        raise ArgumentError(f"open_clip has no model {name!r}. {hint}")

    def make() -> nn.Module:
        device = torch.empty(0).device  # open_clip moves the model, to the CPU if not told otherwise
        created: nn.Module = open_clip.create_model(name, load_weights=False, device=device)
        return created

    with _quiet():  # it warns of weights that were not loaded
        return _read_configuration(name, lambda: _without_values(make))


def _build_torchvision(name: str) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models()
    if name.lower() not in known:
        raise ArgumentError(f"torchvision has no model {name!r}. {near(name, known, otherwise=LISTED)}")
    return _without_values(lambda: torchvision.models.get_model(name, weights=None))


def _build_transformers(name: str) -> nn.Module:
    transformers: Any = need("transformers", what=f"hf:{name}")
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise ArgumentError(f"Expected a folder with config.json, found none in {name}.")
    config = _read_configuration(
        name, lambda: transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    )
    return _without_values(lambda: transformers.AutoModel.from_config(config))


def _read_configuration(name: str, read: Callable[[], Any]) -> Any:
    """Return what `read` makes of a file in a folder or on the hub, whatever may be wrong with that file."""
    try:
        return read()
    except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ArgumentError(
            f"Cannot read the configuration of {name}: {first_line(error)}. Expected a folder with "
            "config.json, or ORG/NAME on the Hugging Face hub and a connection to it."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


_BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "hf-hub": lambda name: _build_timm(f"hf-hub:{name}"),
    "local-dir": lambda name: _build_timm(f"local-dir:{name}"),
    "open_clip": _build_open_clip,
    "torchvision": _build_torchvision,
    "hf": _build_transformers,
}
