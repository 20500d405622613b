"""Without the libraries of the extra `train` one sentence says how to install them."""

from __future__ import annotations

import pytest

import vitreg.train
from vitreg.cli import main
from vitreg.errors import MissingLibraryError

SAID = 'vitreg.train needs accelerate, which is not installed: pip install "vitreg[train]"'


@pytest.fixture
def _without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: str) -> None:
        raise ModuleNotFoundError("No module named 'accelerate.utils'", name="accelerate.utils")

    monkeypatch.setattr(vitreg.train, "import_module", refuse)
    for name in vitreg.train.__all__:  # what earlier tests have loaded
        monkeypatch.delitem(vars(vitreg.train), name, raising=False)


@pytest.mark.usefixtures("_without_accelerate")
@pytest.mark.parametrize("line", ["finetune photos", "finetune --help", "predict result new"])
def test_a_command_says_what_to_install(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert capsys.readouterr().err == f"error: {SAID}\n"


@pytest.mark.usefixtures("_without_accelerate")
def test_an_import_says_what_to_install() -> None:
    with pytest.raises(ImportError, match="which is not installed") as caught:
        from vitreg.train import finetune  # noqa: F401
    assert isinstance(caught.value, MissingLibraryError)
    assert str(caught.value) == SAID


def test_names_of_the_trainer() -> None:
    assert dir(vitreg.train) == sorted(vitreg.train.__all__)
    assert set(vitreg.train.__all__) == {n for names in vitreg.train._PLACES.values() for n in names}
    for name in vitreg.train.__all__:
        assert getattr(vitreg.train, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        vitreg.train.fine_tune  # noqa: B018
