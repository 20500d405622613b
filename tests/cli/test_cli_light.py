"""What needs no model answers without loading torch, and a name of vitreg is loaded when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "numpy", "accelerate", "rich", "matplotlib")


def loaded_after(program: str) -> list[str]:
    """Return which heavy libraries a fresh Python has loaded after `program`."""
    end = f"import sys; print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", f"{program}\n{end}"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.split()


@pytest.mark.parametrize(
    "line", ["", "--help", "--version", "models dinov2", "models --help", "describe --help"]
)
def test_torch_is_not_loaded_for(line: str) -> None:
    program = (
        "from vitreg.cli import main\n"
        f"try:\n    code = main({line.split()!r})\nexcept SystemExit as ended:\n    code = ended.code\n"
        "assert code == 0, code"
    )
    assert loaded_after(program) == []


def test_importing_vitreg_loads_nothing_until_a_name_is_asked_for() -> None:
    assert loaded_after("import vitreg; dir(vitreg); vitreg.VitregError") == []
    assert loaded_after("import numpy") == ["numpy"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    import vitreg

    with pytest.raises(AttributeError, match="has no attribute 'atach'"):
        vitreg.atach  # noqa: B018
