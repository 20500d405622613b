"""`vitreg models`: the support table in the terminal."""

from __future__ import annotations

import json

import pytest

from support_table import read_table, whole
from vitreg.cli.models import SORTS, lines
from vitreg.cli.support import SupportRow, support_rows

ROWS = support_rows()


def test_the_package_has_the_whole_table() -> None:
    measured = read_table()
    assert [(row.library, row.name, row.queries, row.outputs, row.note) for row in ROWS] == [
        (row.library, row.name, row.queries, row.outputs, row.note) for row in measured
    ]
    assert [row.error or 0 for row in ROWS] == [row.measured for row in measured]
    assert [(row.params, row.size) for row in ROWS if row.params] == [
        (int(row.params), int(row.size)) for row in measured if row.params
    ]


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_224", "swin_tiny_patch4_window7_224", "ViT-B-16-SigLIP", "vit_b_16"]
)
def test_parameters_and_sizes_are_those_of_the_whole_model(name) -> None:
    (row,) = [row for row in ROWS if row.name == name]
    assert whole(row.library, name) == {"params": str(row.params), "size": str(row.size)}


def names(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines()[1:-2]]


def test_all(run) -> None:
    ended = run("models")
    assert names(ended.out) == [row.name for row in ROWS]
    attention, outputs = sum(bool(row.queries) for row in ROWS), sum(bool(row.outputs) for row in ROWS)
    last = ended.out.splitlines()[-1]
    assert last == f"{len(ROWS)} models; attention can be read in {attention}, outputs in {outputs}."


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        (["deit3_small"], lambda name: "deit3_small" in name),
        (["DEIT3_Small"], lambda name: "deit3_small" in name),
        (["vit-b-16"], lambda name: "vit-b-16" in name.lower()),
        (["dinov2", "reg"], lambda name: "dinov2" in name.lower() and "reg" in name.lower()),
        (["swin*224"], lambda name: name.startswith("swin") and name.endswith("224")),
        (["*tiny*", "patch16"], lambda name: "tiny" in name.lower() and "patch16" in name.lower()),
    ],
)
def test_patterns(patterns, matches, run) -> None:
    expected = [row.name for row in ROWS if matches(row.name)]
    assert expected
    assert names(run(["models", *patterns]).out) == expected


def test_one_library(run) -> None:
    found = json.loads(run("models --library torchvision --json").out)
    assert [row["name"] for row in found] == [row.name for row in ROWS if row.library == "torchvision"]
    assert set(found[0]) == set(SupportRow.__dataclass_fields__)


@pytest.mark.parametrize("key", SORTS)
def test_sorted_with_what_has_none_of_it_last(key, run) -> None:
    values = [row[key] for row in json.loads(run(f"models --sort {key} --json").out)]
    known = [value for value in values if value not in (None, "")]
    assert known == sorted(known)
    assert values[: len(known)] == known
    assert len(values) == len(ROWS)


def test_class_tokens_are_shown(run) -> None:
    (line,) = [line for line in run("models deit3_small_patch16_224").out.splitlines() if "deit3" in line]
    assert line.split()[2:5] == ["22.1M", "224", "yes"]
    assert run("models vit_base_patch16_siglip_224").out.splitlines()[1].split()[4] == "no"
    assert run("models ViTMSNModel").out.splitlines()[1].split()[2] == "yes", "a class has no size"


def test_nothing_matches(run) -> None:
    code, out, err = run("models deit3_smal_patch16_224")
    assert (code, out) == (1, "")
    assert "Did you mean 'deit3_small_patch16_224'" in err
    assert "of torchvision" in run("models dino --library torchvision").err
    assert "`vitreg models` lists all" in run("models qqqqqqqq").err


@pytest.mark.parametrize("width", [60, 80, 120, 160, 1000])
def test_lines_fit_the_terminal(width) -> None:
    rows = [row for row in ROWS if "swin_tiny" in row.name or row.name in ("volo_d1_224", "resnet50_clip")]
    written = lines(rows, width)
    table = [line for line in written if not line.startswith("   ")]
    assert len(table) == len(rows) + 1
    narrowest = max(len(line) for line in lines([r for r in rows if r.queries], 10_000))
    assert max(map(len, written)) <= max(width, narrowest + 24)
    everything = " ".join(" ".join(written).split())
    for row in rows:
        for word in row.note.split():
            assert word in everything
    assert len({line.index(" of 10") for line in table if " of 10" in line}) == 1


def test_the_terminal_gives_the_width(run, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "84")
    assert max(map(len, run("models swinv2").out.splitlines())) <= 84
    monkeypatch.delenv("COLUMNS")
    assert not any(line.startswith(" ") for line in run("models swinv2").out.splitlines())
