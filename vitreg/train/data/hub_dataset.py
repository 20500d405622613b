"""Data sets of the Hugging Face hub, written once as a folder that `read_folder` reads.

Where an owner no longer serves a data set, a copy there may still be had: `hf:OWNER/DATASET`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from vitreg.errors import InputError, import_library
from vitreg.files import make_folder_once, write_atomically
from vitreg.pictures.reading import format_of
from vitreg.train.basics.tables import csv_text
from vitreg.wording import listed

PREFIX = "hf:"
_CHOICES = ("label", "image", "config", "revision")


@dataclass(frozen=True)
class HubData:
    """A data set of the hub, and what has to be chosen where it offers several."""

    name: str
    label: str | None = None
    image: str | None = None
    config: str | None = None
    revision: str | None = None

    @property
    def folder(self) -> str:
        """The name of its folder: readable, and different for each choice."""
        digest = hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:10]
        return f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', self.name)}-{digest}"


def parse_hub_data(text: str) -> HubData:
    """Return what `hf:OWNER/DATASET?label=COLUMN` names.

    After the `?`, joined by `&`: `label` and `image`, names of columns; `config`, a part of the data set that
    has several; `revision`, a state of it.

    Raises:
        InputError: It is not of that form.
    """
    name, _, query = text.removeprefix(PREFIX).partition("?")
    choices = parse_qsl(query, keep_blank_values=True)
    chosen = dict(choices)
    well_formed = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and len(chosen) == len(choices) == query.count("=")
    if not well_formed or set(chosen) - set(_CHOICES) or "" in chosen.values():
        raise InputError(
            f"{text}: expected hf:OWNER/DATASET, and what is chosen of it as ?label=COLUMN&config=NAME "
            f"({', '.join(_CHOICES)})"
        )
    return HubData(name, **chosen)


def hub_folder(data: HubData, cache: Path, *, say: Callable[[str], None] = lambda text: None) -> Path:
    """Return the folder in `cache` with the pictures of `data` and an index.csv, fetched and written once.

    Pictures are kept byte for byte. Whatever happens meanwhile, the folder holds all of them or is not there;
    of several processes, one writes and the others wait for it. The test split is `test`, or `validation`
    where there is none or its labels are withheld.

    Raises:
        InputError: The library `datasets` is missing, the data set cannot be fetched, its columns or splits
            are not those of a classification, or it cannot be written.
    """
    place = cache / data.folder

    def fill(part: Path) -> None:
        say(f"fetching {data.name} from the Hugging Face hub (once)")
        _write(data, _fetch(data), part)

    try:
        return make_folder_once(place, fill)
    except OSError as error:
        raise InputError(f"cannot write {data.name} into {place}: {error}") from error


def _library() -> Any:
    otherwise = "data of the Hugging Face hub (hf:) need the library datasets; pip install datasets"
    return import_library("datasets", otherwise)


def _fetch(data: HubData) -> Any:
    library = _library()
    try:
        return library.load_dataset(data.name, data.config, revision=data.revision)
    except Exception as error:  # whatever the library, the network or the files lead it to
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"cannot get {data.name} from the Hugging Face hub: {reason}; or fetch it from "
            f"https://huggingface.co/datasets/{data.name} and give a folder with train/CLASS and test/CLASS"
        ) from error


def _write(data: HubData, splits: Any, part: Path) -> None:
    if "train" not in splits:
        raise InputError(
            f"{data.name} has the splits {listed(splits)}; expected train, and test or validation"
        )
    features = splits["train"].features
    image = _column(data, features, _library().Image, "image", data.image)
    label = _column(data, features, _library().ClassLabel, "label", data.label)
    test = next((name for name in ("test", "validation") if _is_labelled(splits, name, label)), None)
    if test is None:
        raise InputError(
            f"{data.name} has no test pictures with labels: its splits are {listed(splits)}; expected train, "
            "and test or validation"
        )
    if splits[test].features[label] != features[label]:
        raise InputError(f"{data.name}: the classes of {test} are not those of train")
    names = features[label].names
    index = [["path", "label", "class", "split"]]
    for split, source in (("train", "train"), ("test", test)):
        (part / split).mkdir()
        rows = (
            splits[source].select_columns([image, label]).cast_column(image, _library().Image(decode=False))
        )
        for number, row in enumerate(rows):
            where = f"{data.name}, {source} picture {number}"
            content, ending = _content(row[image], where)
            if not 0 <= (row[label] if row[label] is not None else -1) < len(names):
                raise InputError(f"{where} has no label")
            path = f"{split}/{number:06}.{ending}"
            (part / path).write_bytes(content)
            index.append([path, str(row[label]), names[row[label]], split])
    write_atomically(part / "index.csv", csv_text(index))


def _column(data: HubData, features: Any, kind: type, what: str, chosen: str | None) -> str:
    """Return the name of the one column of type `kind`, or of the chosen one."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if chosen is not None and chosen not in found:
        raise InputError(
            f"{data.name} has no {what} column {chosen!r}: {listed(found) or 'none'} of {listed(features)} "
            f"{'is a' if len(found) == 1 else 'are of type'} {kind.__name__}"
        )
    if chosen is None and len(found) != 1:
        remedy = f"choose one: hf:{data.name}?{what}={found[0]}" if found else f"it has {listed(features)}"
        raise InputError(
            f"{data.name} has {len(found)} {what} columns ({listed(found)}), expected one of type "
            f"{kind.__name__}; {remedy}"
        )
    return chosen or found[0]


def _is_labelled(splits: Any, name: str, label: str) -> bool:
    return (
        name in splits
        and label in splits[name].features
        and any(value is not None and value >= 0 for value in splits[name][label])
    )


def _content(picture: dict[str, Any] | None, where: str) -> tuple[bytes, str]:
    """Return a picture, and the ending of its file: what it is, whatever it was called."""
    if picture is None:
        raise InputError(f"{where} is missing")
    try:
        content = Path(picture["path"]).read_bytes() if picture["bytes"] is None else bytes(picture["bytes"])
        return content, format_of(content).lower()
    except OSError as error:
        raise InputError(f"{where}: cannot read {picture['path']}: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
