"""A figure as the bytes of a file."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file without date and version: the same runs give the same bytes."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
