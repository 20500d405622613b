"""A penalty is five files: its own, its public name, its test, its card, its row in the trainer's tables."""

from __future__ import annotations

from pathlib import Path

import pytest

import vitreg
from _macros.methods import CARDS
from vitreg.penalties import penalties
from vitreg.train.training.methods import METHODS

ROOT = Path(__file__).parents[2]


def missing_files(name: str) -> list[str]:
    """Return which of the five files do not know the penalty that is registered as `name`."""
    kind = penalties[name] if name in penalties else None  # noqa: SIM401 - a registry has no get
    called = kind.__name__ if kind else name
    built = [method.target(1.0) for method in METHODS.values() if method.target is not None]
    card = CARDS.get(name.replace("_", "-"))
    there = {
        f"vitreg/penalties/{name}.py": kind is not None,
        "vitreg/__init__.py": called in vitreg.__all__,
        f"tests/penalties/test_{name}.py": (ROOT / "tests" / "penalties" / f"test_{name}.py").is_file(),
        f"docs/methods/{name.replace('_', '-')}.md": card is not None and card.thing is kind,
        "vitreg/train/training/methods.py": any(type(target) is kind for target in built),
    }
    return [file for file, is_there in there.items() if not is_there]


@pytest.mark.parametrize("name", vitreg.list_penalties())
def test_a_penalty_has_its_five_files(name: str) -> None:
    assert missing_files(name) == []


def test_what_is_missing_is_named() -> None:
    assert missing_files("nobodys_penalty") == [
        "vitreg/penalties/nobodys_penalty.py",
        "vitreg/__init__.py",
        "tests/penalties/test_nobodys_penalty.py",
        "docs/methods/nobodys-penalty.md",
        "vitreg/train/training/methods.py",
    ]
