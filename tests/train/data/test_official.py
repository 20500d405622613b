from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import FGVCAircraft, OxfordIIITPet, StanfordCars, VOCSegmentation

from engine.experiment.job import Table
from engine.scripts.console import table_script
from official_data import BOX, MAKERS, NEEDS_SCIPY, make_aircraft, make_cars, make_cub, make_pet, make_voc
from small_data import MODEL
from vitreg.errors import InputError
from vitreg.train.data.folder import read_folder
from vitreg.train.data.official.voc import VOC, read_voc
from vitreg.train.data.photographs import photo_task
from vitreg.train.data.samples import Sample

CLASSES = {
    "CUB": ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
    "Cars": ("AM General Hummer SUV 2000", "Acura RL Sedan 2012"),
    "Aircraft": ("707-320", "Falcon 900"),
    "Dogs": ("Chihuahua", "Japanese_spaniel"),
    "Pet": ("Abyssinian", "American Bulldog"),
}


def made(name: str, parent: Path) -> Path:
    if name in NEEDS_SCIPY:
        pytest.importorskip("scipy.io")
    return MAKERS[name](parent)


def as_pairs(samples: tuple[Sample, ...]) -> list[tuple[str, int]]:
    return [(str(sample.path), sample.label) for sample in samples]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("give_parent", [False, True])
def test_owner_s_layout_is_read(name: str, give_parent: bool, tmp_path: Path) -> None:
    root = made(name, tmp_path)
    folder = read_folder(tmp_path if give_parent and name != "Dogs" else root, name=name)
    assert folder.classes == CLASSES[name]
    assert [sample.label for sample in folder.train] == [0] * 4 + [1] * 4
    assert [sample.label for sample in folder.test] == [0] * 2 + [1] * 2
    if name == "Pet":
        assert {s.trimap.stem == s.path.stem for s in folder.train if s.trimap is not None} == {True}
    else:
        assert {sample.box for sample in folder.train + folder.test} == {BOX}


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_recognised_without_its_name_and_is_a_task(name: str, tmp_path: Path) -> None:
    folder = read_folder(made(name, tmp_path))
    task = photo_task(folder, name=name, size=32, augment="none")
    assert task.test_masks is not None
    # Of 48 × 40 pixels, 20 × 24 are the object's: after the crop to 28/32 of the short side a larger share.
    assert task.test_masks.float().mean().item() == pytest.approx(20 * 24 / (35 * 35), abs=0.03)


def test_it_is_what_torchvision_reads(tmp_path: Path) -> None:
    folder = read_folder(make_aircraft(tmp_path))
    for split, samples in (("trainval", folder.train), ("test", folder.test)):
        theirs = FGVCAircraft(tmp_path, split=split)
        assert tuple(theirs.classes) == folder.classes
        assert as_pairs(samples) == list(zip(theirs._image_files, theirs._labels, strict=True))
    folder = read_folder(make_pet(tmp_path))
    for split, samples in (("trainval", folder.train), ("test", folder.test)):
        pets = OxfordIIITPet(tmp_path, split=split)
        assert tuple(pets.classes) == folder.classes
        assert as_pairs(samples) == list(zip(map(str, pets._images), pets._labels, strict=True))
        assert [sample.trimap for sample in samples] == pets._segs


def test_cars_are_what_torchvision_reads(tmp_path: Path) -> None:
    folder = read_folder(made("Cars", tmp_path))
    for split, samples in (("train", folder.train), ("test", folder.test)):
        theirs = StanfordCars(tmp_path, split=split)
        assert tuple(theirs.classes) == folder.classes
        assert as_pairs(samples) == theirs._samples


