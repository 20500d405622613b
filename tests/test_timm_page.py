"""The lines that the page on timm's train.py names are all that a script of that shape needs."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import vitreg

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "frameworks.md"

SCRIPT = """
import timm, torch

def main():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    return train_one_epoch(0, model, task_of(model), model_ema=None)

def task_of(model):
    return lambda input, target: {"loss": torch.nn.functional.cross_entropy(model(input), target)}

def train_one_epoch(epoch, model, task, model_ema=None):
    model.train()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1
    result = task(torch.ones(2, 3, 32, 32), torch.tensor([0, 1]))
    _loss = result["loss"]
    return _loss
"""
"""A script of the shape of timm's train.py: the model is made in one function, and the loss in another."""


def lines_of_the_page() -> dict[str, str]:
    """Return the code of each numbered point."""
    section = PAGE.read_text().partition("### In timm's own train.py")[2].partition("\nWhat to know:")[0]
    assert section.strip().startswith("Five lines")
    points = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    codes = [re.findall(r"`([^`]+)`", point) for point in points]
    return dict(
        zip(
            ("import", "attach", "call", "signature", "loss"),
            [codes[0][0], codes[1][-1], codes[2][-1], codes[3][-1], codes[4][-1]],
            strict=True,
        )
    )


def run(script: str) -> torch.Tensor:
    space: dict[str, Any] = {}
    exec(compile(script, "train.py", "exec"), space)
    return space["main"]()


def test_five_lines() -> None:
    lines = lines_of_the_page()
    script = SCRIPT.replace("import timm", f"{lines['import']}, timm")
    script = script.replace("    return train_one", f"    {lines['attach']}\n    return train_one")
    script = script.replace("model_ema=None)\n\ndef task", f"model_ema=None, {lines['call']})\n\ndef task")
    script = script.replace("model_ema=None):", f"model_ema=None, {lines['signature']}):")
    script = script.replace('_loss = result["loss"]', lines["loss"])

    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    model = copy.deepcopy(source)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1
    read = []
    for module in (model, source):
        with vitreg.trace(module, "attn_logits") as trace:
            module(torch.ones(2, 3, 32, 32))
            read.append(trace["attn_logits"][0].detach().double())
    lam = float(re.findall(r"lam=([\d.]+)", lines["attach"])[0])
    expected = lam * (read[0] - read[1]).square().mean().item()
    assert expected > 0
    assert (run(script) - run(SCRIPT)).item() == pytest.approx(expected, rel=1e-3)
