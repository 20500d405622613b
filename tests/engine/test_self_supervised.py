"""Self-supervised sources: repeatable, never collapsed, written whole; the losses, written literally."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.demo import self_supervised as selfsup
from engine.demo import supervised as demo
from engine.demo import world
from engine.demo.self_supervised import METHODS, Pretraining, random_views, self_supervised_checkpoint
from vitreg.errors import InputError

Setting = Callable[..., None]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    def change(**changes: Any) -> None:
        monkeypatch.setattr(
            selfsup, "SELF_SUPERVISED", dataclasses.replace(selfsup.SELF_SUPERVISED, **changes)
        )

    change(batch_size=8, prototypes=32)
    return change


def _views() -> Tensor:
    """Return two views of four pictures: [8, 3, H, W]."""
    pictures, generator = world.draw_source(4, seed=0).images, torch.Generator().manual_seed(1)
    return torch.cat([random_views(pictures, generator) for _ in range(2)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("setting")
def test_source_is_the_same_again(tmp_path: Path, method: selfsup.Method) -> None:
    first = self_supervised_checkpoint(tmp_path / "a", method, steps=3)
    torch.manual_seed(99)
    again = self_supervised_checkpoint(tmp_path / "b", method, steps=3)
    assert first.name == again.name
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.usefixtures("setting")
def test_file_holds_the_teachers_backbone_alone(tmp_path: Path) -> None:
    state = load_file(self_supervised_checkpoint(tmp_path, "iBOT", steps=2))
    pretraining = Pretraining("iBOT", steps=2)
    pretraining.step()
    pretraining.step()
    teacher = pretraining.teacher.backbone.state_dict()
    assert {key for key in demo.create_model(20).state_dict() if not key.startswith("head.")} == set(state)
    assert all(torch.equal(state[key], teacher[key]) for key in teacher)
    assert any(not torch.equal(state[key], pretraining.student.backbone.state_dict()[key]) for key in state)


@pytest.mark.usefixtures("setting")
def test_source_is_pretrained_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = self_supervised_checkpoint(
        tmp_path / "new", "DINO", steps=2, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 2), (2, 2)]
    written = path.stat().st_mtime_ns
    assert (
        self_supervised_checkpoint(path.parent, "DINO", steps=2, progress=lambda *done: seen.append(done))
        == path
    )
    assert (len(seen), path.stat().st_mtime_ns) == (2, written)
    assert sorted(path.parent.iterdir()) == [path, path.with_name(f"{path.name}.sha256")]


@pytest.mark.usefixtures("setting")
def test_callers_random_state_is_untouched(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    self_supervised_checkpoint(tmp_path, "iBOT", steps=1)
    assert torch.equal(before, torch.get_rng_state())


def test_other_settings_other_file(tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {self_supervised_checkpoint(tmp_path, method, steps=1) for method in ("DINO", "iBOT")}
    paths.add(self_supervised_checkpoint(tmp_path, "DINO", steps=2))
    for change in ({"masked": (0.2, 0.5)}, {"momentum": 0.9}, {"lr": 1e-4}):
        setting(**change)
        paths.add(self_supervised_checkpoint(tmp_path, "DINO", steps=1))
    monkeypatch.setattr(world, "NOISE", 0.2)
    paths.add(self_supervised_checkpoint(tmp_path, "DINO", steps=1))
    assert len(paths) == 7


@pytest.mark.usefixtures("setting")
def test_killed_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(old: str, new: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        self_supervised_checkpoint(tmp_path, "DINO", steps=1)
    assert list(tmp_path.iterdir()) == []


def test_unusable_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected DINO, iBOT as method, found 'ibot'; did you mean iBOT"):
        self_supervised_checkpoint(tmp_path, "ibot")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one step of pre-training, found 0"):
        self_supervised_checkpoint(tmp_path, "DINO", steps=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
def test_teacher_is_the_running_mean_of_the_student(method: selfsup.Method, setting: Setting) -> None:
    setting(momentum=0.9)
    pretraining = Pretraining(method, steps=4)
    for done in range(4):
        before = [weight.clone() for weight in pretraining.teacher.parameters()]
        pretraining.step()
        momentum = 1 - 0.1 * (1 + math.cos(math.pi * done / 4)) / 2
        pairs = zip(before, pretraining.student.parameters(), pretraining.teacher.parameters(), strict=True)
        for old, student, teacher in pairs:
            torch.testing.assert_close(teacher, momentum * old + (1 - momentum) * student.detach())
    assert all(weight.grad is None for weight in pretraining.teacher.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_student_learns_and_features_do_not_collapse(method: selfsup.Method, setting: Setting) -> None:
    setting(batch_size=16, momentum=0.9)
    pretraining = Pretraining(method, steps=30)
    losses = [pretraining.step() for _ in range(30)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    pictures = demo.normalise(world.draw_source(32, seed=1000).images)
    with torch.no_grad():
        features = pretraining.teacher.tokens(pictures)[:, 0]
    assert features.std(0).mean() > 0.1


def _literal(student: Tensor, teacher: Tensor) -> float:
    """Return the mean cross-entropy of tokens' scores [n, prototypes], by loops."""
    s = selfsup.SELF_SUPERVISED
    wanted = [[math.exp(score / s.teacher_temperature) for score in row] for row in teacher.tolist()]
    for _ in range(s.rounds):
        columns = [sum(column) for column in zip(*wanted, strict=True)]
        wanted = [[share / total for share, total in zip(row, columns, strict=True)] for row in wanted]
        wanted = [[share / sum(row) for share in row] for row in wanted]
    cost = 0.0
    for shares, row in zip(wanted, student.tolist(), strict=True):
        total = sum(math.exp(score / s.student_temperature) for score in row)
        cost -= sum(
            share * math.log(math.exp(score / s.student_temperature) / total)
            for share, score in zip(shares, row, strict=True)
        )
    return cost / len(wanted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("setting")
@torch.no_grad()
def test_loss_is_the_literal_one(method: selfsup.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    pretraining, views = Pretraining(method, steps=1), _views()
    for weight in pretraining.student.parameters():  # a student that differs from its teacher
        weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    mask = torch.zeros(8, 64, dtype=torch.bool)
    mask[0, 3:7] = mask[2, 60] = True
    monkeypatch.setattr(pretraining, "_mask", lambda num_views, num_patches: mask)
    seen = pretraining.teacher.tokens(views)
    tokens = pretraining.student.tokens(views, mask if method == "iBOT" else None)
    student, teacher = pretraining.student.scores(tokens), pretraining.teacher.scores(seen)

    other = [4, 5, 6, 7, 0, 1, 2, 3]
    expected = _literal(student[:, 0], torch.stack([teacher[view, 0] for view in other]))
    if method == "iBOT":
        patches = [(0, 3), (0, 4), (0, 5), (0, 6), (2, 60)]
        expected += _literal(*(torch.stack([t[v, 1 + p] for v, p in patches]) for t in (student, teacher)))
    assert pretraining.loss(views).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("setting")
@pytest.mark.parametrize("method", METHODS)
def test_masks_matter_in_ibot_only(method: selfsup.Method) -> None:
    pretraining = Pretraining(method, steps=1)
    torch.autograd.backward(pretraining.loss(_views()))
    gradient = pretraining.student.mask_token.grad
    assert (gradient is not None and bool(gradient.any())) == (method == "iBOT")


@pytest.mark.usefixtures("setting")
@torch.no_grad()
def test_masked_patches_are_not_seen() -> None:
    student = Pretraining("iBOT", steps=1).student
    views = _views()
    mask = torch.zeros(8, 64, dtype=torch.bool)
    mask[:, 9] = True  # second row, second column
    changed = views.clone()
    changed[:, :, 4:8, 4:8] = 0.3
    assert torch.equal(student.tokens(views, mask), student.tokens(changed, mask))
    assert not torch.equal(student.tokens(views), student.tokens(changed))
    assert torch.equal(student.tokens(views), student.backbone.forward_features(views))  # no hook stays


def test_half_of_the_views_are_masked_within_bounds(setting: Setting) -> None:
    setting(masked=(0.25, 0.5))
    shares = Pretraining("iBOT", steps=1)._mask(400, 64).float().mean(1)
    assert (shares[200:] == 0).all()
    assert shares[:200].min() >= 0.25
    assert shares[:200].max() <= 0.5
    assert len(shares[:200].unique()) > 10


def test_targets_use_all_prototypes_alike(setting: Setting) -> None:
    setting(teacher_temperature=0.5, rounds=50)
    scores = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0, 0, 0])
    targets = selfsup.balance(scores)
    torch.testing.assert_close(targets.sum(1), torch.ones(12))
    torch.testing.assert_close(targets.sum(0), torch.full((4,), 3.0), atol=1e-3, rtol=0)
    plain = (scores / 0.5).log_softmax(-1)  # what is left is a factor for each row and for each column
    difference = targets.log() - plain
    torch.testing.assert_close(
        difference - difference[:1], (difference - difference[:1])[:, :1].expand(-1, 4), atol=1e-3, rtol=0
    )


