from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.experiment.job import Table
from engine.scripts.console import table_script
from engine.scripts.options import parse_lams
from small_data import MODEL, write_picture

METHODS = ("fine-tune", "block-output", "msa-output", "GTA")


def run(*arguments: str | Path) -> int:
    return table_script(Table("table3", methods=METHODS), "")([str(argument) for argument in arguments])


def arguments(data: Path, weights: Path, out: Path) -> list[str | Path]:
    given = ["--data", data, "--weights", weights, "--model", MODEL, "--size", "32", "--out", out]
    return [*given, "--steps", "2", "--batch-size", "4", "--rates", "0.5", "--seeds", "0", "--device", "cpu"]


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "run 1 of" not in captured.out  # before any training
    return captured.err


def missing_folder(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[1] = tmp_path / "nowhere"


def folder_is_a_file(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[1] = given[3]


def empty_folder(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    given[1] = tmp_path / "empty"


def no_test_picture(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    for path in (data / "test" / "booby").iterdir():
        path.unlink()


def corrupt_training_picture(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    (data / "train" / "crow" / "2.png").write_bytes(b"no picture")


def truncated_test_picture(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    path = data / "test" / "auk" / "1.png"
    path.write_bytes(path.read_bytes()[:900])


def weights_of_another_model(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    torch.save({"state_dict": {"layer4.0.conv.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    given[3] = tmp_path / "other.pth"


def missing_weights(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[3] = tmp_path / "nowhere.pth"


def no_weights(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    del given[2:4]


def rate_too_small(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[given.index("--rates") + 1] = "0.1"


def too_many_shots(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    place = given.index("--rates")
    given[place : place + 2] = ["--shots", "5"]


def rate_of_200_percent(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[given.index("--rates") + 1] = "2"


def out_is_a_file(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given[given.index("--out") + 1] = tmp_path / "file"


def unknown_method(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given += ["--methods", "fine-tune", "msa-ouput"]


def unknown_model(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[given.index("--model") + 1] = "deit_tiny_patch16_242"


def no_class_token(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[given.index("--model") + 1] = "vit_base_patch16_siglip_224"


def negative_lam(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given += ["--lam", "GTA=-1"]


def lam_of_fine_tuning(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given += ["--lam", "fine-tune=1"]


def no_steps(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[given.index("--steps") + 1] = "0"


def unknown_option(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given.append("--learning-rate=1")


def no_such_augmentation(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given += ["--augment", "quite-a-lot"]


def nothing_held_out(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given += ["--hold-out", "0"]


def odd_batch_of_a_method_without_lam(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[given.index("--batch-size") + 1] = "3"
    given += ["--methods", "GTA", "fine-tune+TransMix", "--lam", "GTA=1", "GTA=10"]


def one_name_twice(data: Path, given: list[str | Path], tmp_path: Path) -> None:
    given[1:2] = [f"a={data}", f"a={data}"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (missing_folder, "cannot read the data folder"),
        (folder_is_a_file, "cannot read the data folder"),
        (empty_folder, "neither index.csv nor train/"),
        (no_test_picture, "no test picture for class booby"),
        (corrupt_training_picture, "train/crow/2.png"),
        (truncated_test_picture, "test/auk/1.png"),
        (weights_of_another_model, "unexpected: layer4.0.conv.weight"),
        (missing_weights, "cannot read the weights"),
        (no_weights, "missing: the pre-trained weights (--weights FILE)"),
        (rate_too_small, "10 % leaves class auk empty"),
        (too_many_shots, "5 per class is more than the 4 training pictures of class auk"),
        (rate_of_200_percent, "--rates 2: expected a share above 0 and at most 1"),
        (out_is_a_file, "cannot write to --out"),
        (unknown_method, "unknown method 'msa-ouput'; did you mean msa-output?"),
        (unknown_model, "did you mean deit_tiny_patch16_224"),
        (no_class_token, "no class token"),
        (negative_lam, "λ is a finite number of at least 0"),
        (lam_of_fine_tuning, "fine-tune has no λ"),
        (no_steps, "--steps 0: expected a whole number above 0"),
        (unknown_option, "unrecognized arguments"),
        (no_such_augmentation, "quite-a-lot"),
        (one_name_twice, "each name once"),
        (nothing_held_out, "expected a share above 0 and below 1"),
        (odd_batch_of_a_method_without_lam, "--batch-size 3 has to be even"),
    ],
)
def test_bad_input_is_one_line_before_any_training(
    class_folders: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    break_it,
    message: str,
) -> None:
    given = arguments(class_folders, weights, tmp_path / "out")
    break_it(class_folders, given, tmp_path)
    assert message in refused(capsys, run(*given))
    assert not list(tmp_path.glob("out/*/DONE"))


def test_preset_says_what_it_misses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, run("--preset", "paper", "--out", tmp_path / "out"))
    assert "weights" in error
    assert "CUB, Cars, Aircraft, Dogs, Pet" in error


def test_preset_runs_on_what_is_there(
    class_folders: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(class_folders, weights, tmp_path / "out")
    given[1] = f"CUB={class_folders}"
    assert run(*given, "--preset", "paper", "--methods", "gta", "--lam", "10") == 0
    shown = capsys.readouterr().out
    assert "Cars, Aircraft, Dogs, Pet are not given and left out" in shown
    written = (tmp_path / "out" / "table3.csv").read_text().splitlines()
    assert len(written) == 2
    assert written[1].startswith("CUB,,50 %,GTA,10.0,1,")


def test_options_of_photographs_are_not_for_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--size only with --data" in refused(capsys, run("--size", "64", "--out", tmp_path))


def test_a_table_and_a_second_start(
    indexed: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(indexed, weights, tmp_path / "out")
    assert run(*given) == 0
    shown = capsys.readouterr().out
    assert "5 runs to do" in shown  # the source's attention and four methods
    assert all(method in shown for method in METHODS)
    tables = {name: (tmp_path / "out" / f"table3.{name}").read_bytes() for name in ("md", "csv", "png")}
    assert b"GTA" in tables["md"]
    assert len(list((tmp_path / "out").glob("*/DONE"))) == 5
    reports = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/report.json")}

    assert run(*given) == 0
    assert "0 runs to do, 5 finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/report.json")} == reports
    assert {name: (tmp_path / "out" / f"table3.{name}").read_bytes() for name in tables} == tables
    out = tmp_path / "out"
    lines = (out / "table3-runs.csv").read_text().splitlines()
    assert lines[0].startswith("data,weights,model,size,share,method,lam,seed")
    assert len(lines) == 1 + len(list(out.glob("*/DONE")))
    assert "```sh\npython recipes/table3.py --data " in (out / "table3.md").read_text()


def test_one_broken_picture_among_two_data_sets(
    class_folders: Path, indexed: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(class_folders / "train" / "auk" / "9.jpg", seed=1).write_bytes(b"\xff\xd8\xff")
    given = arguments(indexed, weights, tmp_path / "out")
    given[2:2] = [class_folders]
    assert "9.jpg" in refused(capsys, run(*given))


def test_a_lam_that_no_row_uses_is_said(
    indexed: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments(indexed, weights, tmp_path / "out"), "--methods", "fine-tune", "--lam", "L2-SP=3"]
    assert run(*given) == 0
    assert "--lam of L2-SP is not used: table3 has no such row here" in capsys.readouterr().out


def test_a_lam_that_is_given_twice_is_one_row() -> None:
    assert parse_lams(["10", "GTA=10", "1"], METHODS)["GTA"] == (10.0, 1.0)
