"""The scripts of the documentation run, offline and at once."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import vitreg

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


def main_of(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(ROOT / "docs" / "examples" / f"{name}.py"))["main"]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_runs(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = runpy.run_path(str(file))["main"]()
    assert hooks(trained[0] if isinstance(trained, tuple) else trained) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 1
    assert float(re.search(r"attn_logits'?:? ([\d.e-]+)", lines[-1])[1]) > 0
    assert len(file.read_text().splitlines()) <= 60


def test_each_is_on_a_page() -> None:
    pages = [page.read_text() for page in sorted((ROOT / "docs" / "howto").glob("*.md"))]
    shown = [
        name for page in pages for name in re.findall(r'^--8<-- "docs/examples/(.*)"$', page, re.MULTILINE)
    ]
    assert sorted(shown) == [file.name for file in EXAMPLES]


def test_accelerate_is_the_loop_by_hand() -> None:
    ours = main_of("accelerate_loop")()
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5)
    images, labels = torch.randn(24, 3, 64, 64), torch.arange(24) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    with vitreg.attach(model, target=["attn_logits", "bss"]) as reg:
        for start in (0, 8, 16) * 2:
            optimizer.zero_grad()
            for i in (start, start + 4):
                loss = F.cross_entropy(model(images[i : i + 4]), labels[i : i + 4]) + reg.penalty()
                (loss / 2).backward()
            optimizer.step()
    for (name, a), b in zip(ours.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_moving_average_follows_the_model() -> None:
    model, average = main_of("timm_script")(epochs=1)
    moved = [
        (a - b).abs().max().item() for a, b in zip(model.parameters(), average.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1e-2
