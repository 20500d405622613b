"""A small drawn world in which the background of the training pictures gives the class away.

Objects are lobed discs with concentric stripes; backgrounds are gratings. What a class looks like is a
combination of lobes, hue and stripes; no combination is both a source's and a target's class.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

IMAGE_SIZE = 32  # pixels
NUM_SOURCE_CLASSES = 40
NUM_TARGET_CLASSES = 20
NUM_SOURCE_BACKGROUNDS = 60
PICTURES_PER_CLASS = 40  # of the target's training set; 15 % of it are 6 pictures a class
NUM_TEST_PICTURES = 1000

SPURIOUS_PROBABILITY = 0.8  # below 1: every fifth training picture shows that the background is not the class
NOISE = 0.08  # a pixel's standard deviation, of 1; no two pictures of a background are the same
HUE_JITTER = 0.03  # of the colour circle: less than half of the distance between two hues

LOBES = (2, 3, 4, 5)
OBJECT_HUES = 6
STRIPES = (0.5, 1.5, 2.5)  # periods between the centre and the outline
RADII = (0.50, 0.68)  # of half a picture, smallest and largest: the object covers 0.16 of the picture
LOBE_DEPTH = 0.25  # of the radius

DIRECTIONS = 6
BACKGROUND_HUES = 6
FREQUENCIES = (1.5, 2.5, 4.0)  # periods across half a picture

_OBJECT_SEED, _BACKGROUND_SEED = 1, 2  # which combinations become which class: fixed, whatever the seed


class Pictures(NamedTuple):
    """Pictures of the small world, with what only the world knows about them.

    `images` is uint8 [n, 3, H, W], `labels` int64 [n], `masks` bool [n, H, W] and True on the object;
    `backgrounds` int64 [n] numbers the gratings.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    backgrounds: Tensor


def draw_source(num_pictures: int, *, seed: int) -> Pictures:
    """Return `num_pictures` pictures of the source's classes, on backgrounds that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_SOURCE_CLASSES, (num_pictures,), generator=generator)
    backgrounds = torch.randint(NUM_SOURCE_BACKGROUNDS, (num_pictures,), generator=generator)
    objects = object_classes()[:NUM_SOURCE_CLASSES]
    gratings = background_classes()[:NUM_SOURCE_BACKGROUNDS]
    return _draw(objects, gratings, labels, backgrounds, generator)


def draw_target(split: Literal["train", "test"], *, seed: int) -> Pictures:
    """Return target pictures: in training the background mostly equals the class, in the test it is free.

    `"train"` has `PICTURES_PER_CLASS` of each class, class after class; `"test"` has `NUM_TEST_PICTURES`.
    The same seed gives different pictures for the two splits.
    """
    generator = torch.Generator().manual_seed(2 * seed + (split == "test"))
    n = NUM_TARGET_CLASSES * PICTURES_PER_CLASS if split == "train" else NUM_TEST_PICTURES
    labels = torch.arange(n) * NUM_TARGET_CLASSES // n
    backgrounds = torch.randint(NUM_TARGET_CLASSES, (n,), generator=generator)
    if split == "train":
        is_given_away = torch.rand(n, generator=generator) < SPURIOUS_PROBABILITY
        backgrounds = torch.where(is_given_away, labels, backgrounds)
    objects = object_classes()[NUM_SOURCE_CLASSES:]
    gratings = background_classes()[NUM_SOURCE_BACKGROUNDS:]
    return _draw(objects, gratings, labels, backgrounds, generator)


def object_classes() -> Tensor:
    """Return lobes, hue (0 to 1) and stripes of every class, the source's first: [classes, 3]."""
    hues = torch.arange(OBJECT_HUES) / OBJECT_HUES
    table = torch.cartesian_prod(torch.tensor(LOBES).float(), hues, torch.tensor(STRIPES))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(_OBJECT_SEED))
    return table[order[: NUM_SOURCE_CLASSES + NUM_TARGET_CLASSES]]


def background_classes() -> Tensor:
    """Return direction (radians), hue (0 to 1) and frequency of each background, source's first: [n, 3]."""
    directions = torch.arange(DIRECTIONS) * math.pi / DIRECTIONS
    hues = torch.arange(BACKGROUND_HUES) / BACKGROUND_HUES
    table = torch.cartesian_prod(directions, hues, torch.tensor(FREQUENCIES))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(_BACKGROUND_SEED))
    return table[order[: NUM_SOURCE_BACKGROUNDS + NUM_TARGET_CLASSES]]


def _draw(
    objects: Tensor, gratings: Tensor, labels: Tensor, backgrounds: Tensor, generator: torch.Generator
) -> Pictures:
    """Return pictures of `objects[labels]` before `gratings[backgrounds]`, the rest drawn by `generator`."""
    n = len(labels)

    def free(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    lobes, hue, stripes = objects[labels].T[:, :, None, None]
    direction, ground_hue, frequency = gratings[backgrounds].T[:, :, None, None]
    line = (torch.arange(IMAGE_SIZE) + 0.5) * 2 / IMAGE_SIZE - 1  # -1 to 1 across the picture
    y, x = torch.meshgrid(line, line, indexing="ij")

    wave = frequency * (x * direction.cos() + y * direction.sin()) + free(0, 1)
    ground = _paint(ground_hue + free(-HUE_JITTER, HUE_JITTER), saturation=0.8, value=0.6 + 0.3 * _wave(wave))

    radius = free(*RADII)
    room = 1.0 - radius  # the whole object stays in the picture
    dx, dy = x - room * free(-1, 1), y - room * free(-1, 1)
    outline = radius * (
        1 - LOBE_DEPTH + LOBE_DEPTH * _wave((torch.atan2(dy, dx) * lobes) / math.tau + free(0, 1))
    )
    depth = torch.hypot(dx, dy) / outline  # 0 in the centre, 1 on the outline
    body = _paint(
        hue + free(-HUE_JITTER, HUE_JITTER), saturation=0.9, value=0.75 + 0.25 * _wave(stripes * depth)
    )

    cover = ((1 - depth) * outline * IMAGE_SIZE / 2 + 0.5).clamp(0, 1)[:, None]  # soft over one pixel
    images = ground + cover * (body - ground)
    images += NOISE * torch.randn(images.shape, generator=generator)
    return Pictures((images.clamp(0, 1) * 255).round().to(torch.uint8), labels, depth <= 1, backgrounds)


def _wave(periods: Tensor) -> Tensor:
    return (math.tau * periods).cos()


def _paint(hue: Tensor, *, saturation: float, value: Tensor) -> Tensor:
    """Return RGB [n, 3, H, W] of a hue [n, 1, 1] (of 1) and a brightness [n, H, W] (0 to 1)."""
    channel = 0.5 + 0.5 * _wave(hue[:, None] - torch.tensor([0, 1 / 3, 2 / 3])[:, None, None])
    return value[:, None] * (1 - saturation + saturation * channel)
