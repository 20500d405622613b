"""What is stored and then damaged is never used in silence: each flipped bit, each cut, each zero."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from engine.demo import supervised as demo
from vitreg.errors import InputError
from vitreg.files import check_sums, check_with_sum, write_sums, write_with_sum
from vitreg.train.models.stored import Card, load_stored, model_file
from vitreg.train.runs.report import Configuration, Report, load_report, store_report

MODEL = "test_vit"
CARD = Card(MODEL, {"img_size": 32}, 32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), ("auk", "böoby"), "run")
CONFIGURATION = Configuration("birds", "f", MODEL, "w", 32, "none", "fine-tune", None, None, 0, None)
REPORT = Report(CONFIGURATION, {"top1": 51.25}, [{"loss": 0.5}], 3.25, {"device": "cpu"})


def flipped(content: bytes, step: int) -> Iterator[bytes]:
    """Yield the content with one bit flipped, every `step`-th of them."""
    for place in range(0, 8 * len(content), step):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def torn(content: bytes) -> Iterator[bytes]:
    """Yield the content cut and zeroed."""
    yield from (content[: len(content) // 2], content[:-1], bytes(len(content)))


@pytest.fixture(scope="module")
def stored() -> bytes:
    torch.manual_seed(0)
    return model_file(timm.create_model(MODEL, num_classes=2, img_size=32), CARD)


@pytest.mark.slow
def test_a_stored_model_is_the_one_that_was_stored(stored: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(stored)
    model, card = load_stored(tmp_path)
    assert card == CARD
    whole = model.state_dict()
    header = int.from_bytes(stored[:8], "little") + 8
    start = stored.index(b"sha256")
    changes = [
        *((place, bit) for place in range(start - 40, start + 20) for bit in range(8)),
        *((place, 3) for place in range(0, header, 97)),
        *((place, 6) for place in range(header, len(stored), len(stored) // 60)),
    ]
    num_equal = 0
    for place, bit in changes:
        changed = bytearray(stored)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with suppress(InputError):
            other, other_card = load_stored(path)
            assert other_card == CARD  # such as \u00e9 for \u00E9
            assert all(torch.equal(value, whole[key]) for key, value in other.state_dict().items())
            num_equal += 1
    assert num_equal < 5
    for content in (*torn(stored), b""):
        path.write_bytes(content)
        with pytest.raises(InputError):
            load_stored(path)


def test_a_model_from_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    noted = json.dumps(dataclasses.asdict(CARD))
    model = timm.create_model(MODEL, num_classes=2, img_size=32)
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"vitreg": noted})
    assert load_stored(tmp_path)[1] == CARD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "hf-hub:someone/anything"}, "no model"),
        ({"architecture": "local-dir:/tmp"}, "no model"),
        ({"architecture": "no_such_vit"}, r"add its --plugin FILE\.py"),
        ({"architecture": "vit_giant_patch14_224"}, "not those of the model that it names"),
        ({"model_args": {"pretrained": True}}, "found 'pretrained' = True"),
        ({"model_args": {"pretrained_cfg": {"url": "https://x"}}}, "found 'pretrained_cfg'"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, "found 'checkpoint_path'"),
        ({"model_args": {"img_size": 10**9}}, "img_size above 0 and up to 4096"),
        ({"model_args": {"img_size": float("nan")}}, "img_size above 0"),
        ({"model_args": {"img_size": True}}, "expected arguments of"),
        ({"size": 0}, "img_size above 0"),
        ({"mean": [0.5]}, "three means"),
        ({"std": [0.5, 0.0, 0.5]}, "three means"),
        ({"std": [0.5, float("nan"), 0.5]}, "three means"),
        ({"classes": []}, "names of classes"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": [1, 2]}, "names of classes"),
        ({"classes": ["a", "b", "c"]}, "not those of the model"),
        ({"more": 1}, "damaged or was not written by vitreg"),
    ],
)
def test_a_card_builds_nothing_but_a_known_model_of_some_size(
    tmp_path: Path, changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = {**dataclasses.asdict(CARD), **changes}
    state = timm.create_model(MODEL, num_classes=2, img_size=32).state_dict()
    save_file(state, tmp_path / "model.safetensors", metadata={"vitreg": json.dumps(noted)})
    monkeypatch.setattr("socket.socket.connect", None)
    with pytest.raises(InputError, match=message) as caught:
        load_stored(tmp_path)
    assert len(str(caught.value)) < 600


def test_weights_that_are_not_finite_never_predict(tmp_path: Path) -> None:
    model = timm.create_model(MODEL, num_classes=2, img_size=32)
    torch.nn.init.constant_(model.norm.bias, float("nan"))
    (tmp_path / "model.safetensors").write_bytes(model_file(model, CARD))
    with pytest.raises(InputError, match=r"not finite in norm\.bias"):
        load_stored(tmp_path)


def test_bits_of_a_report_and_of_its_done(tmp_path: Path) -> None:
    store_report(tmp_path, REPORT)
    folder = tmp_path / CONFIGURATION.folder
    assert load_report(tmp_path, CONFIGURATION) == REPORT
    content, done = ((folder / name).read_bytes() for name in ("report.json", "DONE"))
    for changed in (*flipped(content, 13), *torn(content)):
        (folder / "report.json").write_bytes(changed)
        with pytest.raises(InputError, match=r"is broken .*delete the folder to run it again"):
            load_report(tmp_path, CONFIGURATION)
    (folder / "report.json").write_bytes(content)
    for changed in (*flipped(done, 5), *torn(done)):
        (folder / "DONE").write_bytes(changed)
        with suppress(InputError):  # a flipped end of the line changes nothing
            assert load_report(tmp_path, CONFIGURATION) == REPORT
    (folder / "DONE").write_bytes(done)
    assert load_report(tmp_path, CONFIGURATION) == REPORT
    (folder / "DONE").write_bytes(b"")  # of a version without checksums
    assert load_report(tmp_path, CONFIGURATION) == REPORT
    (folder / "predictions.csv").touch()  # which such a version did not write
    with pytest.raises(InputError, match="DONE is empty"):
        load_report(tmp_path, CONFIGURATION)


def test_the_demos_source(tmp_path: Path) -> None:
    path = demo.source_checkpoint(tmp_path, steps=1)
    content = path.read_bytes()
    for changed in (*flipped(content, 8 * len(content) // 20), *torn(content), b""):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"is damaged: .*delete it, and it is made again"):
            demo.source_checkpoint(tmp_path, steps=1)
    path.unlink()
    assert load_file(demo.source_checkpoint(tmp_path, steps=1))
    path.with_name(f"{path.name}.sha256").unlink()  # of a version without checksums
    assert demo.source_checkpoint(tmp_path, steps=1).read_bytes() == content


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    write_sums(tmp_path / "DONE", [tmp_path / name for name in "ab"])
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    first, *lines = (tmp_path / "DONE").read_text().splitlines(keepends=True)
    assert lines[0] == f"{digest}  a\n"
    assert first == f"# {hashlib.sha256(''.join(lines).encode()).hexdigest()}\n"  # ignored by sha256sum -c
    check_sums(tmp_path / "DONE", "ab")
    (tmp_path / "old").write_text("".join(lines))  # as an earlier version wrote them
    check_sums(tmp_path / "old", "ab")
    text = (tmp_path / "DONE").read_text()
    for cut in range(1, len(text)):
        (tmp_path / "cut").write_text(text[:cut])
        with pytest.raises(ValueError, match=r"the checksums in cut are damaged"):
            check_sums(tmp_path / "cut", "a")
    with pytest.raises(ValueError, match="no checksum of c"):
        check_sums(tmp_path / "DONE", "abc")
    write_with_sum(tmp_path / "x", b"1")
    check_with_sum(tmp_path / "x")
    (tmp_path / "x").unlink()
    with pytest.raises(InputError, match="is damaged"):
        check_with_sum(tmp_path / "x")
