"""Own penalties, rows and models, brought into tables and fine-tunings by a file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import table3
import vitreg
from small_data import SIZE
from vitreg.cli import main as vitreg_command
from vitreg.errors import InputError
from vitreg.families.registries import towers
from vitreg.penalties.base import penalties
from vitreg.train import register_method
from vitreg.train.models.start import photographed_start
from vitreg.train.models.weights import empty_model
from vitreg.train.training import methods, plugins
from vitreg.train.training.formulas import formula
from vitreg.train.training.plugins import load_plugins

PENALTY = '''
from dataclasses import dataclass

import torch

import vitreg
from vitreg.train import register_method


@vitreg.register_penalty("my_entropy")
@dataclass(frozen=True, kw_only=True)
class MyEntropy(vitreg.ReadingPenalty):
    """Keep the entropy of the attention near the source's."""

    @property
    def extractor(self):
        return "attn_probs"

    def value(self, target, source):
        entropies = [[-(a * a.clamp(min=1e-9).log()).sum(-1) for a in rows] for rows in (target, source)]
        return sum((a - b).square().mean() for a, b in zip(*entropies)) / len(target)


register_method("MyEntropy", lambda lam: MyEntropy(lam=lam), grid=(1.0,))
'''

MODEL = """
import torch
from timm.models import register_model
from timm.models.vision_transformer import Block
from torch import nn

import vitreg


class MyViT(nn.Module):
    def __init__(self, num_classes, img_size):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.first = nn.Parameter(torch.zeros(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 1 + (img_size // 8) ** 2, 16))
        self.layers = nn.ModuleList(Block(16, 2, qkv_bias=True) for _ in range(2))
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        return self.classifier(tokens[:, 0])


@vitreg.register_tower(MyViT)
def my_tower(module):
    return vitreg.TowerParts(
        stem=module.stem,
        blocks=[vitreg.BlockParts(block=b, attention=b.attn, ffn=b.mlp) for b in module.layers],
        heads=("classifier",),
        num_prefix_tokens=1,
        has_class_token=True,
        grid=None,
        patch_size=(8, 8),
        width=16,
    )


@register_model
def my_vit(pretrained=False, num_classes=1000, img_size=32, **_):
    return MyViT(num_classes, img_size)
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what a test has registered."""
    known = (methods.METHODS, methods._PLAIN, penalties._entries, towers._entries)
    before = [dict(entries) for entries in known]
    monkeypatch.setattr(plugins, "_loaded", set())
    yield
    for entries, kept in zip(known, before, strict=True):
        entries.clear()
        entries.update(kept)  # type: ignore[arg-type]
    for name in [name for name in sys.modules if name.startswith("vitreg_plugin_")]:
        del sys.modules[name]
    timm.models._registry._model_entrypoints.pop("my_vit", None)


def written(tmp_path: Path, text: str, name: str = "mine") -> Path:
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_table_compares_an_own_penalty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin, out = written(tmp_path, PENALTY), tmp_path / "out"
    given = ["--plugin", str(plugin), "--methods", "MyEntropy", "GTA", "--quick", "--out", str(out)]
    assert table3.main(given) == 0, capsys.readouterr().err
    assert "MyEntropy" in (out / "table3.csv").read_text()
    [report] = out.glob("demo_MyEntropy*/report.json")
    stored = json.loads(report.read_text())
    assert re.fullmatch(r"plugin [0-9a-f]{16}", stored["configuration"]["formula"])
    assert stored["log"][-1]["my_entropy"] > 0


def test_another_file_is_another_run(tmp_path: Path) -> None:
    load_plugins([written(tmp_path, PENALTY)])
    assert {"MyEntropy", "MyEntropy+TransMix", "LP-FT+MyEntropy"} <= set(methods.METHODS)
    before = formula("MyEntropy")
    assert formula("GTA") == ""
    for name in [name for name in methods.METHODS if "MyEntropy" in name]:
        del methods.METHODS[name]
    penalties._entries.pop("my_entropy")
    load_plugins([written(tmp_path, f"{PENALTY}# changed\n", "changed")])
    assert formula("MyEntropy") != before


def test_a_plugin_is_loaded_once(tmp_path: Path) -> None:
    path = written(tmp_path, PENALTY)
    load_plugins([path, path])
    load_plugins([str(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "cannot be used: ZeroDivisionError: division by zero"),
        ("import vitreg.train as t\nt.register_method('GTA')", "expected a new name"),
        (
            "import vitreg.train as t\nt.register_method('a', float)",
            "a: expected a penalty from target.* found float",
        ),
        (None, "expected a Python file, found no such file"),
    ],
)
def test_a_plugin_that_fails_says_so(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "none.py" if text is None else written(tmp_path, text)
    with pytest.raises(InputError, match=message):
        load_plugins([path])


def test_an_installed_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, PENALTY, "installed_plugin")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("mine", "installed_plugin", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == plugins.GROUP else [])
    load_plugins()
    assert formula("MyEntropy").startswith("plugin ")
    sys.modules.pop("installed_plugin")


def test_a_row_that_is_registered_without_a_file_has_its_own_formula() -> None:
    register_method("far", lambda lam: vitreg.GTA(lam=lam, reduction="sum_layers", layers=[0]))
    assert formula("far")
    assert formula("far") != formula("GTA")


def test_what_a_tower_says_of_an_own_model_counts(tmp_path: Path) -> None:
    load_plugins([written(tmp_path, MODEL)])
    model = empty_model("my_vit", num_classes=3, size=SIZE)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    start = photographed_start(str(tmp_path / "weights.safetensors"), "my_vit", size=SIZE)
    created = start.create(5, 0.0)
    assert created.classifier.out_features == 5  # type: ignore[union-attr]
    assert torch.equal(created.places, model.places)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--size 20 is not a multiple of my_vit's patches of 8 pixels"):
        empty_model("my_vit", num_classes=3, size=20)


def test_the_code_of_an_own_model_is_a_part_of_the_runs_identity(tmp_path: Path) -> None:
    path = written(tmp_path, MODEL)
    load_plugins([path])
    weights = tmp_path / "weights.safetensors"
    save_file(empty_model("my_vit", num_classes=3, size=SIZE).state_dict(), weights)

    def fingerprint(name: str) -> str:
        return photographed_start(str(weights), name, size=SIZE).fingerprint

    before = fingerprint("my_vit")
    assert fingerprint("my_vit") == before
    path.write_text(f"{MODEL}# changed\n")
    assert fingerprint("my_vit") != before


@pytest.mark.slow
def test_an_own_model_is_fine_tuned_and_predicts(
    class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = written(tmp_path, MODEL)
    load_plugins([plugin])
    weights, out = tmp_path / "weights.safetensors", tmp_path / "out"
    save_file(empty_model("my_vit", num_classes=3, size=SIZE).state_dict(), weights)
    given = ["--plugin", str(plugin), "--model", "my_vit", "--size", str(SIZE), "--steps", "2"]
    finetune = ["finetune", str(class_folders), "--weights", str(weights), "--out", str(out), *given]
    assert vitreg_command(finetune) == 0, capsys.readouterr().err
    predict = ["predict", str(out), str(class_folders / "test"), "--out", str(tmp_path / "predicted")]
    assert vitreg_command([*predict, "--plugin", str(plugin)]) == 0, capsys.readouterr().err
    timm.models._registry._model_entrypoints.pop("my_vit")
    assert vitreg_command(predict) == 2
    assert "add its --plugin FILE.py" in capsys.readouterr().err
