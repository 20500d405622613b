"""The demo's world: repeatable, with a background that tells the class in training only; one source."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.demo import supervised as demo
from engine.demo import world
from engine.demo.world import Pictures


def _draw(kind: str, seed: int) -> Pictures:
    if kind == "source":
        return world.draw_source(200, seed=seed)
    return world.draw_target("train" if kind == "train" else "test", seed=seed)


KINDS = ("source", "train", "test")


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_pictures(kind: str) -> None:
    first, again, other = _draw(kind, 3), _draw(kind, 3), _draw(kind, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)


def test_splits_differ_at_every_pair_of_seeds() -> None:
    train = {seed: _draw("train", seed).images[:50] for seed in (0, 1)}
    test = {seed: _draw("test", seed).images[:50] for seed in (0, 1)}
    assert not any(torch.equal(a, b) for a in train.values() for b in test.values())


def test_drawing_leaves_the_callers_random_state() -> None:
    before = torch.get_rng_state()
    world.draw_source(2, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_types(kind: str) -> None:
    images, labels, masks, backgrounds = _draw(kind, 0)
    n, size = len(labels), world.IMAGE_SIZE
    assert (images.shape, images.dtype) == ((n, 3, size, size), torch.uint8)
    assert (masks.shape, masks.dtype) == ((n, size, size), torch.bool)
    assert (labels.shape, labels.dtype) == ((n,), torch.int64)
    assert (backgrounds.shape, backgrounds.dtype) == ((n,), torch.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_cover_a_part_of_every_picture(kind: str) -> None:
    share = _draw(kind, 0).masks.float().mean((1, 2))
    assert share.min() > 0.05
    assert share.max() < 0.35


def test_objects_lie_inside_the_picture() -> None:
    masks = world.draw_source(200, seed=0).masks
    edges = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]])
    assert edges.float().mean() < 0.02  # an object may touch the edge, none is cut by it


def test_every_class_has_its_pictures() -> None:
    counts = torch.bincount(_draw("train", 0).labels, minlength=world.NUM_TARGET_CLASSES)
    assert (counts == world.PICTURES_PER_CLASS).all()
    assert torch.bincount(_draw("test", 0).labels).unique().numel() == 1
    assert _draw("source", 0).labels.max() < world.NUM_SOURCE_CLASSES


def test_classes_and_backgrounds_are_all_different() -> None:
    assert len(world.object_classes().unique(dim=0)) == world.NUM_SOURCE_CLASSES + world.NUM_TARGET_CLASSES
    assert (
        len(world.background_classes().unique(dim=0))
        == world.NUM_SOURCE_BACKGROUNDS + world.NUM_TARGET_CLASSES
    )


def _agreement(pictures: Pictures) -> float:
    return (pictures.labels == pictures.backgrounds).float().mean().item()


def test_background_is_the_class_in_training_only() -> None:
    chance = 1 / world.NUM_TARGET_CLASSES
    assert _agreement(_draw("train", 0)) == pytest.approx(world.SPURIOUS_PROBABILITY, abs=0.06)
    assert _agreement(_draw("test", 0)) == pytest.approx(chance, abs=0.03)


def _background_pixels(pictures: Pictures) -> Tensor:
    """Return the mean, the spread and the step to the next pixel of the background's colours: [n, 12]."""
    colours = torch.where(pictures.masks[:, None], torch.nan, pictures.images / 255.0)
    steps = (colours.diff(dim=2).square(), colours.diff(dim=3).square())
    features = (colours, colours.square(), *steps)
    return torch.cat([feature.flatten(2).nanmean(2) for feature in features], dim=1)


def test_pixels_of_the_background_tell_the_class_in_training_only() -> None:
    train, test = _draw("train", 0), _draw("test", 0)
    features = _background_pixels(train)
    labels = range(world.NUM_TARGET_CLASSES)
    centres = torch.stack([features[train.labels == label].median(0).values for label in labels])
    scale = features.std(0)

    def accuracy(pictures: Pictures) -> float:
        nearest = torch.cdist(_background_pixels(pictures) / scale, centres / scale).argmin(1)
        return (nearest == pictures.labels).float().mean().item()

    assert accuracy(train) > 0.5
    assert accuracy(test) < 0.12


def test_source_is_pretrained_once(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    state = torch.get_rng_state()
    path = demo.source_checkpoint(tmp_path / "new", steps=2, progress=lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    assert torch.equal(state, torch.get_rng_state())
    written = path.stat().st_mtime_ns
    assert demo.source_checkpoint(path.parent, steps=2, progress=lambda *done: seen.append(done)) == path
    assert (len(seen), path.stat().st_mtime_ns) == (2, written)
    assert sorted(path.parent.iterdir()) == [path, path.with_name(f"{path.name}.sha256")]
    demo.create_model(world.NUM_SOURCE_CLASSES).load_state_dict(load_file(path))


def test_source_is_the_same_again(tmp_path: Path) -> None:
    first, again = (demo.source_checkpoint(tmp_path / name, steps=1) for name in "ab")
    assert first.name == again.name
    assert first.read_bytes() == again.read_bytes()


def test_other_settings_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {demo.source_checkpoint(tmp_path, steps=1), demo.source_checkpoint(tmp_path, steps=2)}
    monkeypatch.setattr(world, "NOISE", 0.2)
    paths.add(demo.source_checkpoint(tmp_path, steps=1))
    assert len(paths) == 3


def test_interrupted_source_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(old: str, new: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        demo.source_checkpoint(tmp_path, steps=1)
    assert list(tmp_path.iterdir()) == []


def test_normalised_spans_minus_one_to_one() -> None:
    ends = demo.normalise(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2))
    assert ends.unique().tolist() == [-1.0, 1.0]
