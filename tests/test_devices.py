"""What is computed on a GPU stays there, and the training loop never waits for it; on a simulated one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from simulated_gpu import SimulatedGpu, simulated_gpu
from small_models import make_vit
from vitreg.cli.self_test import self_test
from vitreg.projections import projections

LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
MASKS = torch.ones(8, 32, 32, dtype=torch.bool).tril()
WAITS = {"bss": ["aten._linalg_eigh.default"]}
"""What waits for the GPU by its nature: torch looks whether the decomposition has succeeded."""


@pytest.fixture
def gpu() -> Iterator[SimulatedGpu]:
    with simulated_gpu() as gpu:
        yield gpu


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def make_pair() -> tuple[nn.Module, nn.Module]:
    """Return a model and the source that it has moved away from, both on the CPU and always the same."""
    torch.manual_seed(0)
    source, model = make_vit(), make_vit().train()
    return model, source


def target_called(name: str) -> vitreg.Penalty | str:
    """Return the penalty of this name, with all the tensors that it may be given, on the CPU."""
    if name == "delta":
        return vitreg.DELTA(layers="all", weights=[torch.arange(16) / 120] * 3)
    return vitreg.CoTuning(relation=torch.eye(5)) if name == "co_tuning" else name


def taken(
    model: nn.Module,
    images: Tensor,
    penalty: Callable[[Tensor], Tensor],
    *,
    passes: int = 1,
    steps: int = 3,
    gpu: SimulatedGpu | None = None,
) -> tuple[float, list[str]]:
    """Return the penalty of the last of a few steps, and what has waited for the GPU in that one."""
    waits: list[str] = []
    labels = LABELS.to(images.device)
    for _ in range(steps):
        model.zero_grad()
        waits = [] if gpu is None else gpu.waits
        waits.clear()
        loss = torch.stack([F.cross_entropy(model(images), labels) for _ in range(passes)]).mean()
        value = penalty(loss)
        (loss + value).backward()
        assert value.device == images.device
        waits = list(waits)
    return value.item(), waits


@pytest.mark.parametrize("name", vitreg.list_penalties())
def test_penalties(name: str, images: Tensor) -> None:
    def step(device: str, gpu: SimulatedGpu | None) -> tuple[float, list[str]]:
        model, source = make_pair()
        with vitreg.attach(model, source, target_called(name)) as attachment:
            model.to(device)  # which the source follows, its head as well
            return taken(
                model,
                images.to(device),
                lambda _: attachment.penalty(labels=LABELS, masks=MASKS),
                passes=2 if name == "r_drop" else 1,
                gpu=gpu,
            )

    expected = step("cpu", None)[0]
    with simulated_gpu() as gpu:
        value, waits = step("cuda", gpu)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert waits == WAITS.get(name, [])


def test_extractors(gpu: SimulatedGpu, images: Tensor) -> None:
    model, source = make_pair()
    model.cuda()
    with vitreg.attach(model, source, vitreg.list_extractors()) as attachment:
        assert taken(model, images.cuda(), lambda _: attachment.penalty(), gpu=gpu)[1] == []


def test_lower_precision(gpu: SimulatedGpu, images: Tensor) -> None:
    model, source = make_pair()
    model.cuda()
    lower = vitreg.FrozenSource(source, autocast=torch.bfloat16)
    scaler, optimizer = torch.amp.GradScaler("cuda"), torch.optim.AdamW(model.parameters())
    attached = vitreg.attach(model, lower, ["attn_logits", "l2sp"])
    with attached as attachment, vitreg.project(model, optimizer, source, "ftp"):
        for _ in range(3):
            gpu.waits.clear()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = F.cross_entropy(model(images.cuda()), LABELS.cuda()) + attachment.penalty()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [wait for wait in gpu.waits if not wait.startswith("to")] == ["aten._local_scalar_dense.default"]


@pytest.mark.parametrize("where", ["memory", "files"])
def test_a_remembered_source(gpu: SimulatedGpu, images: Tensor, where: str, tmp_path: Path) -> None:
    model, source = make_pair()
    model.cuda()
    cached = vitreg.CachedSource(source, 8, path=tmp_path if where == "files" else None)
    with vitreg.attach(model, cached) as attachment:
        waits = taken(model, images.cuda(), lambda _: attachment.penalty(views=range(8)), gpu=gpu)[1]
    assert waits == []


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"budget": 0.1}])
def test_balance(gpu: SimulatedGpu, images: Tensor, options: dict[str, float]) -> None:
    model, source = make_pair()
    model.cuda()
    images = images.cuda()
    with vitreg.attach(model, source) as attachment:

        def penalty(loss: Tensor) -> Tensor:
            return attachment.balance(loss, start=0, interval=1, **options)

        taken(model, images, penalty)
        attachment.load_state_dict(attachment.state_dict())
        assert taken(model, images, penalty, steps=1, gpu=gpu)[1] == []


def test_a_part_of_the_pictures_at_some_steps(gpu: SimulatedGpu, images: Tensor) -> None:
    model, source = make_pair()
    model.cuda()
    with vitreg.attach(model, source, every=2, fraction=0.5) as attachment:
        for _ in range(2):  # one of which is due
            assert taken(model, images.cuda(), lambda _: attachment.penalty(), gpu=gpu)[1] == []


def test_transmix(gpu: SimulatedGpu, images: Tensor) -> None:
    model, _ = make_pair()
    model.cuda()
    images, labels = images.cuda(), LABELS.cuda()
    mix = vitreg.TransMix(model, num_classes=5, mixup_alpha=0)
    for seed in range(2):
        np.random.seed(seed)
        gpu.waits.clear()
        mixed, _ = mix(images, labels)
        mix.loss(model(mixed)).backward()
    assert gpu.waits == []


@pytest.mark.parametrize("is_moved_late", [False, True])
@pytest.mark.parametrize("name", vitreg.list_projections())
def test_projections(gpu: SimulatedGpu, images: Tensor, name: str, is_moved_late: bool) -> None:
    kind = projections[name]
    radius = {"radius": 0.01} if "radius" in inspect.signature(kind).parameters else {}
    model, source = make_pair()
    if not is_moved_late:
        model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    with vitreg.project(model, optimizer, source, kind(**radius)) as projector:
        model.cuda()
        for _ in range(3):
            gpu.waits.clear()
            F.cross_entropy(model(images.cuda()), LABELS.cuda()).backward()
            gpu.waits.clear()
            optimizer.step()
            waits = list(gpu.waits)
            projector.load_state_dict(projector.state_dict())
    assert waits == []


@pytest.mark.parametrize(("device", "of_batches"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_linear_probe(gpu: SimulatedGpu, images: Tensor, device: str, of_batches: str) -> None:
    model = make_pair()[0].to(device)
    batches = [((images + shift).to(of_batches), LABELS.to(of_batches)) for shift in (0, 1)]
    probe = vitreg.fit_head(model, batches, weight_decays=(0.1,))
    assert probe.train_accuracy > 0.5
    assert model.head.weight.device.type == device


def test_measures(gpu: SimulatedGpu, images: Tensor) -> None:
    model, source = (one.cuda() for one in make_pair())
    own, batches = images.cuda(), [(images, LABELS)]
    m = vitreg.measure
    measured = [
        m.attention_drift(model, source, own),
        *m.attention_maps(model, own),
        m.attention_outliers(model, own).norms,
        m.attention_rollout(model, own),
        *m.channel_weights(model, batches),
        m.class_relation(source, batches, 5),
        m.object_share(model, own, MASKS),
        m.relevance(model, own, LABELS),
    ]
    assert {value.device for value in measured} == {torch.device("cuda:0")}
    assert 0 <= m.feature_similarity(model, source, own, k=2).cka <= 1


def test_interpolation(gpu: SimulatedGpu) -> None:
    model, source = make_pair()
    start = {name: value.clone() for name, value in source.state_dict().items()}
    vitreg.interpolate(model.cuda(), start, 0.5)
    soup = vitreg.uniform_soup([model.state_dict(), start])
    assert {value.device.type for value in soup.values()} == {"cuda"}


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="the backward pass of older versions makes zeros that the simulation does not see",
)
def test_the_self_test(gpu: SimulatedGpu) -> None:
    assert [check for check in self_test(torch.device("cuda")) if not check.ok] == []


def test_the_simulation_refuses_what_a_gpu_does(gpu: SimulatedGpu) -> None:
    one, other = torch.ones(2, device="cuda"), torch.ones(2)
    assert (one.device, other.device) == (torch.device("cuda:0"), torch.device("cpu"))
    for mixed in (lambda: one + other, lambda: torch.stack([one.sum(), other.sum()])):
        with pytest.raises(RuntimeError, match="on cuda:0"):
            mixed()
    with pytest.raises(RuntimeError, match="not waited for"):
        one.to("cpu", non_blocking=True)
    assert (one * other.sum()).is_cuda
    assert gpu.waits == []
    assert one.sum().item() == 2
    assert gpu.waits == ["aten._local_scalar_dense.default"]
