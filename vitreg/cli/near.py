"""Names that are near to one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return a sentence with up to three of `known` that are nearest to `name`, or `otherwise`.

    Upper and lower case count as the same. Names that begin with `name` come first.
    """
    written = {k.lower(): k for k in sorted(known, reverse=True)}
    name = name.lower()
    begun = sorted((k for k in written if name and k.startswith(name)), key=len)
    found = list(dict.fromkeys([*begun, *difflib.get_close_matches(name, list(written), n=3, cutoff=0.6)]))[
        :3
    ]
    if not found:
        return otherwise
    quoted = [repr(written[k]) for k in found]
    return f"Did you mean {' or '.join(filter(None, [', '.join(quoted[:-1]), quoted[-1]]))}?"