def test_a_whole_view_is_the_picture_or_its_mirror_image(setting: Setting) -> None:
    setting(area=(1.0, 1.0), stretch=1.0, brightness=0.0, saturation=0.0, hue=0.0)
    pictures = world.draw_source(20, seed=0).images
    views = random_views(pictures, torch.Generator().manual_seed(0))
    normal = demo.normalise(pictures)
    is_same, is_mirrored = (
        (views - other).abs().amax((1, 2, 3)) < 1e-4 for other in (normal, normal.flip(-1))
    )
    assert (is_same ^ is_mirrored).all()
    assert is_same.any()
    assert is_mirrored.any()


def test_views_show_a_part_of_their_own_picture(setting: Setting) -> None:
    setting(area=(0.25, 0.25), stretch=1.0, brightness=0.0, saturation=0.0, hue=0.0)
    ramp = torch.arange(32, dtype=torch.uint8) * 8
    pictures = torch.stack([ramp.expand(32, 32), ramp.expand(32, 32).T, torch.full((32, 32), 7)]).to(
        torch.uint8
    )
    views = random_views(pictures.expand(50, 3, 32, 32), torch.Generator().manual_seed(0))
    across = (views[:, 0, :, -1] - views[:, 0, :, 0]).abs().mean(1)
    down = (views[:, 1, -1] - views[:, 1, 0]).mean(1)
    torch.testing.assert_close(across, down, atol=0.01, rtol=0)  # both sides are half of the picture's
    assert down.mean().item() == pytest.approx(2 * 15.5 * 8 / 255, abs=0.02)  # 31 steps of half a pixel
    assert views[:, 0].mean((1, 2)).std() > 0.1  # each has its own place
    assert views[:, 2].std() < 1e-3


