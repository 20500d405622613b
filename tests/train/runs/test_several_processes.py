"""One run on two processes is the run of one: weights, figures, what is written and what is said."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

import vitreg
from engine.demo.dataset import drawn_start
from launched import (
    HYPER,
    accelerator_of,
    create,
    executed,
    planned,
    stored,
    task_of,
    together,
)
from two_processes import FSDP2_ON_CPU
from vitreg.errors import InputError
from vitreg.files import lock
from vitreg.train.basics import distributed as processes
from vitreg.train.basics.distributed import disconnect, on_main, rank, world_size
from vitreg.train.basics.sharding import shard
from vitreg.train.data.photographs import Photos
from vitreg.train.runs.run import trained_model
from vitreg.train.training import evaluation as evaluate
from vitreg.train.training import loop, step
from vitreg.train.training.device import make_accelerator
from vitreg.train.training.guided_model import Applied
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.methods import METHODS as ROWS
from vitreg.train.training.methods import Method
from vitreg.train.training.step import check_step

METHODS = ("fine-tune", "GTA", "BSS", "L2-SP")
FSDP = replace(HYPER, fsdp=True)


def trained(data: Path, out: Path, precision: str, methods: tuple[str, ...], hyper: Hyperparameters) -> int:
    accelerator, picture, drawn = accelerator_of(precision), Photos.picture, list[int]()
    own, sharded = loop.Step, list[bool]()

    def counted(self: Photos, index: int, *, seed: int) -> torch.Tensor:
        drawn.append(seed)
        return picture(self, index, seed=seed)

    def watched(model: nn.Module, replica: nn.Module, applied: Applied, *given: Any) -> loop.Step:
        sharded.extend(hasattr(p, "placements") for m in (*applied.blocks(), model) for p in m.parameters())
        return own(model, replica, applied, *given)

    setattr(Photos, "picture", counted)  # noqa: B010
    setattr(loop, "Step", watched)  # noqa: B010
    for run in planned(data, methods, hyper):
        run = replace(run, configuration=replace(run.configuration, measure_every=4))
        model, log = trained_model(run, accelerator=accelerator, workers=0)
        assert "forward" not in vars(model)
        torch.save((dict(model.state_dict()), log, drawn), out / f"{run.configuration.method}{rank()}.pt")
        drawn.clear()
    setattr(Photos, "picture", picture)  # noqa: B010
    setattr(loop, "Step", own)  # noqa: B010
    assert set(sharded) == {hyper.fsdp and world_size() > 1}  # of the source, too
    disconnect()
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hyper", "precision", "methods", "near"),
    [
        (HYPER, "no", METHODS, 2e-4),
        (HYPER, "bf16", ("GTA",), 5e-3),
        pytest.param(FSDP, "no", ("BSS", "LP-FT+LwF", "attention-only"), 5e-4, marks=FSDP2_ON_CPU),
        pytest.param(
            replace(FSDP, micro_batch=1, grad_checkpointing=True),
            *("no", ("GTA", "L2-SP"), 2e-4),
            marks=FSDP2_ON_CPU,
        ),
    ],
    ids=["no", "bf16", "fsdp", "fsdp-parts"],
)
def test_weights_and_log_are_those_of_one_process(
    boxed: Path, tmp_path: Path, hyper: Hyperparameters, precision: str, methods: tuple[str, ...], near: float
) -> None:
    outs = one, two = tmp_path / "one", tmp_path / "two"
    for out in outs:
        out.mkdir()
    given = precision, methods, hyper
    ended = together(trained, boxed, two, *given, folder=tmp_path / "said")
    assert ended.codes == [0, 0], ended
    AcceleratorState._reset_state(True)  # which keeps the precision of the tests before
    trained(boxed, one, *given)
    AcceleratorState._reset_state(True)
    for method in methods:
        weights, log, drawn = stored(one, f"{method}0")
        theirs, their_log, first = stored(two, f"{method}0")
        others, others_log, second = stored(two, f"{method}1")
        assert their_log == others_log
        assert len(first) == len(second) == HYPER.steps * HYPER.batch_size // 2
        assert sorted(first + second) == sorted(drawn)
        assert len(log) == len(their_log) == HYPER.steps
        assert [entry["step"] for entry in log if "top1" in entry] == [3, 5]
        for entry, theirs_entry in zip(log, their_log, strict=True):
            assert theirs_entry == pytest.approx(entry, rel=near, abs=near)
        for name, weight in weights.items():
            assert torch.equal(theirs[name], others[name])
            # A bias of the keys changes nothing: its gradient is rounding, which AdamW makes large.
            torch.testing.assert_close(theirs[name], weight, rtol=0, atol=near)


def measured(data: Path, out: Path, sizes: tuple[int, ...]) -> int:
    accelerator, task, told = accelerator_of("no"), task_of(data), []
    for size in sizes:
        setattr(evaluate, "BATCH_SIZE", size)  # noqa: B010
        model = create(2, 0.0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            torch.nn.init.normal_(model.head.weight)
        seen: list[int] = []
        metrics = evaluate.evaluate(model, task, accelerator=accelerator, on_batch=seen.append)
        alone = on_main(lambda: evaluate.evaluate(create(2, 0.0), task, accelerator=accelerator))
        told.append((metrics, seen, alone["object_share"]))
    drawn_start(out / f"cache{rank()}", is_quick=True, on_step=lambda done, total: None)
    torch.save(told, out / f"{rank()}.pt")
    disconnect()
    return 0


@pytest.mark.slow
def test_metrics_are_those_of_one_process(boxed: Path, tmp_path: Path) -> None:
    sizes = (100, 3)
    assert together(measured, boxed, tmp_path, sizes, folder=tmp_path / "said").codes == [0, 0]
    main, other = stored(tmp_path, "0"), stored(tmp_path, "1")
    assert [path.name for path in tmp_path.glob("cache*")] == ["cache0"]  # pre-trained by one
    before = evaluate.BATCH_SIZE
    measured(boxed, tmp_path, sizes)
    evaluate.BATCH_SIZE = before
    for (metrics, seen, alone), theirs, others in zip(stored(tmp_path, "0"), main, other, strict=True):
        assert (theirs[0], theirs[2]) == (others[0], others[2])
        assert (sum(seen), sum(theirs[1])) == (11, 10)  # which is what the bar needs
        assert theirs[0].keys() == metrics.keys()
        assert theirs[0]["per_class"] == metrics["per_class"]
        assert 0 < metrics["top1"] < 100
        assert theirs[0]["top1"] == metrics["top1"]
        for name in ("object_share", "jaccard"):
            assert theirs[0][name] == pytest.approx(metrics[name])
        assert theirs[2] == alone == pytest.approx(metrics["object_share"])


@pytest.mark.slow
def test_run_of_another_command_is_left_for_last(boxed: Path, tmp_path: Path) -> None:
    first, second = (tmp_path / run.configuration.folder for run in planned(boxed, ("fine-tune", "GTA")))
    with ThreadPoolExecutor() as pool:
        with lock(first, wait=False):
            ended = pool.submit(together, executed, boxed, tmp_path, HYPER, 0, folder=tmp_path / "said")
            while not (second / "DONE").exists():
                assert not ended.done()
                time.sleep(0.05)
            assert not (first / "report.json").exists()
        assert ended.result().codes == [0, 0]
    assert (first / "DONE").exists()
    assert stored(tmp_path, "0") == stored(tmp_path, "1")


@pytest.mark.parametrize(("variable", "name"), processes.REFUSED.items())
def test_shared_out_models_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str, name: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{variable}", "true")
    with pytest.raises(InputError, match=f"expected to work with DDP, found {name} .* --multi_gpu"):
        make_accelerator("cpu")


def test_weights_that_torch_cannot_divide_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu.Stream, "record_event", raising=False)
    with pytest.raises(InputError, match=r"--fsdp: torch .* does this on GPUs alone; use torch 2\.11"):
        shard([nn.Linear(2, 2)], torch.device("cpu"))


class Shift(vitreg.ParameterPenalty):
    def selects(self, name: str, parameter: Tensor) -> bool:
        return True

    def value(self, parameters: Any, start: Any, head: Any) -> Tensor:
        return torch.stack([parameter.sum() for parameter in parameters]).sum()


@pytest.mark.parametrize("method", ["LoRA", "GTA+SPD", "Shift", "GTA"])
def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setitem(ROWS, "Shift", Method(lambda lam: Shift(lam=lam), grid=(1.0,)))
    hyper = replace(FSDP, balance=0.1 if method == "GTA" else 0.0)
    check_step(hyper, [method])  # one process shares nothing out
    monkeypatch.setattr(step, "world_size", lambda: 2)
    with pytest.raises(InputError, match=rf"^{re.escape(method)} does not go with --fsdp.*; leave one out"):
        check_step(hyper, [method])
    check_step(replace(hyper, fsdp=False), [method])
    check_step(FSDP, ["L2-SP", "BSS", "GTA+TransMix"])
