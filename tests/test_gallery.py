"""The code of the gallery draws its pictures, and each picture of the page is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import _gallery

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_picture_is_drawn_by_the_code_above_it(tmp_path: Path) -> None:
    names = _gallery.given(tmp_path, pre_training=1, steps=1, seeds=1)
    page = _gallery.PAGE.read_text(encoding="utf-8")
    blocks = list(_gallery.BLOCK.finditer(page))
    assert len(blocks) == page.count("```python") == 9
    for block in blocks:
        names.pop("figure", None)
        exec(block["code"], names)
        assert isinstance(names["figure"], Figure)
        names["figure"].canvas.draw()
    pictures = re.findall(r"!\[([^\]]+)\]\((assets/gallery-[\w-]+\.png)#only-(light|dark)\)", page)
    for (alt, light, is_light), (dark_alt, dark, is_dark) in zip(pictures[::2], pictures[1::2], strict=True):
        assert (is_light, is_dark) == ("light", "dark")
        assert alt == dark_alt
        assert dark == light.replace(".png", "-dark.png")
    kept = {f"assets/{path.name}" for path in (ROOT / "docs" / "assets").glob("gallery-*.png")}
    assert kept == {file for _, file, _ in pictures}
