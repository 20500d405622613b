"""Data sets of the hub, read by its own library from folders that are laid out as the hub lays them out."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from small_data import write_picture
from vitreg.errors import InputError
from vitreg.train.data.folder import data_root, read_folder
from vitreg.train.data.hub_dataset import HubData, hub_folder, parse_hub_data

NAME = "someone/birds"
Row = dict[str, object]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The library, which takes a name for a folder where there is one; its caches are this test's."""
    datasets = pytest.importorskip("datasets", reason="an optional library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")
    datasets.disable_progress_bars()
    return datasets


def jpeg(seed: int) -> dict[str, object]:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return {"bytes": content.getvalue(), "path": f"{seed}.png"}  # a name that is not to be believed


def store(
    library: ModuleType, splits: dict[str, list[Row]], *, config: str = "data", **features: object
) -> None:
    known = {"image": library.Image(), "label": library.ClassLabel(names=["auk", "booby"]), **features}
    for split, rows in splits.items():
        columns = {key: [row.get(key) for row in rows] for key in known}
        made = library.Dataset.from_dict(columns, features=library.Features(known))
        Path(NAME, config).mkdir(parents=True, exist_ok=True)
        made.to_parquet(f"{NAME}/{config}/{split}-00000-of-00001.parquet")


def rows(count: int, first: int = 0) -> list[Row]:
    return [{"image": jpeg(first + number), "label": number % 2} for number in range(count)]


def test_parquet_becomes_a_folder(library: ModuleType, tmp_path: Path) -> None:
    train, test = rows(5), rows(3, first=10)
    store(library, {"train": train, "test": test, "validation": rows(2, first=20)})
    said: list[str] = []
    place = hub_folder(HubData(NAME), tmp_path / "ours", say=said.append)
    assert said == [f"fetching {NAME} from the Hugging Face hub (once)"]
    folder = read_folder(place)
    assert folder.classes == ("auk", "booby")
    for samples, expected in ((folder.train, train), (folder.test, test)):
        assert [sample.label for sample in samples] == [row["label"] for row in expected]
        for sample, row in zip(samples, expected, strict=True):
            assert sample.path.read_bytes() == row["image"]["bytes"]  # type: ignore[index]
            assert sample.path.suffix == ".jpeg"
    assert not (place.parent / "part").exists()


def test_second_time_nothing_is_fetched(
    library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(library, {"train": rows(4), "test": rows(2)})
    place = hub_folder(HubData(NAME), tmp_path / "ours")
    monkeypatch.setitem(sys.modules, "datasets", None)
    (place.parent / "lock").unlink()
    assert hub_folder(HubData(NAME), tmp_path / "ours") == place
    assert not (place.parent / "lock").exists()  # what is whole is read, also where nothing can be written
    with pytest.raises(InputError, match="pip install datasets"):
        hub_folder(HubData(NAME, label="label"), tmp_path / "ours")  # which is another choice


def test_folders_of_classes_and_their_validation(library: ModuleType, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for seed, name in enumerate(("auk", "booby", "crow")):
            write_picture(tmp_path / NAME / split / name / "a.png", seed=seed)
    folder = read_folder(hub_folder(HubData(NAME), tmp_path / "ours"))
    assert folder.classes == ("auk", "booby", "crow")
    stored = (tmp_path / NAME / "validation" / "crow" / "a.png").read_bytes()
    assert folder.test[2].path.read_bytes() == stored


def test_withheld_test_labels_leave_the_validation(library: ModuleType, tmp_path: Path) -> None:
    withheld = [{**row, "label": -1} for row in rows(3)]
    store(library, {"train": rows(4), "test": withheld, "validation": rows(2, first=9)})
    assert len(read_folder(hub_folder(HubData(NAME), tmp_path / "ours")).test) == 2


def test_one_of_several_labels_is_chosen(library: ModuleType, tmp_path: Path) -> None:
    fine = library.ClassLabel(names=["red", "green", "blue"])
    made = [{"image": jpeg(n), "label": 0, "fine_label": n % 3} for n in range(3)]
    store(library, {"train": made, "test": made}, fine_label=fine)
    with pytest.raises(
        InputError, match=r"2 label columns \(label, fine_label\).*hf:someone/birds\?label=label"
    ):
        hub_folder(HubData(NAME), tmp_path / "ours")
    folder = read_folder(hub_folder(HubData(NAME, label="fine_label"), tmp_path / "ours"))
    assert folder.classes == ("red", "green", "blue")
    with pytest.raises(InputError, match=r"no label column 'image': label, fine_label of image, label"):
        hub_folder(HubData(NAME, label="image"), tmp_path / "ours")


def test_one_of_several_parts_is_chosen(library: ModuleType, tmp_path: Path) -> None:
    for config, count in (("small", 4), ("large", 6)):
        store(library, {"train": rows(count), "test": rows(2)}, config=config)
    (tmp_path / NAME / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {config}\n  data_files:\n"
            + "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in ("train", "test"))
            for config in ("small", "large")
        )
        + "---\n"
    )
    with pytest.raises(InputError, match=r"cannot get someone/birds .*small"):
        hub_folder(HubData(NAME), tmp_path / "ours")
    folder = read_folder(hub_folder(HubData(NAME, config="large"), tmp_path / "ours"))
    assert len(folder.train) == 6


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (rows(4), None, "no test pictures with labels: its splits are train"),
        (None, rows(4), "has the splits test; expected train"),
        ([*rows(3), {"image": jpeg(1), "label": None}], rows(2), "train picture 3 has no label"),
        ([*rows(3), {"image": None, "label": 1}], rows(2), "train picture 3 is missing"),
        (
            rows(4),
            [*rows(1), {"image": {"bytes": b"x", "path": ""}, "label": 1}],
            "test picture 1: cannot be read as a picture",
        ),
    ],
)
def test_nothing_is_left_of_what_cannot_be_used(
    library: ModuleType, tmp_path: Path, train: list[Row] | None, test: list[Row] | None, message: str
) -> None:
    store(library, {name: made for name, made in (("train", train), ("test", test)) if made is not None})
    with pytest.raises(InputError, match=message):
        hub_folder(HubData(NAME), tmp_path / "ours")
    assert not list((tmp_path / "ours").rglob("*.*g")), "no picture and no index"
    assert not list((tmp_path / "ours").rglob("files"))
    assert not list((tmp_path / "ours").rglob("part"))


