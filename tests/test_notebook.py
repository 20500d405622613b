"""The notebook runs from the first cell to the last, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebooks" / "finetune.ipynb"


def cells() -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return read


def test_ten_cells_without_stored_outputs() -> None:
    assert len(cells()) == 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells())


@pytest.mark.slow
def test_every_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(timm.create_model("deit_tiny_patch16_224").state_dict(), "random.safetensors")
    names: dict[str, Any] = {}
    codes = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    assert '"timm"' in codes[0]
    codes[0] = codes[0].replace('"timm"', '"random.safetensors"')  # no network in a test
    for code in codes:
        exec(compile(code, str(NOTEBOOK), "exec"), names)
    said = capsys.readouterr().out
    assert "3 classes" in said
    assert "linear probe" in said
    assert names["found"].card.classes == ("ellipse", "line", "rectangle")
    assert len(names["predicted"].paths) == 6
    report = tmp_path / "result" / "report.html"
    assert report.stat().st_size > 10_000
    with Image.open("predicted/attention.png") as picture:
        assert picture.width > 300