def test_hue_turns_as_in_the_world(setting: Setting) -> None:
    setting(area=(1.0, 1.0), stretch=1.0, brightness=0.0, saturation=0.0, hue=0.5)
    hues = torch.tensor([0.0, 0.2, 0.7])
    flat = world._paint(hues[:, None, None], saturation=0.5, value=torch.full((3, 32, 32), 0.6))
    views = random_views((255 * flat).round().to(torch.uint8), torch.Generator().manual_seed(0))
    colours = views[:, :, 0, 0] / 2 + 0.5
    spread = (colours - colours.mean(1, keepdim=True)).norm(dim=1)
    torch.testing.assert_close(colours.mean(1), torch.full((3,), 0.45), atol=0.01, rtol=0)
    torch.testing.assert_close(spread, torch.full((3,), 0.15 * 1.5**0.5), atol=0.01, rtol=0)
    assert (colours - flat[:, :, 0, 0]).abs().amax(1).min() > 0.01  # another hue, in each picture


def test_views_differ_in_brightness_and_saturation(setting: Setting) -> None:
    setting(area=(1.0, 1.0), stretch=1.0, brightness=0.2, saturation=0.4, hue=0.0)
    pictures = torch.tensor([100, 60, 60], dtype=torch.uint8)[:, None, None].expand(200, 3, 32, 32)
    colours = random_views(pictures, torch.Generator().manual_seed(0))[:, :, 0, 0] / 2 + 0.5
    brightness = colours.mean(1) / (220 / 3 / 255)
    saturation = (colours[:, 0] - colours[:, 1]) / (40 / 255) / brightness
    for found, most in ((brightness, 0.2), (saturation, 0.4)):
        assert 1 - most - 1e-3 <= found.min() < 1 - 0.9 * most
        assert 1 + 0.9 * most < found.max() <= 1 + most + 1e-3
