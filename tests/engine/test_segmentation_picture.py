from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.results.segmentation.picture import GROUND, STRENGTH, TINT, draw_segmentation, tint

GREY = torch.tensor([0.299, 0.587, 0.114])


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(float) / 255


def half(*, left: bool) -> Tensor:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, :, slice(10) if left else slice(10, 20)] = True
    return mask


def test_tint_by_hand() -> None:
    picture = torch.tensor([255, 0, 51], dtype=torch.uint8)[:, None, None].expand(3, 1, 2)
    image = tint(picture, torch.tensor([[True, False]]))
    on = [(1 - STRENGTH) * value + STRENGTH * tint for value, tint in zip((1, 0, 0.2), TINT, strict=True)]
    grey = GROUND * (0.299 + 0.114 * 0.2)
    assert image[0, 0].tolist() == pytest.approx(on)
    assert image[0, 1].tolist() == pytest.approx([grey] * 3)


def test_mask_is_seen_without_colours() -> None:
    extremes = torch.cartesian_prod(*[torch.tensor([0, 255], dtype=torch.uint8)] * 3).T[:, :, None]
    on = tint(extremes, torch.ones(8, 1, dtype=torch.bool)) @ GREY
    beside = tint(extremes, torch.zeros(8, 1, dtype=torch.bool)) @ GREY
    assert on.min() > beside.max()


@pytest.mark.parametrize("left", [True, False])
def test_mask_is_drawn_where_it_is(left: bool) -> None:
    black, truth = torch.zeros(1, 3, 20, 20, dtype=torch.uint8), half(left=True)
    drawn = opened(draw_segmentation(black, truth, {"GTA": half(left=left)}, {"GTA": [0.25]}))
    is_tint = np.abs(drawn - STRENGTH * np.array(TINT)).max(2) < 0.02
    rows, columns = is_tint.nonzero()
    picture = ((drawn.max(2) < 0.02).sum(0) > 100).nonzero()[0]  # the columns of the black picture
    middle = (picture.min() + picture.max()) / 2
    assert len(rows) > 5000
    assert (columns < middle + 2).all() if left else (columns > middle - 2).all()
    assert rows.min() > drawn.shape[0] * 0.45  # the line below the picture's own


def test_scores_outlines_and_names_are_drawn() -> None:
    pictures = torch.zeros(2, 3, 20, 20, dtype=torch.uint8)
    truth = torch.cat([half(left=True), half(left=False)])
    masks = {"before": truth, r"after $\oops$": ~truth}
    scores = {"before": [1.0, 1.0], r"after $\oops$": [0.0, 0.0]}

    def drawn(**change: object) -> bytes:
        given = {"pictures": pictures, "truth": truth, "masks": masks, "scores": scores, "caption": "c"}
        return draw_segmentation(**{**given, **change})  # type: ignore[arg-type]

    same = drawn()  # what looks like a formula is none
    assert drawn() == same
    assert "Software" not in Image.open(io.BytesIO(same)).info  # another version leaves other bytes
    height, width, _ = opened(same).shape
    assert height > width  # three lines of two pictures
    assert drawn(scores={**scores, "before": [1.0, 0.5]}) != same
    assert drawn(truth=truth.flip(0)) != same
    assert drawn(caption="other") != same
    assert (
        drawn(masks=dict(zip(["a", "b"], masks.values(), strict=True)), scores={"a": [1] * 2, "b": [0] * 2})
        != same
    )


@pytest.mark.parametrize("value", [True, False])
def test_object_everywhere_or_nowhere(value: bool) -> None:
    truth = torch.full((1, 20, 20), value)
    grey = torch.full((1, 3, 20, 20), 128, dtype=torch.uint8)
    drawn = opened(draw_segmentation(grey, truth, {"GTA": truth}, {"GTA": [1.0]}))
    below = drawn[: drawn.shape[0] // 2]
    assert (np.abs(below - 128 / 255).max(2) < 0.02).sum() > 5000  # the picture is there


def test_each_picture_needs_a_mask_and_a_score() -> None:
    pictures, truth = torch.zeros(1, 3, 20, 20, dtype=torch.uint8), half(left=True)
    for masks, scores in (
        ({"GTA": truth}, {"GTA": [0.1, 0.2]}),
        ({"GTA": torch.cat([truth, truth])}, {"GTA": [0.1]}),
        ({"GTA": truth}, {"other": [0.1]}),
    ):
        with pytest.raises(ValueError, match="expected masks and scores of 1 pictures"):
            draw_segmentation(pictures, truth, masks, scores)
