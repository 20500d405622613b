from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

import vitreg.train.data.archives
import vitreg.train.data.official
from official_data import make_cub, make_pet
from packed import md5, pack, use
from vitreg.errors import InputError
from vitreg.train.data.archives import Archive, is_archive, unpack
from vitreg.train.data.folder import read_folder
from vitreg.train.data.official.pet import PET


@pytest.fixture
def cub_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    archive = pack(make_cub(tmp_path / "made"), tmp_path / "CUB_200_2011.tgz")
    use(monkeypatch, vitreg.train.data.official.CUB, Archive(archive.name, md5(archive)))
    return archive


def unpack_one(path: Path) -> Path:
    return unpack(path.parent, [Archive(path.name)], path.parent / "into", say=lambda text: None)


def nothing_is_kept(folder: Path) -> bool:
    return {path.name for path in (folder / "into").iterdir()} <= {"lock"}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"])
def test_all_kinds_are_unpacked_whole(suffix: str, tmp_path: Path) -> None:
    folder = make_pet(tmp_path / "made")
    archive = pack(folder, tmp_path / f"pets{suffix}")
    assert is_archive(archive)
    files = unpack_one(archive)
    expected = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found = files / folder.name
    assert expected == {str(p.relative_to(found)): p.read_bytes() for p in found.rglob("*") if p.is_file()}


def test_archive_is_read_as_its_folder_once(cub_archive: Path) -> None:
    said: list[str] = []
    first = read_folder(cub_archive, name="CUB", say=said.append)
    assert (len(first.train), len(first.test)) == (8, 4)
    assert said == [f"unpacking {cub_archive} (once)"]
    stamps = {sample.path: sample.path.stat().st_ino for sample in first.train}
    assert read_folder(cub_archive, name="CUB", say=said.append) == first
    assert len(said) == 1
    assert {path: path.stat().st_ino for path in stamps} == stamps


def test_folder_with_the_archive_is_read_and_needs_it_only_once(cub_archive: Path) -> None:
    first = read_folder(cub_archive.parent, name="CUB")
    cub_archive.unlink()
    assert read_folder(cub_archive.parent, name="CUB") == first


def test_own_layout_in_an_archive_is_read(class_folders: Path) -> None:
    archive = pack(class_folders, class_folders.parent / "mine.zip", top="pictures")
    assert read_folder(archive).classes == ("auk", "booby", "crow")


def test_archives_that_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_pet(tmp_path / "made")
    images = pack(made / "images", tmp_path / "images.tar.gz")
    annotations = pack(made / "annotations", tmp_path / "annotations.tar.gz")
    use(monkeypatch, PET, *(Archive(path.name, md5(path)) for path in (images, annotations)))
    whole = annotations.read_bytes()
    annotations.unlink()
    with pytest.raises(InputError, match=r"no annotations\.tar\.gz in .*images\.tar\.gz, .*belong together"):
        read_folder(images, name="Pet")
    annotations.write_bytes(whole)
    folder = read_folder(tmp_path, name="Pet")
    assert (len(folder.train), len(folder.test)) == (8, 4)
    assert read_folder(images) == folder


def test_a_list_beside_the_archives_is_copied(tmp_path: Path) -> None:
    pack(make_pet(tmp_path / "made"), tmp_path / "pets.tar")
    (tmp_path / "labels.mat").write_bytes(b"labels")
    archives = [Archive("pets.tar"), Archive("labels.mat")]
    files = unpack(tmp_path, archives, tmp_path / "into", say=lambda text: None)
    assert (files / "labels.mat").read_bytes() == b"labels"
    assert (files / "oxford-iiit-pet" / "images").is_dir()


def evil_tar(path: Path, name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    with tarfile.open(path, "w") as tar:
        good, member = tarfile.TarInfo("good.txt"), tarfile.TarInfo(name)
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        member.type, member.linkname = kind, target
        member.size = 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"evil"))


