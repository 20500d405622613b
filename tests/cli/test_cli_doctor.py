"""`vitreg doctor`: what works is ok, and what is broken is found."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import torch

import vitreg
from vitreg.cli import self_test as tested
from vitreg.cli.doctor import devices
from vitreg.cli.self_test import self_test
from vitreg.cli.versions import DISTRIBUTIONS, versions
from vitreg.penalties.gta import GTA

CPU = torch.device("cpu")


def failed() -> list[str]:
    return [check.name for check in self_test(CPU) if not check.ok]


def test_all_is_well(run) -> None:
    ended = run("doctor")
    assert ended.code == 0
    assert "FAILED" not in ended.out
    assert f"vitreg {vitreg.__version__}" in ended.out
    assert "checks are ok." in ended.out
    for device in devices():
        assert f"{device.device}: {device.description}" in ended.out


def test_json(run) -> None:
    ended = run("doctor --json")
    found = json.loads(ended.out)
    assert found["ok"] is True
    assert [version["library"] for version in found["versions"]] == ["vitreg", "Python", *DISTRIBUTIONS]
    assert {check["device"] for check in found["checks"]} == {one["device"] for one in found["devices"]}
    assert len(found["checks"]) == 6 * len(found["devices"])


def test_a_version_out_of_range(run, monkeypatch) -> None:
    plain = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.0.2" if name == "timm" else plain(name))
    (timm,) = (version for version in versions() if version.library == "timm")
    assert not timm.ok
    assert timm.remedy == f'Install it: pip install "timm{timm.expected}"'
    ended = run("doctor")
    assert ended.code == 1
    assert "FAILED  timm 1.0.2" in ended.out
    assert "1 of " in ended.out


def test_what_is_not_installed(monkeypatch) -> None:
    plain = metadata.version

    def version(name: str) -> str:
        if name in ("torchvision", "open-clip-torch", "peft"):
            raise metadata.PackageNotFoundError(name)
        return plain(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {version.library: version for version in versions()}
    assert not found["torchvision"].ok
    assert found["open_clip"].ok
    assert found["open_clip"].optional == 'pip install "vitreg[clip]"'
    assert found["peft"].optional == "pip install peft"


def test_what_cannot_be_imported(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (found,) = (version for version in versions() if version.library == "torchvision")
    assert not found.ok
    assert "cannot be imported: ModuleNotFoundError" in found.found
    assert "--force-reinstall" in found.remedy


def test_without_metadata_nothing_is_expected(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    assert all(version.ok and not version.expected for version in versions())


def test_a_penalty_that_is_never_zero_is_found(monkeypatch) -> None:
    plain = GTA.value
    monkeypatch.setattr(GTA, "value", lambda self, target, source: plain(self, target, source) + 1)
    assert failed() == ["GTA is zero where the model is its source"]


def test_a_penalty_that_is_always_zero_is_found(monkeypatch) -> None:
    plain = GTA.value
    monkeypatch.setattr(GTA, "value", lambda self, target, source: 0 * plain(self, target, source))
    assert failed() == [
        "GTA is positive once the model has moved",
        "its gradient reaches the model, not the source",
    ]


def test_wrong_logits_are_found(monkeypatch) -> None:
    plain = vitreg.trace

    class Wrong(dict):
        def __enter__(self):
            self.inside = plain(*self["of"])
            self.trace = self.inside.__enter__()
            return self

        def __exit__(self, *error):
            self.inside.__exit__(*error)

        def __missing__(self, name):
            return [value + 0.01 for value in self.trace[name]]

    monkeypatch.setattr(tested.vitreg, "trace", lambda *of: Wrong(of=of))
    assert failed() == ["the logits read are those in the softmax"]


def test_hooks_left_behind_are_found(monkeypatch) -> None:
    monkeypatch.setattr(vitreg.Attachment, "remove", lambda self: None)
    assert failed() == ["remove() takes every hook away"]


def test_a_crash_is_a_failed_check_that_says_what_to_do(run, monkeypatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(tested.vitreg, "attach", crash)
    ended = run("doctor")
    assert ended.code == 1
    assert "FAILED  GTA is attached to a small Vision Transformer: RuntimeError: no such kernel" in ended.out
    assert "Expected attached. Install the versions above" in ended.out


def test_devices_are_listed(monkeypatch) -> None:
    class Properties:
        name, total_memory = "A GPU", 2 * 2**30

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    found = {device.device: device.description for device in devices()}
    assert found["cuda:1"] == "A GPU, 2.0 GiB"
