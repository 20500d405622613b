"""The archive holds what is finished, never more than it may, and is added to what is there."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from gpu_steps.archive import LIMIT, LOG_LIMIT, unpack_into, write_archive


def fill(work: Path) -> None:
    for name, content in {
        "steps/a/step.json": "{}",
        "steps/a/log.txt": "said",
        "results/a-gpu.json": "{}",
        "results/b-gpu.json.part": "half",
        "runs/whole/report.json": "{}",
        "runs/whole/DONE": "",
        "runs/whole/model.safetensors": "weights",
        "runs/half/report.json": "{}",
        "views/cub36.views": "pixels",
    }.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(content)


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return set(opened.getnames())


def test_what_is_finished_is_kept(tmp_path: Path) -> None:
    fill(tmp_path / "work")
    write_archive(tmp_path / "work", tmp_path / "gpu.tar.gz")
    kept = {"steps/a/step.json", "steps/a/log.txt", "results/a-gpu.json", "left_out.txt"}
    assert names(tmp_path / "gpu.tar.gz") == kept | {"runs/whole/report.json", "runs/whole/DONE"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.tar.gz", "work"]
    assert LIMIT < 16 * 2**20


def test_the_largest_stays_behind_where_there_is_too_much(tmp_path: Path) -> None:
    fill(tmp_path / "work")
    (tmp_path / "work/results/noise-gpu.json").write_bytes(os.urandom(60_000))
    write_archive(tmp_path / "work", tmp_path / "gpu.tar.gz", limit=20_000)
    assert (tmp_path / "gpu.tar.gz").stat().st_size <= 20_000
    assert "results/noise-gpu.json" not in names(tmp_path / "gpu.tar.gz")
    assert "results/a-gpu.json" in names(tmp_path / "gpu.tar.gz")
    unpack_into(tmp_path / "again", tmp_path / "gpu.tar.gz")
    with tarfile.open(tmp_path / "gpu.tar.gz") as opened:
        assert opened.extractfile("left_out.txt").read() == b"results/noise-gpu.json\n"


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "steps/a/log.txt").write_text("begun\n" + "x" * 3 * LOG_LIMIT + "\nended")
    write_archive(tmp_path, tmp_path / "gpu.tar.gz")
    text = (tmp_path / "steps/a/log.txt").read_text()
    assert text.startswith("begun\n")
    assert text.endswith("\nended")
    assert len(text) <= LOG_LIMIT


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_earlier_results_are_added_and_replace_nothing(tmp_path: Path, kind: str) -> None:
    fill(tmp_path / "before")
    source = tmp_path / "before"
    if kind == "archive":
        write_archive(source, tmp_path / "gpu.tar.gz")
        source = tmp_path / "gpu.tar.gz"
    (tmp_path / "now/steps/a").mkdir(parents=True)
    (tmp_path / "now/steps/a/log.txt").write_text("newer")
    unpack_into(tmp_path / "now", source)
    assert (tmp_path / "now/steps/a/log.txt").read_text() == "newer"
    assert (tmp_path / "now/runs/whole/DONE").is_file()
    assert not (tmp_path / "now/views").exists()


def test_a_file_outside_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("x")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "evil", "../outside")
        archive.add(tmp_path / "evil", "other/file")
    (tmp_path / "work").mkdir()
    unpack_into(tmp_path / "work", tmp_path / "evil.tar.gz")
    assert not list((tmp_path / "work").iterdir())
    assert not (tmp_path / "outside").exists()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(SystemExit, match=r"expected an archive of benchmarks/gpu\.py, found"):
        unpack_into(tmp_path, tmp_path / "text")
