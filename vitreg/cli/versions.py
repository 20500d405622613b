"""Which versions are installed, and whether they are those that vitreg asks for."""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from importlib import metadata

import vitreg
from vitreg.cli.build import EXTRAS

DISTRIBUTIONS = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "open_clip": "open-clip-torch",
    "transformers": "transformers",
    "peft": "peft",
    "lightning": "lightning",
    "matplotlib": "matplotlib",
}
"""What is imported, and what it is called where it is installed."""

_NEEDED = ("torch", "torchvision", "timm")


@dataclass(frozen=True)
class Version:
    """A library's version beside what vitreg asks for.

    Attributes:
        library: its name.
        found: the installed version, or "" if there is none.
        expected: the versions that vitreg's own metadata asks for, such as ">=2.6", or "" if any will do.
        remedy: what to do, or "" if nothing has to be done.
        optional: how to install it, if it is not there and need not be.
    """

    library: str
    found: str
    expected: str = ""
    remedy: str = ""
    optional: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing has to be done."""
        return not self.remedy


def versions() -> list[Version]:
    """Return vitreg, Python and every library that vitreg works with."""
    expected = _expected_versions()
    found = [
        Version("vitreg", vitreg.__version__),
        _version("Python", platform.python_version(), expected.get("python", ""), "another Python"),
    ]
    for library, distribution in DISTRIBUTIONS.items():
        wanted = expected.get(distribution, "")
        found.append(_library(library, distribution, wanted))
    return found


def _library(library: str, distribution: str, expected: str) -> Version:
    asked = f'pip install "{distribution}{expected}"'
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        if library in _NEEDED:
            return Version(library, "", expected, asked)
        extra = EXTRAS.get(library)
        return Version(
            library,
            "",
            expected,
            optional=f'pip install "vitreg[{extra}]"' if extra else f"pip install {distribution}",
        )
    try:
        importlib.import_module(library)
    except Exception as error:  # whatever a broken installation raises is what is to be shown
        return Version(
            library,
            f"{version}, which cannot be imported: {type(error).__name__}: {error}",
            expected,
            f'pip install --force-reinstall "{distribution}{expected}"',
        )
    return _version(library, version, expected, asked)


def _version(library: str, found: str, expected: str, asked: str) -> Version:
    return Version(library, found, expected, "" if _lies_within(found, expected) else f"Install it: {asked}")


def _lies_within(version: str, expected: str) -> bool:
    """Return whether a version is one of those expected; True where packaging, which knows, is missing."""
    try:
        from packaging.specifiers import SpecifierSet
        from packaging.version import Version as Number
    except ModuleNotFoundError:
        return True
    release = Number(version).base_version  # a vendor's 2.6.0a0+nv25 is its 2.6.0
    return SpecifierSet(expected).contains(release, prereleases=True)


def _expected_versions() -> dict[str, str]:
    """Return the versions that vitreg asks for, by distribution; empty where it is not installed."""
    try:
        from packaging.requirements import Requirement

        about = metadata.metadata("vitreg")
    except (ModuleNotFoundError, metadata.PackageNotFoundError):
        return {}
    requires_python = (about.get_all("Requires-Python") or [""])[0]
    requirements = [Requirement(text) for text in about.get_all("Requires-Dist") or []]
    expected = {r.name.lower().replace("_", "-"): str(r.specifier) for r in requirements if str(r.specifier)}
    return {**expected, "python": requires_python}