def test_voc_is_pictures_with_masks(tmp_path: Path) -> None:
    pictures = read_voc(make_voc(tmp_path))
    theirs = VOCSegmentation(tmp_path, year="2012", image_set="val")
    assert [str(picture.path) for picture in pictures] == theirs.images
    assert [str(picture.classes) for picture in pictures] == theirs.masks
    for path in (pictures[0].classes, pictures[0].objects):
        numbers = np.array(Image.open(path))
        decided = numbers != 255
        on_object = decided & (numbers != 0)
        assert on_object.shape == (40, 48)
        assert on_object.sum() == 20 * 24
        assert on_object[6:30, 8:28].all()
        assert (~decided).sum() == 22 * 26 - 20 * 24


def test_voc_has_no_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no class: it is for table 4"):
        read_folder(make_voc(tmp_path))


def test_voc_with_a_broken_mask_or_in_another_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not PASCAL VOC 2012\. .*ImageSets/Segmentation/val\.txt"):
        read_voc(tmp_path)
    pictures = read_voc(make_voc(tmp_path))
    pictures[1].path.unlink()
    with pytest.raises(InputError, match=f"1 of the 9 .* the first is .*{pictures[1].path.name}"):
        read_voc(tmp_path)
    assert VOC.address in VOC.advice


def test_another_data_set_than_its_name_is_refused(tmp_path: Path) -> None:
    root = make_cub(tmp_path)
    with pytest.raises(InputError, match=r"Cars=.* is CUB-200-2011, not Stanford Cars"):
        read_folder(root, name="Cars")
    assert read_folder(root, name="birds").classes == CLASSES["CUB"]  # a name of the user's own


def test_own_layout_under_a_paper_s_name_is_read(class_folders: Path) -> None:
    assert read_folder(class_folders, name="CUB").classes == ("auk", "booby", "crow")


def test_unknown_folder_under_a_paper_s_name_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither index\.csv .*\. CUB-200-2011: .*images\.txt.*caltech"):
        read_folder(tmp_path, name="cub")


def test_dogs_without_annotations_have_no_boxes(tmp_path: Path) -> None:
    root = made("Dogs", tmp_path)
    shutil.rmtree(root / "Annotation")
    assert {sample.box for sample in read_folder(root).train} == {None}


@pytest.mark.parametrize("place", ["devkit", "."])
def test_cars_labels_of_the_test_lie_in_either_place(place: str, tmp_path: Path) -> None:
    root = made("Cars", tmp_path)
    name = "cars_test_annos_withlabels.mat"
    (root / name).rename(root / place / name)
    assert len(read_folder(root).test) == 4


