"""A command's options from the fields of a dataclass: each is declared once, for Python and for the shell."""

from __future__ import annotations

import inspect
import re
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vitreg.errors import InputError
from vitreg.wording import type_and_value

T = TypeVar("T")


def attribute_texts(kind: type) -> dict[str, str]:
    """Return what the docstring of a class, or of a base of it, says of each name below `Attributes`."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")[2]
        found |= dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE))
    return {name: " ".join(said.split()) for name, said in found.items()}


def add_fields(
    add: Callable[..., Any],
    kind: type,
    *,
    texts: Mapping[str, str] | None = None,
    metavars: Mapping[str, str] | None = None,
) -> None:
    """Add an option for each field of the dataclass `kind`, by the `add_argument` of a parser or a group.

    The type of a field says what the option takes: several values for a sequence, one of its words for a
    `Literal`, nothing for a bool. An option for several paths is given again for each. An option that is not
    given is not in the namespace.

    Args:
        add: adds an option.
        kind: the dataclass; its docstring has the help of each field below `Attributes`.
        texts: the help of fields, in place of the docstring or beside it.
        metavars: what stands for the value, where it is not the option's name.
    """
    types, said = get_type_hints(kind), attribute_texts(kind) | dict(texts or {})
    for field in fields(kind):
        form, flag = _form(types[field.name]), field.name
        if form.get("action") == "append":
            form["dest"], flag = flag, flag.removesuffix("s")
        if "dest" in form or "nargs" in form:
            form["metavar"] = flag.removesuffix("s").upper()
        if metavars and field.name in metavars:
            form["metavar"] = metavars[field.name]
        help = _help(said[field.name], field.default)
        add(f"--{flag.replace('_', '-')}", default=SUPPRESS, help=help, **form)


def given_options(kind: type[T], namespace: Namespace) -> T:
    """Return the dataclass of the options that were given; the others have their defaults."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in vars(namespace).items() if name in known})


def check_types(options: Any) -> None:
    """Raise `InputError` if a field of the dataclass has a value that its type does not allow."""
    types = get_type_hints(type(options))
    for field in fields(options):
        value, kind = getattr(options, field.name), types[field.name]
        if not _fits(value, kind):
            name = field.name.replace("_", "-")
            raise InputError(f"--{name}: expected {_in_words(kind)}, got {type_and_value(value)}")


def _fits(value: object, annotation: Any) -> bool:
    kind, of = get_origin(annotation), get_args(annotation)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in of)
    if kind is Literal:
        return value in of
    if kind is Sequence:
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, *of) for v in value)
        )
    if annotation in (int, float):  # which number it has to be is looked at elsewhere
        return isinstance(value, Real) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _in_words(annotation: Any) -> str:
    kind, of = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return " or ".join(map(repr, of))
    if kind in (Union, UnionType):
        return " or ".join(map(_in_words, of))
    if kind is Sequence:
        return f"a list of {_in_words(*of)}"
    return "None" if annotation is type(None) else str(annotation.__name__)


def _form(annotation: Any) -> dict[str, Any]:
    """Return what argparse has to know of a field of this type."""
    is_union = get_origin(annotation) in (Union, UnionType)  # X | None takes what X does
    kind = next(one for one in get_args(annotation) if one is not type(None)) if is_union else annotation
    if get_origin(kind) is Sequence:
        (one,) = get_args(kind)
        if issubclass(last := (get_args(one) or (one,))[-1], Path):  # of `str | Path`, too
            return {"action": "append", "type": last}
        return {"nargs": "+", "type": one}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    return {"action": "store_true"} if kind is bool else {"type": kind}


def _help(text: str, default: object) -> str:
    """Return what an option's help says, from the words of a docstring."""
    text = re.sub(r"; None for (.*)$", r" (default: \1)", text.rstrip("."))
    text = re.sub(r"`(\w+)`", lambda name: f"--{name[1].replace('_', '-')}", text)
    if isinstance(default, str) or (isinstance(default, (int, float)) and not isinstance(default, bool)):
        text += f" (default: {default if isinstance(default, str) else format(default, 'g')})"
    return text.replace("%", "%%")
