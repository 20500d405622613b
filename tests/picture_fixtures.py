"""Fixtures of pictures and of weights to fine-tune from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from finetuned import LEARNT, arguments, run
from small_data import MODEL, SIZE, write_index, write_picture


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def write_class_folders(root: Path) -> Path:
    for label, name in enumerate(("auk", "booby", "crow")):
        for split, count in (("train", 4), ("test", 2)):
            for number in range(count):
                write_picture(root / split / name / f"{number}.png", seed=100 * label + number + 10 * count)
    return root


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Three classes with four training and two test pictures each, in ImageFolder's layout."""
    return write_class_folders(tmp_path / "birds")


@pytest.fixture(scope="session")
def fine_tuned(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `vitreg finetune` with LEARNT wrote for the same pictures; tests that change it take `result`."""
    folder = tmp_path_factory.mktemp("fine_tuned")
    data = write_class_folders(folder / "birds")
    assert run(*arguments(data, weights, folder / "out"), *LEARNT) == 0
    return folder / "out"


@pytest.fixture
def result(fine_tuned: Path, tmp_path: Path) -> Path:
    """A copy of it in `out`."""
    return shutil.copytree(fine_tuned, tmp_path / "out")


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Two classes in an index.csv, with a box for each picture and paths relative to `images/`."""
    root = tmp_path / "indexed"
    rows = []
    for label, name in enumerate(("9 lives", "10 lives")):
        for number in range(6):
            write_picture(root / "images" / name / f"{number}.png", seed=50 * label + number)
            split = "train" if number < 4 else "test"
            rows.append([f"{name}/{number}.png", str(label + 9), split, name, "8", "6", "20", "24"])
    write_index(root, rows, ["path", "label", "split", "class", "bbox_x", "bbox_y", "bbox_w", "bbox_h"])
    return root


@pytest.fixture(scope="session")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=7, img_size=SIZE)
    # Larger weights than those of the initialisation, so that attention is not flat.
    return {key: (4 * value if "qkv.weight" in key else value) for key, value in model.state_dict().items()}


@pytest.fixture(scope="session")
def weights(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "source.safetensors"
    save_file(state, path)
    return path
