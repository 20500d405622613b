"""The code of the gallery draws its pictures, and each picture of the page is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import _gallery
import _hooks

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_picture_is_drawn_by_the_code_above_it(tmp_path: Path) -> None:
    names = _gallery.page_names(tmp_path, steps=1, seeds=1, is_quick=True)
    page = _gallery.PAGE.read_text(encoding="utf-8")
    blocks = list(_gallery.BLOCK.finditer(page))
    assert len(blocks) == page.count("```python") == 8
    for block in blocks:
        names.pop("figure", None)
        exec(block["code"], names)
        assert isinstance(names["figure"], Figure)
        names["figure"].canvas.draw()
    pictures = re.findall(r"!\[[^\]]+\]\((assets/gallery-[\w-]+)\.png#both\)", page)
    assert len(pictures) == len(blocks)
    both = _hooks.on_page_markdown(page)
    assert re.findall(r"\((assets/gallery-[\w-]+)-dark\.png#only-dark\)", both) == pictures
    assert re.findall(r"\((assets/gallery-[\w-]+)\.png#only-light\)", both) == pictures
    kept = {f"assets/{path.name}" for path in (ROOT / "docs" / "assets").glob("gallery-*.png")}
    assert kept == {f"{name}{mode}.png" for name in pictures for mode in ("", "-dark")}
