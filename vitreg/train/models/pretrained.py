"""Pre-trained weights by name: of a file, an address, timm, the Hugging Face hub or open_clip."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import hf_hub_download
from timm.data import resolve_model_data_config
from timm.models import load_model_config_from_hf
from torch import Tensor, nn

from vitreg.errors import InputError, import_library
from vitreg.files import check_sums, prepare_out, sha256_of, whole_file, write_atomically
from vitreg.train.basics.download import download
from vitreg.train.models.weights import file_hash, load_model, state_hash
from vitreg.weights import finite, nothing_executed, read_weights
from vitreg.wording import first_line, listed, nearest

FORMS = "a .safetensors, .pth or .npz FILE, timm, hf-hub:OWNER/NAME, open_clip:MODEL/TAG or https://HOST/FILE"
"""What `open_weights` takes."""

State = dict[str, Tensor]
_SUM = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
"""torch.hub's custom: the name ends with the first digits of the file's sha256, eight or more."""


def open_weights(
    text: str, model: str, *, say: Callable[[str], None] = lambda text: None
) -> tuple[State, str]:
    """Return the weights that `text` names for the timm model `model`, for `load_model`, and a fingerprint.

    `text` is one of

    * `timm`: what timm serves for `model`, with its tag (`vit_small_patch16_224.dino`);
    * `hf-hub:OWNER/NAME`: a model in timm's layout on the Hugging Face hub;
    * `open_clip:MODEL/TAG`: the picture tower of an open_clip model (`open_clip:ViT-B-16/laion2b_s34b_b88k`);
    * `https://HOST/FILE`: a file, fetched once; checked where its name ends with its sum, as torch.hub's do;
    * otherwise a file.

    Each is downloaded once, into the cache of its own library. What comes from the hub or open_clip is tried
    on a picture: `model` has to make the same of it. The fingerprint is a file's sha256, also when it was
    fetched from an address; otherwise that of the tensors and their names.

    Raises:
        InputError: `text` is of no such form, cannot be fetched or read, or does not fit `model`.
    """
    kind, _, place = text.partition(":")
    if text == "timm":
        state = _of_timm(model)
    elif kind == "hf-hub":
        state = _of_hub(place, model)
    elif kind == "open_clip":
        state = _of_open_clip(place, model)
    elif "://" in text:
        if urlsplit(text).scheme != "https":
            raise InputError(f"{text}: weights are only fetched from https://; expected {FORMS}")
        path = fetch(text, Path(torch.hub.get_dir(), "checkpoints"))
        return read_weights(path, model=model, say=say), file_hash(path)
    elif not Path(text).exists() or not text:
        is_name = timm.is_model(text.partition(".")[0])
        remedy = f"it is a model of timm: --model {text} --weights timm" if is_name else f"expected {FORMS}"
        raise InputError(f"cannot read the weights {text}: no such file; {remedy}")
    else:
        return read_weights(Path(text), model=model, say=say), file_hash(Path(text))
    return finite(state, text), state_hash(state)


def _of_timm(model: str) -> State:
    if not timm.is_model(model):
        raise InputError(f"timm has no model {model!r}{nearest(model, timm.list_models())}")
    architecture = model.partition(".")[0]
    served = timm.list_pretrained(f"{architecture}.*")
    try:
        settings = timm.get_pretrained_cfg(model)
    except RuntimeError:  # an unknown tag
        settings = None
    if settings is None or not settings.has_weights:
        raise InputError(
            f"timm serves no weights for {model}; for {architecture}: {listed(served) or 'none'}"
        )
    hub = settings.hf_hub_id
    place = f"model.safetensors from https://huggingface.co/{hub}" if hub else f"{settings.url}"
    return _create(model, f"fetch {place} and give the file").state_dict()


def _of_hub(name: str, model: str) -> State:
    advice = f"fetch model.safetensors from https://huggingface.co/{name} and give the file"
    try:
        settings, _, _ = load_model_config_from_hf(name)
    except Exception as error:
        raise InputError(f"cannot get hf-hub:{name}: {first_line(error)}; {advice}") from error
    if settings.get("hf_hub_filename") or settings.get("custom_load"):
        # Some versions of timm run what such a file says, which model.safetensors cannot.
        raise InputError(
            f"hf-hub:{name} names a weights file of its own, expected model.safetensors; {advice}"
        )
    try:
        hf_hub_download(name, "model.safetensors")
    except Exception as error:
        raise InputError(
            f"hf-hub:{name} has no model.safetensors that can be fetched ({first_line(error)}), and nothing "
            "else is read from the hub; give the file of another repository, or of your own"
        ) from error
    served = _create(f"hf-hub:{name}", advice)
    state: State = served.state_dict()
    size = resolve_model_data_config(served)["input_size"][-1]
    _check_same(f"hf-hub:{name}", lambda pictures: _features(served, pictures), state, model, size)
    return state


def _create(name: str, advice: str) -> nn.Module:
    try:
        with nothing_executed():
            return timm.create_model(name, pretrained=True).eval()
    except Exception as error:  # whatever the hub, its network library or the model's configuration raises
        raise InputError(f"cannot get the weights of {name}: {first_line(error)}; {advice}") from error


def _of_open_clip(place: str, model: str) -> State:
    open_clip = import_library("open_clip", "open_clip: needs open_clip; pip install open-clip-torch")
    name, _, tag = place.rpartition("/")
    _check_clip(open_clip, name, tag)
    try:
        with nothing_executed():
            tower = open_clip.create_model(name, pretrained=tag, require_pretrained=True).visual.eval()
    except Exception as error:
        settings = open_clip.get_pretrained_cfg(name, tag)
        hub = settings.get("hf_hub")
        source = f"https://huggingface.co/{hub}" if hub else settings.get("url")
        raise InputError(
            f"cannot get the weights of {place}: {first_line(error)}; fetch them from {source} and give the "
            "file"
        ) from error
    if not isinstance(tower, open_clip.transformer.VisionTransformer):
        raise InputError(
            f"the picture tower of {name} is a {type(tower).__name__}, expected open_clip's own "
            "VisionTransformer; if timm serves it, --weights timm"
        )
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    tower.proj = None  # the projection to what a text is compared with; timm's has none
    _check_same(f"open_clip:{place}", tower, state, model, tower.image_size[-1])
    return state


def _check_clip(open_clip: Any, name: str, tag: str) -> None:
    models = open_clip.list_models()
    if name not in models:
        raise InputError(
            f"open_clip has no model {name!r}{nearest(name, models)}; expected open_clip:MODEL/TAG"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise InputError(f"open_clip has no weights {tag!r} for {name}; it has {listed(tags) or 'none'}")
    trained, built = (
        bool(settings.get("quick_gelu"))
        for settings in (open_clip.get_pretrained_cfg(name, tag), open_clip.get_model_config(name))
    )
    if trained != built:
        other = f"{name}-quickgelu" if trained else name.removesuffix("-quickgelu")
        raise InputError(
            f"open_clip's {tag} was trained {'with' if trained else 'without'} QuickGELU, {name} is built "
            f"{'with' if built else 'without'} it; try open_clip:{other}/{tag}"
        )


def _check_same(what: str, theirs: Callable[[Tensor], Tensor], state: State, model: str, size: int) -> None:
    """Raise `InputError` unless `model` makes of a picture what `theirs` does.

    Names and shapes of tensors say nothing of the activation, the number of heads or the pooling.
    """
    ours = load_model(model, state, num_classes=2, size=size).eval()
    picture = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = theirs(picture), _features(ours, picture)
    if expected.shape != found.shape or (found - expected).abs().max() > 1e-4 * expected.abs().max():
        raise InputError(
            f"{what} computes something else than timm's {model} with the same weights: another activation, "
            f"number of heads or pooling; {_twin(model)}"
        )


def _twin(model: str) -> str:
    """Return the advice to try the model that differs from `model` in its activation, where there is one."""
    twins = (model.replace("_clip_", "_clip_quickgelu_"), model.replace("_clip_quickgelu_", "_clip_"))
    found = [twin for twin in twins if twin != model and timm.is_model(twin)]
    return f"try --model {found[0]}" if found else "name the model that they are of (--model)"


def _features(model: Any, pictures: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(pictures), pre_logits=True)


def fetch(url: str, folder: Path) -> Path:
    """Return the file that `url` serves, kept in `folder`: downloaded once, whole or not at all.

    Owners give the files of several models one name, so a part of the address's sha256 comes before it.

    Raises:
        InputError: It cannot be fetched, arrives short, or is not what the sum in its name says.
    """
    name = Path(urlsplit(url).path).name
    if not name:
        raise InputError(f"{url} names no file; expected https://HOST/FILE")
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:10]}_{name}"
    expected = _SUM.search(name)
    # A date is no sum: one without a letter is too seldom to be refused for.
    start = expected[1] if expected and not expected[1].isdecimal() else ""
    sums = path.with_name(f"{path.name}.sha256")
    if path.is_file():
        try:
            check_sums(sums, [path.name])
            if not sha256_of(path).startswith(start):
                raise ValueError(f"its sha256 does not begin with {start}")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}, fetched from {url} before, is damaged ({error}); delete it, and it is fetched again"
            ) from error
        return path
    prepare_out(folder)
    try:
        with whole_file(path) as file:
            digest = download(url, file)
            if not digest.startswith(start):
                raise InputError(f"{url} did not arrive whole: its sha256 does not begin with {start}")
            # Before the file itself: a kill in between leaves none without its sum.
            write_atomically(sums, f"{digest}  {path.name}\n")
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(
            f"cannot download {url}: {first_line(error)}; nothing was kept; repeat the command, or fetch the "
            "file yourself and give that"
        ) from error
    return path