@pytest.mark.parametrize(
    ("name", "kind", "target", "message"),
    [
        ("../evil.txt", tarfile.REGTYPE, "", "outside its folder"),
        ("a/../../../evil.txt", tarfile.REGTYPE, "", "outside its folder"),
        ("{tmp}/evil.txt", tarfile.REGTYPE, "", "outside its folder"),
        ("C:\\evil.txt", tarfile.REGTYPE, "", "outside its folder"),
        ("..\\evil.txt", tarfile.REGTYPE, "", "outside its folder"),
        ("link", tarfile.SYMTYPE, "{tmp}", "a link or a device"),
        ("link", tarfile.SYMTYPE, "good.txt", "a link or a device"),
        ("link", tarfile.LNKTYPE, "good.txt", "a link or a device"),
        ("device", tarfile.CHRTYPE, "", "a link or a device"),
        ("device", tarfile.BLKTYPE, "", "a link or a device"),
        ("pipe", tarfile.FIFOTYPE, "", "a link or a device"),
    ],
)
def test_tar_member_that_would_leave_the_folder_is_refused(
    name: str, kind: bytes, target: str, message: str, tmp_path: Path
) -> None:
    name, target = name.format(tmp=tmp_path), target.format(tmp=tmp_path)
    evil_tar(tmp_path / "evil.tar", name, kind=kind, target=target)
    with pytest.raises(InputError, match=message):
        unpack_one(tmp_path / "evil.tar")
    assert nothing_is_kept(tmp_path)
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("../evil.txt", 0o100644, "outside its folder"),
        ("{tmp}/evil.txt", 0o100644, "outside its folder"),
        ("C:/evil.txt", 0, "outside its folder"),
        ("..\\evil.txt", 0, "outside its folder"),
        ("link", 0o120777, "a link or a device"),
        ("device", 0o020644, "a link or a device"),
    ],
)
def test_zip_member_that_would_leave_the_folder_is_refused(
    name: str, mode: int, message: str, tmp_path: Path
) -> None:
    entry = zipfile.ZipInfo(name.format(tmp=tmp_path))
    entry.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as zipped:
        zipped.writestr("good.txt", "good")
        zipped.writestr(entry, "evil")
    with pytest.raises(InputError, match=message):
        unpack_one(tmp_path / "evil.zip")
    assert nothing_is_kept(tmp_path)
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".tar.bz2", ".tar.xz", ".zip"])
@pytest.mark.parametrize("kept", [0, 0.3, 0.7])
def test_truncated_archive_leaves_nothing_and_a_whole_one_goes_on(
    suffix: str, kept: float, tmp_path: Path
) -> None:
    archive = pack(make_pet(tmp_path / "made"), tmp_path / f"pets{suffix}")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=f"cannot unpack .*pets{suffix}"):
        unpack_one(archive)
    assert nothing_is_kept(tmp_path)
    archive.write_bytes(whole)
    assert (unpack_one(archive) / "oxford-iiit-pet" / "images").is_dir()


@pytest.mark.parametrize("member", [1, -1])
@pytest.mark.parametrize("is_cut", [True, False])
def test_tar_that_ends_or_breaks_between_two_members_is_refused(
    member: int, is_cut: bool, tmp_path: Path
) -> None:
    archive = pack(make_pet(tmp_path / "made"), tmp_path / "pets.tar")
    with tarfile.open(archive) as tar:
        place = tar.getmembers()[member].offset  # tarfile itself takes either for the end
    whole = archive.read_bytes()
    archive.write_bytes(whole[:place] if is_cut else whole[:place] + b"?" + whole[place + 1 :])
    with pytest.raises(InputError, match=r"cannot unpack .*pets\.tar: no end after"):
        unpack_one(archive)
    assert nothing_is_kept(tmp_path)


def test_what_a_killed_process_left_is_not_kept(cub_archive: Path) -> None:
    part = cub_archive.parent / "CUB_200_2011.unpacked" / "part"
    (part / "CUB_200_2011").mkdir(parents=True)
    (part / "CUB_200_2011" / "images.txt").write_text("1 half")
    folder = read_folder(cub_archive)
    assert len(folder.train) == 8
    assert not part.exists()


def test_interrupt_while_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(make_pet(tmp_path / "made"), tmp_path / "pets.tar")
    extract = vitreg.train.data.archives._extract

    def interrupted(path: Path, into: Path) -> None:
        extract(path, into)
        raise KeyboardInterrupt

    monkeypatch.setattr(vitreg.train.data.archives, "_extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack_one(archive)
    assert nothing_is_kept(tmp_path)


def test_other_file_under_the_owner_s_name_is_refused(cub_archive: Path) -> None:
    cub_archive.write_bytes(cub_archive.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"is not the owner's file: its MD5 sum is not [0-9a-f]{32}"):
        read_folder(cub_archive)


def test_folder_unpacked_from_another_archive_is_refused(tmp_path: Path) -> None:
    archive = pack(make_pet(tmp_path / "made"), tmp_path / "pets.tar")
    unpack_one(archive)
    archive.write_bytes(archive.read_bytes() + b"\0" * 512)
    with pytest.raises(InputError, match=r"was unpacked from other archives .*; remove it"):
        unpack_one(archive)


def test_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the data archive: no nowhere\.zip in"):
        read_folder(tmp_path / "nowhere.zip")


def test_of_two_at_once_one_unpacks(tmp_path: Path) -> None:
    archive = pack(make_pet(tmp_path / "made"), tmp_path / "pets.tgz")
    said: list[str] = []
    found: list[Path] = []

    def one() -> None:
        found.append(unpack(tmp_path, [Archive(archive.name)], tmp_path / "into", say=said.append))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "into" / "files"] * 4
    assert len(said) == 1


@pytest.mark.parametrize("kind", ["zip", "tar.xz"])
def test_an_archive_that_becomes_far_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(vitreg.train.data.archives, "MOST_SMALL", 10_000)
    (tmp_path / "zeros.png").write_bytes(bytes(1_000_000))
    path = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.write(tmp_path / "zeros.png", "zeros.png")
    else:
        with tarfile.open(path, "w:xz") as tar:
            tar.add(tmp_path / "zeros.png", "zeros.png")
    with pytest.raises(InputError, match="is refused: it would become more than"):
        unpack(tmp_path, [Archive(path.name)], tmp_path / "into", say=print)
    assert not (tmp_path / "into" / "files").exists()
    assert not (tmp_path / "into" / "part").exists()
    monkeypatch.setattr(vitreg.train.data.archives, "MOST_SMALL", 2_000_000)
    assert unpack(tmp_path, [Archive(path.name)], tmp_path / "into", say=print).is_dir()
