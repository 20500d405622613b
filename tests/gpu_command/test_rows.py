"""The rows in the order of their worth, shared among processes, and known when they are finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpu_steps.claims import FAILED, FINISHED, Claims
from gpu_steps.rows import SETS, Row, finished_rows, planned_rows, read_rows, write_rows

ROWS = planned_rows(list(SETS))


def test_what_matters_most_comes_first() -> None:
    first = [(row.data, row.method, row.lam, row.seed, row.steps) for row in ROWS[:5]]
    assert first == [
        ("cub36", "linear-probe", None, 0, 400),
        ("cub36", "fine-tune", None, 0, 400),
        ("cub36", "GTA", 10.0, 0, 400),
        ("cub36", "msa-output", 10.0, 0, 400),
        ("cub36", "block-output", 10.0, 0, 400),
    ]
    assert [row.method for row in ROWS[5:7]] == ["LP-FT", "LP-FT+GTA"]
    assert [row.data for row in ROWS[:28:7]] == ["cub36", "cars98", "grocery60", "pets3"]
    assert {row.seed for row in ROWS[:28]} == {0}
    assert {row.seed for row in ROWS[:140]} == set(range(5))
    assert {row.lam for row in ROWS[140:260]} == {1.0, 100.0}
    assert {row.steps for row in ROWS[260:]} == {4000}
    assert "linear-probe" not in {row.method for row in ROWS[140:]}
    assert [row.stage for row in ROWS] == sorted(row.stage for row in ROWS)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_rows_come_back_from_a_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.json", ROWS)
    assert read_rows(tmp_path / "rows.json") == ROWS


def store(out: Path, row: Row, **changed: object) -> Path:
    folder = out / f"{len(list(out.glob('*')))}"
    folder.mkdir(parents=True)
    share = {"rate": 1.0} if row.shots is None else {"shots": row.shots}
    configuration = {"data": row.data, "method": row.method, "lam": row.lam, "seed": row.seed, "share": share}
    configuration |= {"hyper": {"steps": row.steps}, **changed}
    (folder / "report.json").write_text(json.dumps({"configuration": configuration}))
    (folder / "DONE").touch()
    return folder


def test_a_finished_row_is_found_by_its_configuration(tmp_path: Path) -> None:
    probe, plain, guided = ROWS[:3]
    store(tmp_path, plain)
    store(tmp_path, guided, seed=9)
    store(tmp_path, probe, hyper=None)  # a method without steps
    assert finished_rows(ROWS, tmp_path) == {plain.name, probe.name}


@pytest.mark.parametrize("missing", ["DONE", "report.json"])
def test_half_a_run_is_not_finished(tmp_path: Path, missing: str) -> None:
    (store(tmp_path, ROWS[1]) / missing).unlink()
    assert finished_rows(ROWS, tmp_path) == set()


def test_each_row_is_claimed_once_and_stages_in_order(tmp_path: Path) -> None:
    processes = [Claims(tmp_path) for _ in range(3)]
    loaded: list[set[str]] = [set() for _ in processes]
    claimed: list[Row] = []
    while True:
        taken = [claims.next_row(ROWS, loaded[turn], turn) for turn, claims in enumerate(processes)]
        for turn, row in enumerate(taken):
            if row is not None:
                loaded[turn].add(row.data)
                claimed.append(row)
        if None in taken:
            break
    assert sorted(row.name for row in claimed) == sorted(row.name for row in ROWS)
    assert [row.stage for row in claimed] == sorted(row.stage for row in ROWS)
    assert [row.data for row in claimed[:3]] == ["cub36", "cars98", "grocery60"]  # each loads another


def test_a_process_stays_with_the_pictures_that_it_has(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    taken = [claims.next_row(ROWS, {"pets3"}, turn=0) for _ in range(8)]
    assert [row.data for row in taken if row is not None] == ["pets3"] * 7 + ["cub36"]


def test_marks_are_read_by_others_and_a_released_row_is_free(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    first, second = claims.next_row(ROWS, (), 0), claims.next_row(ROWS, (), 0)
    assert first is not None
    assert second is not None
    claims.mark(first, FAILED, "RuntimeError: of\nmany lines")
    claims.release(second)
    assert Claims(tmp_path).of_state(ROWS, FAILED) == {first.name: "RuntimeError: of many lines"}
    assert Claims(tmp_path).of_state(ROWS, FINISHED) == {}
    assert claims.next_row(ROWS, (), 0) == second
