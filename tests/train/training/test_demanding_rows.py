"""The rows that need more than pictures: the source's own head, two passes a step, outlines of objects."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import vitreg
from checkpointed import executed, same, stopped_run, trained
from finetuned import arguments, run, table
from small_data import MODEL, SIZE, write_index, write_picture
from small_models import make_vit
from small_runs import HYPER, count_steps, create
from vitreg.errors import InputError
from vitreg.train.data.batches import Batches, Draws
from vitreg.train.data.dataset import Task
from vitreg.train.data.folder import read_folder
from vitreg.train.data.photographs import MEMORY_LIMIT, Photos, photo_task
from vitreg.train.data.subset import Share
from vitreg.train.models.start import Start
from vitreg.train.runs.plan import Design, Run, plan
from vitreg.train.runs.run import trained_model, training_indices
from vitreg.train.training.device import check_batch
from vitreg.train.training.guided_model import Applied, Whole
from vitreg.train.training.hyperparameters import Hyperparameters, Mixing
from vitreg.train.training.methods import METHODS, SOURCE, check_methods
from vitreg.train.training.step import Step
from vitreg.views import random_numbers

ROWS = ("LP-FT+Co-tuning", "LP-FT+R-Drop", "LP-FT+object-guide")
NUM_SOURCE = 5


def whole() -> nn.Module:
    with random_numbers(7):
        model = timm.create_model(MODEL, num_classes=0, img_size=SIZE)
    with random_numbers(8):
        model.reset_classifier(NUM_SOURCE)
        nn.init.normal_(model.head.weight)
    return model


def rows(data: Path, *methods: str, augment: str = "crop", start: Any = whole, **options: Any) -> list[Run]:
    task = photo_task(read_folder(data), name="boxed", size=SIZE, augment=augment)
    design = Design(
        [task],
        [Start(MODEL, "seven", create, whole=start) if start else Start(MODEL, "seven", create)],
        methods=methods,
        lams=dict.fromkeys(methods, (2.0,)),
        shares=[Share(shots=3)],
        seeds=[3],
        hyper=replace(HYPER, smoothing=0.0, **options),
        augment=augment,
    )
    return [run for run in plan(design) if run.configuration.method != SOURCE]


def first_batch(run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures, labels and masks of a run's first step."""
    hyper, task = run.configuration.hyper, run.task
    assert hyper is not None
    batches = Batches(training_indices(run), batch_size=hyper.batch_size, steps=1, seed=3)
    drawn = [Draws(task.train, task.train_labels, has_masks=True)[draw] for draw in next(iter(batches))]
    pictures, labels, _, masks = zip(*drawn, strict=True)
    return task.normalise(torch.stack(pictures)), torch.tensor(labels), torch.stack(masks)


def start_of(run: Run) -> nn.Module:
    return create(len(run.task.classes), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ROWS)
