from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from engine.demo import supervised as demo
from engine.demo import world
from engine.demo.dataset import SETTINGS, Drawn, drawn_start, drawn_task
from engine.experiment.job import Table
from engine.presets import GUIDED
from engine.scripts.console import table_script
from vitreg.weights import read_weights


@pytest.fixture
def _short_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "source_checkpoint", partial(demo.source_checkpoint, steps=1))


def test_task_is_the_drawn_world() -> None:
    task = drawn_task()
    train, test = (world.draw_target(split, seed=0) for split in ("train", "test"))
    assert isinstance(task.train, Drawn)
    assert torch.equal(task.train.picture(5, seed=1), train.images[5])
    assert torch.equal(task.train.mask(5, seed=1), train.masks[5])
    assert task.outlined == set(range(len(train.labels)))
    assert task.train_labels == tuple(train.labels.tolist())
    assert torch.equal(task.test, test.images)
    assert task.test_masks is not None
    assert torch.equal(task.test_masks, test.masks)
    assert task.fingerprint == drawn_task().fingerprint


def test_every_guide_has_its_lam() -> None:
    assert set(SETTINGS.lams) == set(GUIDED)
    assert len(SETTINGS.seeds) >= 3


@pytest.mark.usefixtures("_short_pretraining")
def test_start_is_the_source_with_a_new_head(tmp_path: Path) -> None:
    start = drawn_start(tmp_path, on_step=lambda done, total: None)
    stored = read_weights(next(tmp_path.glob("*.safetensors")))
    model = start.create(3, 0.0)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[key]) != key.startswith("head.")
    torch.manual_seed(4)
    assert start.create(3, 0.0).state_dict()["head.weight"].shape[0] == 3


@pytest.mark.slow
@pytest.mark.usefixtures("_short_pretraining")
def test_demo_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--steps", "1", "--seeds", "0", "--rates", "0.15", "--device", "cpu"]
    methods = ("fine-tune", "GTA")
    few += ["--out", str(tmp_path / "out")]
    assert table_script(Table("table3", methods=methods), "")(few) == 0
    for text in (capsys.readouterr().out, (tmp_path / "out" / "table3.md").read_text()):
        assert "drawn pictures of a small world, not the paper's data sets" in text
        assert "compare the gains" in text
    assert list((tmp_path / "cache").glob("*.safetensors"))
