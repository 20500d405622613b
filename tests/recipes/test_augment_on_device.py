"""A run whose pictures are augmented on the device, from the command line to its log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator
from small_data import MODEL, SIZE

import table3
from vitreg.train.runs.plan import Run
from vitreg.train.runs.run import trained_model
from vitreg.train.training import loop as train_module


def test_the_log_is_nearly_that_of_pictures_augmented_on_the_cpu(
    pair: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = []
    for where in ("cpu", "device"):
        c = pair["GTA"].configuration
        assert c.hyper is not None
        run = replace(
            pair["GTA"], configuration=replace(c, hyper=replace(c.hyper, augment_on=where, views=3))
        )
        logs.append(trained_model(run, accelerator=Accelerator(cpu=True), workers=0)[1])
        monkeypatch.setattr(train_module, "DataLoader", None)  # the second does without
    theirs, ours = (log[0] for log in logs)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    assert [entry["step"] for entry in logs[0]] == [entry["step"] for entry in logs[1]]
    assert logs[0] != logs[1]  # pixels differ by a level here and there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "augmix-m3"], "augment on the CPU"),
        (None, "only with --data"),
    ],
)
def test_what_cannot_be_augmented_there_is_refused_before_training(
    class_folders: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str] | None,
    message: str,
) -> None:
    photographs = [
        "--data",
        str(class_folders),
        "--weights",
        str(weights),
        "--model",
        MODEL,
        "--size",
        str(SIZE),
    ]
    given = [] if options is None else [*photographs, *options]
    assert table3.main([*given, "--augment-on", "device", "--quick", "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/report.json"))