def test_a_row_is_trained_measured_and_goes_on_as_if_unbroken(
    boxed: Path, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = rows(boxed, method)
    (report,) = executed([run], tmp_path / "reports")
    assert 0 <= report.metrics["top1"] <= 100
    (term,) = {"co_tuning", "r_drop", "object_guide"} & report.log[0].keys()
    assert all(entry[term] > 0 for entry in report.log)
    count_steps(monkeypatch)
    weights, log, *_ = trained(run, None)
    assert log == report.log
    stopped_run(run, tmp_path)
    again, log_again, _, continued = trained(run, tmp_path)
    assert continued == 1
    assert log_again == log
    assert same(again, weights)


def test_co_tuning_is_told_the_labels_and_the_relation(boxed: Path) -> None:
    (run,) = rows(boxed, "Co-tuning", drop_path=0.0)
    log = trained_model(run, accelerator=Accelerator(cpu=True), workers=0)[1]
    source = whole().eval()
    sums = torch.zeros(2, NUM_SOURCE, dtype=torch.float64)
    indices = training_indices(run)
    for index in indices:
        with torch.no_grad():
            said = source(run.task.normalise(run.task.train.plain(index)[None]))[0]
        sums[run.task.train_labels[index]] += said.double().softmax(0)
    relation = sums / sums.sum(1, keepdim=True)
    pictures, labels, _ = first_batch(run)
    with torch.no_grad():
        model = start_of(run)
        features = model.forward_head(model.forward_features(pictures), pre_logits=True)
        said = source.head(features).double().log_softmax(1)
    literal = 0.0
    for row, label in zip(said.tolist(), labels.tolist(), strict=True):
        literal -= sum(p * q for p, q in zip(relation[label].tolist(), row, strict=True)) / len(labels)
    assert log[0]["co_tuning"] == pytest.approx(literal, rel=1e-4)


def test_object_guide_is_told_where_objects_are(boxed: Path) -> None:
    (run,) = rows(boxed, "object-guide", drop_path=0.0)
    log = trained_model(run, accelerator=Accelerator(cpu=True), workers=0)[1]
    pictures, _, masks = first_batch(run)
    model = start_of(run).eval()
    with torch.no_grad(), vitreg.trace(model, "attn_probs") as read:
        model(pictures)
    shares = []
    for attention, mask in zip(read["attn_probs"][-1].double().mean(1), masks, strict=True):
        covered = mask.double().unfold(0, 16, 16).unfold(1, 16, 16).mean((-1, -2)).flatten()
        if covered.sum() > 0:
            shares.append(1 - float((covered * attention).sum() / attention.sum()))
    assert shares
    assert log[0]["object_guide"] == pytest.approx(sum(shares) / len(shares), rel=1e-4)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_step_of_co_tuning_has_the_same_gradients_in_parts(micro_batch: int | None) -> None:
    torch.manual_seed(0)
    model, images, labels = make_vit(num_classes=3), torch.randn(6, 3, 32, 32), torch.arange(6) % 3
    source = make_vit(num_classes=4)
    told = Whole(source, torch.randn(3, 4).softmax(1))
    expected = copy.deepcopy(model)
    features = expected.forward_head(expected.forward_features(images), pre_logits=True)
    loss = F.cross_entropy(expected.head(features), labels)
    loss += 2 * F.cross_entropy(source.head(features), told.relation[labels])
    loss.backward()
    hyper = replace(HYPER, batch_size=6, micro_batch=micro_batch, smoothing=0.0)
    with Applied(model, "Co-tuning", 2.0, hyper, num_classes=3, whole=told) as applied:
        found = gradients_of(model, applied, hyper, images, labels)
    assert found["objective"] == pytest.approx(loss.item(), rel=1e-5)
    for (name, one), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)


def gradients_of(
    model: nn.Module, applied: Applied, hyper: Hyperparameters, images: Tensor, labels: Tensor
) -> dict[str, Any]:
    step = Step(model, model, applied, Accelerator(cpu=True), hyper)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    views = torch.full((len(images),), -1)
    return step.gradients(optimizer, images, labels, views, step=0)


def test_r_drop_takes_two_passes_and_the_mean_of_their_losses() -> None:
    torch.manual_seed(0)
    model, images = make_vit(num_classes=3, drop_path_rate=0.5), torch.randn(6, 3, 32, 32)
    labels = torch.arange(6) % 3
    torch.manual_seed(4)
    with torch.no_grad():
        one, other = model(images).double(), model(images).double()
    assert not torch.equal(one, other)
    loss = kl = 0.0
    for a, b, label in zip(one.tolist(), other.tolist(), labels.tolist(), strict=True):
        p, q = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (a, b))
        loss -= (math.log(p[label]) + math.log(q[label])) / 2 / 6
        kl += sum(x * math.log(x / y) + y * math.log(y / x) for x, y in zip(p, q, strict=True)) / 2 / 6
    with Applied(model, "R-Drop", 2.0, replace(HYPER, smoothing=0.0), num_classes=3) as applied:
        torch.manual_seed(4)
        found = gradients_of(model, applied, replace(HYPER, batch_size=6), images, labels)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["r_drop"] == pytest.approx(kl, rel=1e-4)
    assert found["objective"] == pytest.approx(loss + 2 * kl, rel=1e-4)


