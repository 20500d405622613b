from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from small_data import MODEL, SIZE
from vitreg.errors import InputError
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import photo_task
from vitreg.train.models.weights import load_model
from vitreg.train.training.evaluation import evaluate
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.train.training.loop import train

ROOT = Path(__file__).resolve().parents[3]
HYPER = Hyperparameters(steps=6, batch_size=4, lr=1e-3, weight_decay=0.05, smoothing=0.1, drop_path=0.1)


@pytest.fixture
def task(indexed: Path) -> Task:
    return photo_task(read_folder(indexed), name="indexed", size=SIZE, augment="rand-m9-mstd0.5-inc1")


def trained(
    task: Task,
    state: dict[str, Tensor],
    *,
    method: str = "fine-tune",
    lam: float | None = None,
    workers: int = 0,
    lr: float = 1e-3,
) -> tuple[nn.Module, list[dict[str, float]]]:
    torch.manual_seed(1)
    model = load_model(MODEL, state, num_classes=2, size=SIZE, drop_path=0.1)
    hyper = Hyperparameters(**{**vars(HYPER), "lr": lr})
    log = train(
        model,
        task,
        range(8),
        hyper,
        method=method,
        lam=lam,
        seed=3,
        accelerator=Accelerator(cpu=True),
        workers=workers,
    )
    return model, log


def test_training_repeats_exactly_whatever_reads_the_pictures(task: Task, state: dict[str, Tensor]) -> None:
    first, first_log = trained(task, state)
    torch.rand(7)  # what happened before does not matter, only the seed of the run
    second, second_log = trained(task, state, workers=2)
    assert first_log == second_log
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    started = load_model(MODEL, state, num_classes=2, size=SIZE)
    assert not torch.equal(first.blocks[0].attn.qkv.weight, started.blocks[0].attn.qkv.weight)


def test_schedule_is_a_cosine_with_warm_up(task: Task, state: dict[str, Tensor]) -> None:
    model = load_model(MODEL, state, num_classes=2, size=SIZE)
    hyper = Hyperparameters(steps=8, batch_size=4, lr=1e-3, weight_decay=0.0, warmup_epochs=1)
    log = train(model, task, range(8), hyper, seed=0, accelerator=Accelerator(cpu=True))
    rates = [entry["lr"] for entry in log]
    cosine = [1e-3 * (1 + torch.cos(torch.tensor(torch.pi * step / 8)).item()) / 2 for step in range(8)]
    assert rates[:2] == pytest.approx([1e-6, 1e-6 + (1e-3 - 1e-6) / 2])  # 8 pictures in batches of 4: 2 steps
    assert rates[2:] == pytest.approx(cosine[2:])


def test_guide_keeps_the_attention_and_is_gone_afterwards(task: Task, state: dict[str, Tensor]) -> None:
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in timm.create_model(MODEL).modules())
    assert hooks == 0
    model, log = trained(task, state, method="GTA", lam=1000.0)
    weak_model, weak_log = trained(task, state, method="GTA", lam=0.0)
    term = next(name for name in log[0] if name not in ("step", "loss", "lr"))
    assert log[0][term] == pytest.approx(weak_log[0][term])
    assert log[-1][term] < weak_log[-1][term]
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0
    assert not torch.equal(model.head.weight, weak_model.head.weight)


def test_loss_that_is_not_finite_stops_the_run(task: Task, state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="the loss is not finite at step"):
        trained(task, state, lr=1e30)


def test_metrics_against_loops(task: Task, state: dict[str, Tensor]) -> None:
    torch.manual_seed(2)
    model = load_model(MODEL, state, num_classes=2, size=SIZE).eval()
    metrics = evaluate(model, task, accelerator=Accelerator(cpu=True))
    mean, std = torch.tensor(task.mean), torch.tensor(task.std)
    right = 0
    for picture, label in zip(task.test, task.test_labels, strict=True):
        x = (picture.permute(1, 2, 0) / 255 - mean) / std
        right += int(model(x.permute(2, 0, 1)[None]).argmax()) == label
    assert metrics["top1"] == pytest.approx(100 * right / len(task.test))
    assert len(metrics["object_share"]) == len(metrics["jaccard"]) == len(model.blocks)
    assert all(0 < share < 1 for share in metrics["object_share"])
    without_head = evaluate(model, task, accelerator=Accelerator(cpu=True), has_head=False)
    assert "top1" not in without_head
    assert without_head["object_share"] == metrics["object_share"]


def test_uniform_attention_looks_at_the_object_as_much_as_it_is_large(
    task: Task, state: dict[str, Tensor]
) -> None:
    flat = {key: torch.zeros_like(value) if "qkv" in key else value for key, value in state.items()}
    metrics = evaluate(
        load_model(MODEL, flat, num_classes=2, size=SIZE), task, accelerator=Accelerator(cpu=True)
    )
    assert task.test_masks is not None
    area = float(task.test_masks.float().mean())
    assert 0.1 < area < 0.9
    assert metrics["object_share"] == pytest.approx([area] * len(metrics["object_share"]), abs=1e-5)


def command(data: Path, weights: Path, out: Path) -> list[str]:
    script = [
        sys.executable,
        str(ROOT / "recipes" / "table3.py"),
        "--data",
        str(data),
        "--weights",
        str(weights),
    ]
    small = ["--model", MODEL, "--size", "32", "--steps", "25", "--batch-size", "4", "--rates", "0.5", "1.0"]
    return [
        *script,
        *small,
        "--seeds",
        "0",
        "1",
        "--methods",
        "fine-tune",
        "GTA",
        "--device",
        "cpu",
        "--out",
        str(out),
    ]


def figures(out: Path) -> dict[str, Any]:
    stored = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/report.json")}
    return {name: (report["metrics"], report["log"]) for name, report in stored.items()}


@pytest.mark.slow
def test_killed_table_ends_with_the_figures_of_an_unbroken_one(
    indexed: Path, weights: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(indexed, weights, whole), env=environment, check=True, capture_output=True)

    done_at_kill = []
    for wanted in (2, 5):
        process = subprocess.Popen(
            command(indexed, weights, broken), env=environment, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        # Killed inside a run: it has its folder, and not yet its DONE.
        while True:
            done = len(list(broken.glob("*/DONE")))
            if done >= wanted and len(list(broken.glob("*/lock"))) > done:
                break
            assert process.poll() is None, "the table was finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done_at_kill.append(len(list(broken.glob("*/DONE"))))
    assert done_at_kill[0] < done_at_kill[1] < 9
    assert not (broken / "table3.csv").exists()

    subprocess.run(command(indexed, weights, broken), env=environment, check=True, capture_output=True)
    assert len(figures(whole)) == 9
    assert figures(broken) == figures(whole)
    for name in ("table3.csv", "table3.md", "table3.png"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_two_processes_share_one_table(indexed: Path, weights: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    out = tmp_path / "shared"
    processes = [
        subprocess.Popen(command(indexed, weights, out), env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    shown = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(figures(out)) == 9
    # Each run was done by one of the two, and both print the whole table.
    assert sum(text.count("\nrun ") for text in shown) == 9
    assert all(text.count("GTA") >= 2 for text in shown)
