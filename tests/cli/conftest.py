from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import NamedTuple

import pytest

from vitreg.cli import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the width away that whoever runs the tests may have set."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `vitreg LINE` and returns how it ended; a list is taken word by word."""

    def ended(line: str | list[str]) -> Ended:
        capsys.readouterr()
        code = main(shlex.split(line) if isinstance(line, str) else line)
        return Ended(code, *capsys.readouterr())

    return ended


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Return a function that runs a command, which has to be refused, and returns its one message."""

    def message(line: str | list[str]) -> str:
        code, out, err = run(line)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert "Traceback" not in err
        return err

    return message
