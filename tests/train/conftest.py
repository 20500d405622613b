from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from checkpointed import Weights, stopped_run, trained
from small_data import write_index, write_picture
from small_runs import count_steps, planned, write_pictures
from vitreg.train.runs.plan import Run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the small runs' pictures."""
    root = tmp_path_factory.mktemp("resume")
    write_pictures(root)
    return root


@pytest.fixture(scope="session")
def pair(data: Path) -> dict[str, Run]:
    """Return the small runs by their method."""
    return {run.configuration.method: run for run in planned(data)}


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: six training pictures of each, eleven test pictures, of which one hides its object."""
    root = tmp_path_factory.mktemp("processes") / "boxed"
    rows = []
    for label, number in itertools.product(range(2), range(12)):
        write_picture(root / f"{label}{number}.png", seed=50 * label + number)
        split = "train" if number < 6 else "test" if number + label < 12 else "none"
        size = (2, 2) if (label, number) == (0, 7) else (20, 20 + number)
        rows.append([f"{label}{number}.png", str(label), split, "1", "1", *map(str, size)])
    write_index(root, rows, ["path", "label", "split", "bbox_x", "bbox_y", "bbox_w", "bbox_h"])
    return root


@pytest.fixture(scope="session")
def unbroken(pair: dict[str, Run]) -> dict[str, tuple[Weights, list[dict[str, float]]]]:
    return {method: trained(run, None)[:2] for method, run in pair.items()}


@pytest.fixture(scope="session")
def half(pair: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        count_steps(patch)
        return stopped_run(pair["GTA"], tmp_path_factory.mktemp("half")).read_bytes()
