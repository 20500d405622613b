from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_jaccard_index

import engine.results.segmentation.jaccard
import vitreg
from engine.data.scenes import Scenes, voc_scenes
from engine.results.segmentation.jaccard import (
    BATCH_SIZE,
    mask_jaccard,
    masks_of,
    patch_pixels,
    segmentation_jaccard,
)
from official_data import make_voc
from vitreg.errors import InputError
from vitreg.train.data.official.voc import read_voc
from vitreg.train.training.attention_metrics import attended_patches

CPU = Accelerator(cpu=True)
SIDE, SIZE, DEPTH = 4, 32, 3  # patches of 8 × 8 pixels


def small_vit(**other: Any) -> nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": DEPTH, "num_heads": 2}
    model = VisionTransformer(num_classes=2, **{**shape, **other})
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.mul_(30)  # attention that differs from patch to patch
    return model.eval()


def drawn_scenes(n: int, *, seed: int = 0) -> Scenes:
    """Return pictures with patchy classes 1 and 7, undecided pixels, and no object in the second."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(256, (n, 3, SIZE, SIZE), generator=generator).to(torch.uint8)
    coarse = torch.randint(6, (n, 5, 5), generator=generator)  # borders that are not those of the patches
    numbers = torch.tensor([0, 0, 0, 1, 7, 255])[coarse].float()[:, None]
    objects = F.interpolate(numbers, (SIZE, SIZE), mode="nearest")[:, 0].to(torch.uint8)
    objects[1] = 0
    return Scenes("drawn", "f", pictures, objects, mean=(0.5,) * 3, std=(0.5,) * 3)


def pixel_jaccards(chosen: Tensor, mask: Tensor, decided: Tensor) -> list[float]:
    """Enlarge the patches of each head to pixels and compare them with the mask, by torchmetrics."""
    target = mask.int()
    target[~decided] = -1
    found = []
    for head in chosen.view(-1, SIDE, SIDE):
        pixels = head.repeat_interleave(SIZE // SIDE, 0).repeat_interleave(SIZE // SIDE, 1)
        found.append(float(binary_jaccard_index(pixels.int(), target, ignore_index=-1)))
    return found


def slow_jaccard(rows: Tensor, scenes: Scenes, mass: float) -> dict[str, float]:
    """Return the metrics of one block's attention [n, h, p], picture by picture and class by class."""
    kinds: dict[str, list[float]] = {
        "jaccard": [],
        "mean_attention": [],
        "foreground": [],
        "whole_picture": [],
    }
    for attention, numbers in zip(rows, scenes.objects, strict=True):
        classes = [number for number in numbers.unique().tolist() if number not in (0, 255)]
        if not classes:
            continue
        heads, merged = attended_patches(attention, mass), attended_patches(attention.mean(0), mass)
        decided, sums = numbers != 255, {"jaccard": 0.0, "mean_attention": 0.0, "whole_picture": 0.0}
        for number in classes:
            mask = numbers == number
            sums["jaccard"] += max(pixel_jaccards(heads, mask, decided))
            sums["mean_attention"] += pixel_jaccards(merged, mask, decided)[0]
            sums["whole_picture"] += pixel_jaccards(torch.ones(SIDE**2), mask, decided)[0]
        for name, value in sums.items():
            kinds[name].append(value / len(classes))
        kinds["foreground"].append(max(pixel_jaccards(heads, decided & (numbers != 0), decided)))
    return {name: sum(values) / len(values) for name, values in kinds.items()}