def test_scipy_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    (tmp_path / "train_list.mat").write_bytes(b"")
    with pytest.raises(InputError, match=r"train_list\.mat is a MATLAB file: pip install scipy"):
        read_folder(tmp_path, name="Dogs")


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("CUB", "images.txt", None, r"images\.txt is missing\. CUB-200-2011: .*caltech"),
        ("CUB", "images.txt", ("2 001.", "2\n3 001."), r"lines of image, path, found '2'"),
        ("CUB", "images.txt", ("2 001", "1 001"), "expected one line for 1, found two"),
        ("CUB", "images.txt", ("_0001.jpg", "_0000.jpg"), "in one split, once, found .*_0000.jpg twice"),
        ("CUB", "image_class_labels.txt", ("12 2\n", ""), r"for 12, found none \(1 such lines\).*caltech"),
        (
            "CUB",
            "image_class_labels.txt",
            ("12 2", "12 3"),
            r"a class of classes\.txt for image 12, found '3'",
        ),
        ("CUB", "train_test_split.txt", ("1 1", "1 2"), "expected 0 or 1 for image 1, found '2'"),
        ("CUB", "bounding_boxes.txt", ("20.0", "-20.0"), "image 1: expected a box with an area"),
        ("CUB", "bounding_boxes.txt", ("20.0", "wide"), "image 1: expected a box with an area"),
        ("CUB", "images/001.Black_footed_Albatross", None, "6 of the 12 .* the first is .*_0000.jpg"),
        ("Cars", "devkit/cars_meta.mat", None, r"cars_meta\.mat is missing\. Stanford Cars: .*devkit"),
        ("Cars", "cars_test_annos_withlabels.mat", None, "withlabels.mat is missing"),
        ("Cars", "devkit/cars_train_annos.mat", b"MATLAB", "expected a MATLAB file"),
        ("Cars", "cars_train/00001.jpg", None, "1 of the 12 .* the first is .*cars_train/00001.jpg"),
        ("Aircraft", "data/variants.txt", ("Falcon 900", "Falcon 2000"), "'Falcon 900'"),
        ("Aircraft", "data/images_box.txt", ("0001000 9 7 28 30\n", ""), "image 0001000: expected a box"),
        ("Aircraft", "data/images_variant_test.txt", None, r"_test\.txt is missing\. FGVC-Aircraft .*robots"),
        ("Aircraft", "data/images/0001003.jpg", None, r"the first is .*0001003\.jpg"),
        ("Dogs", "test_list.mat", None, r"test_list\.mat is missing\. Stanford Dogs: .*Images/"),
        ("Dogs", "Annotation/n02085620-Chihuahua/n02085620_1", None, "n02085620_1 is missing"),
        ("Dogs", "Annotation/n02085620-Chihuahua/n02085620_1", b"<annotation>", "expected an XML file"),
        ("Dogs", "Annotation/n02085620-Chihuahua/n02085620_1", b"<a/>", "expected a bndbox, found none"),
        ("Pet", "annotations/test.txt", ("Abyssinian_2 1", "Abyssinian_2 38"), "a class from 1 to 37"),
        (
            "Pet",
            "annotations/test.txt",
            ("Abyssinian_2 1", "Abyssinian_2 2"),
            "Abyssinian_2: expected the class",
        ),
        ("Pet", "annotations/trainval.txt", None, r"trainval\.txt is missing\. Oxford-IIIT Pet: .*robots"),
        ("Pet", "annotations/trainval.txt", b"\xff\xfe", "cannot read .*trainval.txt"),
        ("Pet", "annotations/trimaps/Abyssinian_0.png", None, "1 of the 24 .*trimaps/Abyssinian_0.png"),
    ],
)
def test_broken_file_is_named_with_where_to_get_it(
    name: str, file: str, change: tuple[str, str] | bytes | None, message: str, tmp_path: Path
) -> None:
    root = made(name, tmp_path)
    path = root / file
    if isinstance(change, tuple):
        replaced(path, *change)
    elif change is not None:
        path.write_bytes(change)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(InputError, match=message) as caught:
        read_folder(root, name=name)
    assert "\n" not in str(caught.value)


def test_cars_class_outside_the_list_is_named(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    root = make_cars(tmp_path)
    scipy_io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": ["one"]})
    with pytest.raises(InputError, match=r"cars_train_annos\.mat, 0000\d\.jpg: expected a class from 1 to 1"):
        read_folder(root)


def test_gap_in_the_classes_is_named(tmp_path: Path) -> None:
    root = make_pet(tmp_path)
    for name in ("trainval", "test"):
        path = root / "annotations" / f"{name}.txt"
        path.write_text(path.read_text().replace(" 2 2 1", " 3 2 1"))
    with pytest.raises(InputError, match=r"from 1 on without a gap, found \[1, 3\]"):
        read_folder(root)


def test_table_runs_on_it_with_fewer_pictures_than_a_batch(tmp_path: Path, weights: Path) -> None:
    given = ["--data", f"Pet={make_pet(tmp_path)}", "--weights", weights, "--model", MODEL, "--size", "32"]
    given += ["--steps", "2", "--batch-size", "8", "--rates", "0.15", "--seeds", "0", "--device", "cpu"]
    given += ["--out", tmp_path / "out"]  # 15 % are one picture of each class
    assert table_script(Table("table3", methods=("fine-tune",)), "")(list(map(str, given))) == 0
    assert len(list(tmp_path.glob("out/Pet_fine-tune_rate15_*/DONE"))) == 1
