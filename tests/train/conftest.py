from __future__ import annotations

from pathlib import Path

import pytest

from small_runs import planned, write_pictures
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
