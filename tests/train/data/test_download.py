"""Archives that are fetched from their owner: whole, checked, or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from official_data import make_pet
from packed import md5, pack, use
from vitreg.errors import InputError
from vitreg.train.data.archives import Archive
from vitreg.train.data.folder import read_folder
from vitreg.train.data.official import download_archives as download
from vitreg.train.data.official.dogs import DOGS
from vitreg.train.data.official.layout import Layout
from vitreg.train.data.official.pet import PET


@pytest.fixture
def served(tmp_path: Path) -> Layout:
    """Pet, served from the disk."""
    made = make_pet(tmp_path / "made")
    (tmp_path / "server").mkdir()
    paths = [pack(made / part, tmp_path / "server" / f"{part}.tar.gz") for part in ("images", "annotations")]
    archives = tuple(Archive(path.name, md5(path), path.as_uri()) for path in paths)
    return dataclasses.replace(PET, archives=archives)


def test_download_fetches_what_is_missing(
    served: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, PET, *served.archives)
    said: list[str] = []
    download(served, tmp_path / "pets", say=said.append)
    download(served, tmp_path / "pets", say=said.append)
    assert len(said) == 2
    assert {path.name for path in (tmp_path / "pets").iterdir()} == {"images.tar.gz", "annotations.tar.gz"}
    assert len(read_folder(tmp_path / "pets", name="Pet").train) == 8


def test_download_that_is_not_whole_is_not_kept(served: Layout, tmp_path: Path) -> None:
    path = tmp_path / "server" / "annotations.tar.gz"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"annotations\.tar\.gz did not arrive whole"):
        download(served, tmp_path / "pets", say=lambda text: None)
    assert [path.name for path in (tmp_path / "pets").iterdir()] == ["images.tar.gz"]


def test_download_from_a_dead_address_says_where_to_look(served: Layout, tmp_path: Path) -> None:
    (tmp_path / "server" / "images.tar.gz").unlink()
    with pytest.raises(InputError, match=r"cannot download .*; fetch it yourself from https://www\.robots"):
        download(served, tmp_path / "pets", say=lambda text: None)
    assert not list((tmp_path / "pets").iterdir())


def test_download_without_a_published_sum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images\.tar, annotation\.tar, lists\.tar of Stanford Dogs cannot"):
        download(DOGS, tmp_path / "dogs", say=lambda text: None)
    assert not (tmp_path / "dogs").exists()
