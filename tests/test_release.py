"""What is released holds what it should and nothing else, and its metadata are accepted by an index."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import vitreg

ROOT = Path(__file__).parent.parent
MIB = 2**20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the sdist and the wheel that was built from it, as an index would do."""
    folder = tmp_path_factory.mktemp("release")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    checkout = folder / "checkout"
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, checkout / name)

    def build(target: str, source: Path) -> Path:
        command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        (found,) = folder.glob("vitreg-*.tar.gz" if target == "sdist" else "vitreg-*.whl")
        return found

    sdist = build("sdist", checkout)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, build("wheel", unpacked)


@pytest.mark.slow
def test_an_index_accepts_both(built: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_is_the_package(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = email.message_from_bytes(archive.read(metadata))
        scripts = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    own = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vitreg").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"vitreg/py.typed", "vitreg/support.csv"} <= own
    assert {name for name in names if ".dist-info/" not in name} == own
    assert told["Version"] == vitreg.__version__
    assert told["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert set(told.get_all("Provides-Extra", [])) >= {"train", "plot", "clip", "transformers", "recipes"}
    assert "vitreg = vitreg.cli:main" in scripts


@pytest.mark.slow
def test_the_sdist_has_code_and_tests_but_no_pictures_of_the_site(built: tuple[Path, Path]) -> None:
    sdist = built[0]
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "vitreg/__init__.py",
        "tests/test_release.py",
        "recipes/table3.py",
        "LICENSE",
        "CITATION.cff",
    } <= names
    assert not [name for name in names if name.startswith(("docs/assets/", ".github/", "runs/"))]
    assert sdist.stat().st_size < 2 * MIB
    assert built[1].stat().st_size < MIB


def workflow() -> list[dict[str, str]]:
    """Return what each job of the tests' workflow sets."""
    read = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    jobs: list[dict[str, str]] = read["jobs"]["tests"]["strategy"]["matrix"]["include"]
    return jobs


def test_each_job_varies_one_factor() -> None:
    jobs = workflow()
    assert jobs[0] == {"varies": "nothing"}
    assert all(len(job) == 2 for job in jobs[1:])
    assert {factor for job in jobs for factor in job} == {"varies", "python", "os", "pins", "arguments"}


def test_the_oldest_versions_are_those_that_are_asked_for() -> None:
    wanted = (ROOT / "pyproject.toml").read_text()
    pinned = re.findall(
        r"(\w+)==([\d.]+?)(?:\.\*)?(?: |$)", " ".join(job.get("pins", "") for job in workflow())
    )
    assert {library for library, _ in pinned} == {"torch", "torchvision", "timm", "transformers"}
    for library, version in pinned:
        assert library == "torchvision" or f'"{library}>={version}"' in wanted
    assert f'requires-python = ">={workflow()[1]["python"]}"' in wanted


def test_the_version_stands_in_one_place_and_is_cited() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", vitreg.__version__)
    assert '\ndynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == vitreg.__version__
    assert cited["references"][0]["identifiers"][0]["value"] == "arXiv:2401.02656"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", changelog, re.MULTILINE)
