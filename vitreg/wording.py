"""How errors are worded: names in a list, the nearest known name, the first line of another's error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def first_line(error: BaseException, *, at_most: int = 200) -> str:
    """Return the kind of an error and the beginning of what it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:at_most]}"