@pytest.mark.parametrize("mass", [0.6, 0.9])
def test_counts_of_patches_are_as_good_as_pixels(mass: float) -> None:
    model, scenes = small_vit(), drawn_scenes(BATCH_SIZE + 5)
    with torch.no_grad(), vitreg.trace(model, "attn_probs") as trace:
        model(scenes.normalise(scenes.pictures))
    rows = trace["attn_probs"]
    assert len(rows) == DEPTH
    empty = int((~scenes.masks.flatten(1).any(1)).sum())
    assert empty >= 1
    all_found = []
    for block, row in enumerate(rows):
        found = segmentation_jaccard(model, scenes, block, accelerator=CPU, mass=mass)
        slow = slow_jaccard(row, scenes, mass)
        assert {name: getattr(found, name) for name in slow} == pytest.approx(slow, abs=1e-6)
        assert (found.num_pictures, found.num_left_out) == (BATCH_SIZE + 5 - empty, empty)
        all_found.append(found)
    assert len(set(all_found)) == DEPTH
    assert segmentation_jaccard(model, scenes, -1, accelerator=CPU, mass=mass) == all_found[-1]


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = torch.zeros(3, 4, 4, dtype=torch.uint8)  # patches of 2 × 2 pixels
    objects[0, :2, :2] = 3  # the first patch
    objects[0, 2:, 2:] = torch.tensor(
        [[5, 5], [255, 255]], dtype=torch.uint8
    )  # half of the last is undecided
    objects[2, 0, 2] = 1  # a pixel of the second patch; the picture between them is empty
    scenes = Scenes("hand", "f", torch.zeros(3, 3, 4, 4, dtype=torch.uint8), objects)
    first, second, last = [0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]
    rows = torch.tensor([[first, last], [first, last], [second, first]])
    monkeypatch.setattr(engine.results.segmentation.jaccard, "_attention", lambda *given: rows)
    found = segmentation_jaccard(small_vit(), scenes, -1, accelerator=CPU)
    assert asdict(found) == {
        "jaccard": pytest.approx(((1 + 1) / 2 + 1 / 4) / 2),  # each class of the first has its own head
        "mean_attention": pytest.approx(((4 / 6 + 2 / 6) / 2 + 1 / 8) / 2),  # two patches
        "foreground": pytest.approx((4 / 6 + 1 / 4) / 2),  # one head for both classes of the first
        "whole_picture": pytest.approx(((4 / 14 + 2 / 14) / 2 + 1 / 16) / 2),
        "num_pictures": 2,
        "num_left_out": 1,
    }
    places = [2, 0]
    monkeypatch.setattr(engine.results.segmentation.jaccard, "_attention", lambda *given: rows[places])
    masks = masks_of(small_vit(), scenes, places, -1, accelerator=CPU)
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[0, :2, 2:] = expected[1, :2, :2] = True
    assert torch.equal(masks, expected)
    assert mask_jaccard(masks, scenes, places) == pytest.approx([1 / 4, 4 / 6])


def test_undecided_pixels_change_nothing() -> None:
    """An attended patch that is undecided throughout costs nothing; as background it would."""
    model, scenes = small_vit(), drawn_scenes(6)
    counted = Scenes("drawn", "f", scenes.pictures, scenes.objects.where(scenes.is_decided, 0))
    found, other = (segmentation_jaccard(model, each, -1, accelerator=CPU) for each in (scenes, counted))
    assert found.jaccard > other.jaccard
    assert found.whole_picture > other.whole_picture


@pytest.mark.parametrize("block", [0, -1])
def test_figure_s_masks_have_the_table_s_scores(block: int) -> None:
    model, scenes = small_vit(), drawn_scenes(7)
    indices = [index for index in range(7) if scenes.masks[index].any()]
    masks = masks_of(model, scenes, indices, block, accelerator=CPU)
    assert masks.shape == (len(indices), SIZE, SIZE)
    assert masks.dtype == torch.bool
    scores = mask_jaccard(masks, scenes, indices)
    assert len(set(scores)) > 1
    found = segmentation_jaccard(model, scenes, block, accelerator=CPU)
    assert sum(scores) / len(scores) == pytest.approx(found.foreground, abs=1e-6)
    backwards = masks_of(model, scenes, indices[::-1], block, accelerator=CPU)
    assert torch.equal(backwards.flip(0), masks)


def test_voc_s_layout(tmp_path: Path) -> None:
    scenes = voc_scenes(read_voc(make_voc(tmp_path)), size=SIZE)
    model = small_vit()
    for block in model.blocks:
        nn.init.zeros_(block.attn.qkv.weight)  # the same attention on all patches
    found = segmentation_jaccard(model, scenes, -1, accelerator=CPU, mass=1.0)
    assert found.num_pictures == 3
    assert found.jaccard == pytest.approx(found.whole_picture)
    assert 0.2 < found.whole_picture < 0.3


def test_patch_pixels() -> None:
    masks = torch.zeros(1, 4, 6, dtype=torch.bool)[:, :, :4]
    masks[0, 0, :3] = True
    masks[0, 3, 0] = True
    assert patch_pixels(masks, 2).tolist() == [[2.0, 1.0, 1.0, 0.0]]


def broken() -> nn.Module:
    model = small_vit()
    nn.init.constant_(model.cls_token, float("nan"))
    return model


@pytest.mark.parametrize(
    ("make", "scenes", "said"),
    [
        (small_vit, drawn_scenes(2).at([1]), "none of the 1 pictures of drawn shows an object"),
        (lambda: small_vit(img_size=48), drawn_scenes(3), "does not take pictures of 32 px"),
        (
            lambda: small_vit(patch_size=12, dynamic_img_size=True, dynamic_img_pad=True),
            drawn_scenes(3),
            "square patches that fill 32 × 32 px, found 9",
        ),
        (broken, drawn_scenes(3), "attention on drawn is not finite"),
    ],
)
def test_what_cannot_be_measured(make: Callable[[], nn.Module], scenes: Scenes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        segmentation_jaccard(make(), scenes, -1, accelerator=CPU)


def test_unknown_blocks_are_refused_in_a_line() -> None:
    with pytest.raises(vitreg.ArgumentError):
        segmentation_jaccard(small_vit(), drawn_scenes(2), DEPTH, accelerator=CPU)
