from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

from finetuned import LEARNT, WRITTEN, arguments, contents, run, table
from small_data import MODEL, SIZE, write_picture
from vitreg.errors import InputError
from vitreg.train import FinetuneOptions, PredictOptions, finetune, predict
from vitreg.train import result as results
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.models.stored import MODEL_FILE, load_stored
from vitreg.train.training.evaluation import evaluate


def test_what_is_written_agrees(result: Path, class_folders: Path) -> None:
    assert {path.name for path in result.iterdir() if path.is_file()} == WRITTEN | {"lock"}
    folder = read_folder(class_folders)
    rows = table(result / "predictions.csv")
    assert [class_folders / row["path"] for row in rows] == [sample.path for sample in folder.test]
    assert [row["true"] for row in rows] == [folder.classes[sample.label] for sample in folder.test]
    right = [row["true"] == row["predicted"] for row in rows]
    assert 0 < sum(right) < len(right)
    report = json.loads((result / "report.json").read_text())
    assert report["metrics"]["top1"] == pytest.approx(100 * sum(right) / len(right))
    assert report["metrics"]["per_class"] == pytest.approx(
        {name: 50.0 * sum(right[2 * label : 2 * label + 2]) for label, name in enumerate(folder.classes)}
    )
    assert (report["fine_tuned"]["method"], report["fine_tuned"]["lam"]) == ("LP-FT+GTA", 1.0)
    assert (report["measured_on"], report["num_measured"]) == ("the test pictures", 6)
    assert {"log", "machine", "seconds"} <= report.keys()

    model, _ = load_stored(result)
    task = photo_task(folder, name="", size=SIZE, augment="none")
    metrics = evaluate(model, task, accelerator=Accelerator(cpu=True))
    assert metrics["top1"] == report["metrics"]["top1"]


