"""How errors are worded and names are written: lists, near names, and names that cannot do anything."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys, that end a line, or that turn the order of the letters around."""
_MARKDOWN = re.compile(r"[\\`*\[\]|~<>&]|(?<!\w)_|_(?!\w)")
_IN_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name closest to `name`, or nothing."""
    options = {option.lower(): option for option in known}
    found = difflib.get_close_matches(name.lower(), list(options), n=1, cutoff=0.4)
    return f"; did you mean {options[found[0]]}?" if found else ""


def listed(names: Iterable[str], *, at_most: int = 5) -> str:
    """Return the names joined by commas, the end of a long list as a count."""
    items = list(names)
    rest = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return ", ".join(items[:at_most]) + rest


def type_and_value(value: object) -> str:
    """Return the type of what was given, and the beginning of its value: `str ('x')`."""
    return f"{type(value).__name__} ({reprlib.repr(value)})"


def first_line(error: BaseException, *, at_most: int = 200) -> str:
    """Return the kind of an error and the beginning of what it says."""
    line = (str(error).strip().splitlines() or [""])[0][:at_most]
    # torch advises to execute the file where it cannot be read otherwise.
    return type(error).__name__ if "weights_only" in line else f"{type(error).__name__}: {plain(line)}"


def plain(name: str) -> str:
    """Return a name with `\\x…` in place of what is no text: control characters, bytes that are not UTF-8."""
    name = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], name)
    return re.sub(r"[\ud800-\udfff]", lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", name)


def plain_lines(text: str) -> str:
    """Return a text with each of its lines as `plain` returns it."""
    return "\n".join(map(plain, text.split("\n")))


def cell(name: str) -> str:
    """Return a name as the cell of a CSV, with an apostrophe where a spreadsheet would compute a formula."""
    name = plain(name)
    return f"'{name}" if name.lstrip()[:1] in ("=", "+", "-", "@") else name


def in_markdown(name: str) -> str:
    """Return a name as text of Markdown, in which nothing of it is a link, a picture or HTML."""
    return _MARKDOWN.sub(lambda found: _IN_HTML.get(found[0], f"\\{found[0]}"), plain(name))


def harmless_markdown(text: str) -> str:
    """Return a sentence for Markdown, with names somewhere in it, without links, pictures and HTML."""
    return plain(text.replace("](", "]\\(").replace("<", "&lt;"))


def near(name: str, known: Iterable[str], *, otherwise: str = "", at_most: int = 3) -> str:
    """Return a sentence with `at_most` of `known` that are nearest to `name`, or `otherwise`.

    Upper and lower case count as the same. Names that begin with `name` come first.
    """
    written = {k.lower(): k for k in sorted(known, reverse=True)}
    name = name.lower()
    begun = sorted((k for k in written if name and k.startswith(name)), key=len)
    # A single one may lie further away: nothing worse is named beside it.
    close = difflib.get_close_matches(name, list(written), n=3, cutoff=0.5 if at_most == 1 else 0.6)
    found = list(dict.fromkeys([*begun, *close]))[:at_most]
    if not found:
        return otherwise
    quoted = [repr(written[k]) for k in found]
    return f"Did you mean {' or '.join(filter(None, [', '.join(quoted[:-1]), quoted[-1]]))}?"