def test_picture_that_is_gone(library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        for seed, name in enumerate(("auk", "booby")):
            write_picture(tmp_path / NAME / split / name / "a.png", seed=seed)
    found = library.load_dataset(NAME)
    (tmp_path / NAME / "test" / "booby" / "a.png").unlink()
    monkeypatch.setattr(library, "load_dataset", lambda *arguments, **options: found)
    with pytest.raises(InputError, match=r"test picture 1: cannot read .*a\.png: No such file"):
        hub_folder(HubData(NAME), tmp_path / "ours")


def test_data_without_pictures_or_classes(library: ModuleType, tmp_path: Path) -> None:
    store(library, {"train": rows(2), "test": rows(2)}, label=library.Value("int64"))
    with pytest.raises(InputError, match=r"0 label columns .*ClassLabel; it has image, label"):
        hub_folder(HubData(NAME), tmp_path / "ours")


def test_rest_of_one_that_was_killed_is_written_again(library: ModuleType, tmp_path: Path) -> None:
    store(library, {"train": rows(4), "test": rows(2)})
    part = tmp_path / "ours" / HubData(NAME).folder / "part" / "train"
    part.mkdir(parents=True)
    (part / "000009.jpeg").write_text("half")
    place = hub_folder(HubData(NAME), tmp_path / "ours")
    assert len(list((place / "train").iterdir())) == 4


def test_out_of_reach_says_what_to_give(
    library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(library, "load_dataset", unreachable)
    with pytest.raises(InputError, match=r"https://huggingface.co/datasets/someone/birds and give a folder"):
        hub_folder(HubData(NAME), tmp_path / "ours")


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("a file")
    with pytest.raises(InputError, match="cannot write someone/birds into"):
        hub_folder(HubData(NAME), tmp_path / "ours")


def test_names() -> None:
    assert data_root("folder", Path("cache"), say=print) == Path("folder")
    assert parse_hub_data("hf:a/b") == HubData("a/b")
    chosen = parse_hub_data("hf:a-1/b.c?label=fine_label&config=plain&revision=0a1b&image=img")
    assert chosen == HubData("a-1/b.c", label="fine_label", config="plain", revision="0a1b", image="img")
    folders = {HubData("a/b").folder, HubData("a-b/c").folder, HubData("a/b", label="x").folder}
    assert len(folders) == 3
    assert all("/" not in folder for folder in folders)


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:birds",
        "hf:a/b/c",
        "hf:../b?x",
        "hf:a/b?labels=x",
        "hf:a/b?label=",
        "hf:a/b?label=x&label=y",
    ],
)
def test_names_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected hf:OWNER/DATASET"):
        parse_hub_data(text)