def test_a_second_start_trains_nothing_and_changes_nothing(
    result: Path,
    class_folders: Path,
    weights: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(result)
    monkeypatch.setattr("vitreg.train.runs.run.trained_model", None)
    assert run(*arguments(class_folders, weights, result), *LEARNT) == 0
    assert "finished before" in capsys.readouterr().out
    assert contents(result) == before


@pytest.mark.slow
def test_stopped_while_writing_it_ends_with_the_files_of_an_unbroken_one(
    result: Path, class_folders: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken" / result.name  # which the page's commands name
    given = [*arguments(class_folders, weights, broken), *LEARNT]
    with monkeypatch.context() as patch:

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(results, "html_report", stopped)
        assert run(*given) == 130
    written = {path.name for path in broken.iterdir() if path.is_file()}
    assert "model.safetensors" in written
    assert not {"report.html", "report.json"} & written
    assert run(*given) == 0
    whole, mended = contents(result), contents(broken)
    seconds = [json.loads(files.pop("report.json")).pop("seconds") for files in (whole, mended)]
    assert all(second > 0 for second in seconds)
    assert mended == whole


@pytest.mark.slow
def test_another_method_in_the_same_folder_replaces_the_model(
    class_folders: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "out"
    given = [*arguments(class_folders, weights, result), *LEARNT, "--select", "none"]
    assert run(*given) == 0
    _, first = load_stored(result)
    before = contents(result)
    assert run(*given, "--method", "fine-tune") == 0
    _, second = load_stored(result)
    assert "GTA" in first.run
    assert "LP-FT_" in second.run
    assert (result / "predictions.csv").read_bytes() != before["predictions.csv"]
    monkeypatch.setattr("vitreg.train.runs.run.trained_model", None)
    assert run(*given) == 0  # its run is finished: it is not trained again
    assert (result / "model.safetensors").read_bytes() == before["model.safetensors"]


@pytest.mark.parametrize("has_train", [True, False])
def test_without_test_pictures_a_part_is_held_out(
    has_train: bool,
    class_folders: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (class_folders / "test").rename(tmp_path / "away")
    data = class_folders if has_train else class_folders / "train"
    assert run(*arguments(data, weights, tmp_path / "out"), "--hold-out", "0.5", "--select", "none") == 0
    shown = capsys.readouterr().out
    assert "6 pictures are held out for testing, 6 are used for training" in shown
    rows = table(tmp_path / "out" / "predictions.csv")
    assert Counter(row["true"] for row in rows) == {"auk": 2, "booby": 2, "crow": 2}
    assert all((data / row["path"]).is_file() for row in rows)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["measured_on"] == "pictures held out from training"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "GTAA"], "did you mean GTA?"),
        (["--method", "fine-tune", "--lam", "1"], "fine-tune has no λ"),
        (["--lam", "-1"], "--lam -1: expected a number of at least 0"),
        (["--search", "--lam", "1"], "--search chooses method and λ itself"),
        (["--lams", "1"], "--lams only with --search"),
        (["--block", "6"], "has blocks 0 to 5"),
        (["--hold-out", "0"], "--hold-out 0: expected a share above 0"),
        (["--model", "deit_tiny_patch16_242"], "did you mean deit_tiny_patch16_224"),
        (["--data", "{tmp}/nowhere"], "cannot read the data folder"),
        (["--data", "{data}/train/auk"], "expected a folder of pictures for each class"),
        (["--data", "{tmp}/single"], "found only dodo"),
        (["--data", "{tmp}/hollow"], "no picture in emu"),
        (["--out", "{weights}"], "cannot write to --out"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    message: str,
    class_folders: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("single", "hollow"):
        write_picture(tmp_path / folder / "dodo" / "0.png", seed=0)
    (tmp_path / "hollow" / "emu").mkdir()
    known = {"tmp": tmp_path, "data": class_folders, "weights": weights}
    given = [word.format(**known) for word in words]
    assert run(*arguments(class_folders, weights, tmp_path / "out"), *given) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.glob("out/*/DONE"))


def test_what_is_missing_is_asked_for_at_once(
    class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--data", class_folders) == 2
    assert "missing: the pre-trained weights (--weights FILE" in capsys.readouterr().err
    assert run() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: missing: a folder with your pictures, FOLDER/CLASS/*.jpg")
    assert "; the pre-trained weights (--weights FILE" in error
    assert run(class_folders, "--data", class_folders, "--weights", "timm") == 2
    assert "one folder of pictures is expected" in capsys.readouterr().err


@pytest.mark.slow
def test_the_folder_goes_without_a_flag_and_python_does_the_same(
    result: Path, class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, *rest = arguments(class_folders, weights, tmp_path / "positional")
    assert run(class_folders, *rest, *LEARNT) == 0
    capsys.readouterr()
    options = FinetuneOptions(model=MODEL, size=SIZE, steps=2, batch_size=4, lr=1e-3, seed=3, device="cpu")
    out = tmp_path / "python"
    quiet = Console(quiet=True)
    found = finetune(class_folders, weights=weights, out=out, options=options, console=quiet)
    assert capsys.readouterr().out == ""
    for other in (out, tmp_path / "positional"):
        assert (other / MODEL_FILE).read_bytes() == (result / MODEL_FILE).read_bytes()
    assert (found.card.classes, found.out) == (("auk", "booby", "crow"), out)
    right = found.probabilities.argmax(1) == torch.tensor([0, 0, 1, 1, 2, 2])
    assert found.report.metrics["top1"] == pytest.approx(100 * float(right.float().mean()))
    again = predict(class_folders / "test", model=out, options=PredictOptions(device="cpu"), console=quiet)
    assert again.out is None
    torch.testing.assert_close(again.probabilities, found.probabilities)
    with pytest.raises(InputError, match="--steps 0: expected a whole number above 0"):
        FinetuneOptions(steps=0)


def test_other_test_sets_are_told_and_choose_nothing(
    result: Path,
    class_folders: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, name in enumerate(("auk", "crow", "crow")):
        write_picture(tmp_path / "outdoors" / name / f"{number}.png", seed=700 + number)
    out = tmp_path / "out" / result.name
    given = [*arguments(class_folders, weights, out), *LEARNT]
    assert run(*given, "--test", f"outdoors={tmp_path / 'outdoors'}") == 0
    shown = capsys.readouterr().out
    assert "outdoors (3 pictures): linear probe " in shown
    assert "predictions-outdoors.csv" in shown
    assert (out / "model.safetensors").read_bytes() == (result / "model.safetensors").read_bytes()
    assert (out / "predictions.csv").read_bytes() == (result / "predictions.csv").read_bytes()
    rows = table(out / "predictions-outdoors.csv")
    assert [row["true"] for row in rows] == ["auk", "crow", "crow"]
    right = [row["true"] == row["predicted"] for row in rows]
    figures = json.loads((out / "report.json").read_text())["tests"]["outdoors"]
    assert figures["top1"] == pytest.approx(100 * sum(right) / 3)
    assert figures["points"] == pytest.approx(figures["fine_tuned_top1"] - figures["linear_probe_top1"])
    assert "On other pictures" in (out / "report.html").read_text()
    assert run(*given) == 0  # without it, its predictions would be another model's some day
    assert not (out / "predictions-outdoors.csv").exists()
    assert "On other pictures" not in (out / "report.html").read_text()


def test_test_sets_share_no_picture_with_the_training(
    class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(class_folders, weights, tmp_path / "out")
    (trained, *_) = sorted((class_folders / "train" / "auk").iterdir())
    copy = tmp_path / "outdoors" / "auk" / trained.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(trained.read_bytes())
    write_picture(tmp_path / "outdoors" / "crow" / "1.png", seed=701)
    assert run(*given, "--test", f"outdoors={tmp_path / 'outdoors'}") == 2
    assert f"{copy} is a training picture, too" in capsys.readouterr().err
    assert run(*given, "--test", f"a/b={tmp_path / 'outdoors'}") == 2
    assert "expected a split of index.csv or NAME=DIR, each name once" in capsys.readouterr().err