@pytest.fixture
def white(tmp_path: Path) -> Path:
    """Pictures that are white on the object; a box says where that is, a trimap, or nothing."""
    root, listed = tmp_path / "white", []
    for number in range(5):
        pixels = np.full((90, 120, 3), 5 * number, dtype=np.uint8)
        pixels[10:60, 20:80] = 255
        root.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / f"{number}.png")
        Image.fromarray(2 - pixels[..., 0] // 255).save(root / f"{number}-trimap.png")
        box = ["20", "10", "60", "50"] if number in (0, 3, 4) else [""] * 4
        trimap = f"{number}-trimap.png" if number == 1 else ""
        split = "test" if number > 2 else "train"
        listed.append([f"{number}.png", str(number % 2), split, *box, trimap])
    write_index(root, listed, ["path", "label", "split", "bbox_x", "bbox_y", "bbox_w", "bbox_h", "trimap"])
    return root


@pytest.mark.parametrize("augment", ["crop", "none"])
@pytest.mark.parametrize("limit", [0, MEMORY_LIMIT])
def test_a_mask_is_cropped_and_flipped_as_its_picture(
    white: Path, augment: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreg.train.data.photographs.MEMORY_LIMIT", limit)
    task: Task = photo_task(read_folder(white), name="white", size=SIZE, augment=augment)
    assert task.outlined == {0, 1}
    assert isinstance(task.train, Photos)
    for index, seed in itertools.product((0, 1), range(8)):
        picture, mask = (read(index, seed=seed) for read in (task.train.picture, task.train.mask))
        assert mask.shape == (SIZE, SIZE)
        assert (mask != (picture[0] > 127)).float().mean() < 0.01
    assert not task.train.mask(2, seed=0).any()
    assert task.train.picture(2, seed=0).any()


def test_what_a_row_needs_is_asked_for_before_any_training(boxed: Path, tmp_path: Path) -> None:
    for label, number in itertools.product("ab", range(8)):
        split = "train" if number < 6 else "test"
        write_picture(tmp_path / split / label / f"{number}.png", seed=number)
    with pytest.raises(InputError, match=r"says it of none of 6 training pictures: give them boxes"):
        rows(tmp_path, "object-guide")
    with pytest.raises(InputError, match=r"--augment rand-m9-mstd0\.5-inc1 does not move masks"):
        rows(boxed, "object-guide", augment="rand-m9-mstd0.5-inc1")
    with pytest.raises(InputError, match="object-guide does not go with mixed pictures"):
        rows(boxed, "object-guide", mixing=Mixing(mixup=0.8))
    with pytest.raises(InputError, match="nothing is dropped; add --drop-path"):
        rows(boxed, "R-Drop", drop_path=0.0)
    with pytest.raises(InputError, match=r"Co-tuning with λ=2 .* the source's own task"):
        rows(boxed, "Co-tuning", start=None)


@pytest.mark.parametrize(
    ("method", "options", "what"),
    [
        ("R-Drop", {"micro_batch": 2}, "--micro-batch"),
        ("R-Drop", {"fraction": 0.5}, "--fraction"),
        ("R-Drop", {"compile": True}, "--compile"),
        ("Co-tuning", {"compile": True}, "--compile"),
        ("object-guide", {"views": 2}, "--views"),
        ("object-guide", {"micro_batch": 2}, "--micro-batch"),
    ],
)
def test_what_a_row_does_not_go_with_is_refused(method: str, options: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=rf"{method} .*{what}"):
        check_batch(replace(HYPER, **options), [method])


@pytest.mark.parametrize("method", ["R-Drop", "object-guide"])
def test_several_processes_would_compute_something_else(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitreg.train.training.step.world_size", lambda: 2)
    with pytest.raises(InputError, match=f"{method} does not go with several processes"):
        check_batch(HYPER, [method])
    check_batch(HYPER, ["Co-tuning"])


@pytest.mark.parametrize("name", ["R-Drop+TransMix", "LP-FT+object-guide+TransMix"])
def test_they_are_not_mixed(name: str) -> None:
    with pytest.raises(InputError, match="cannot be combined with mixed pictures"):
        check_methods([name])
    assert check_methods(["Co-tuning+TransMix"]) == ("Co-tuning+TransMix",)
    assert METHODS["Co-tuning+TransMix"].transmix


@pytest.mark.slow
def test_a_folder_with_outlines_is_finetuned_by_them(boxed: Path, weights: Path, tmp_path: Path) -> None:
    given = [*arguments(boxed, weights, tmp_path / "out"), "--method", "object-guide", "--steps", "3"]
    assert run(*given, "--augment", "crop", "--select", "none") == 0
    assert len(table(tmp_path / "out" / "predictions.csv")) == 11
