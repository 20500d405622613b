"""Pictures of which each pixel is known to be on an object or not, to measure segmentation; without class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitreg.errors import InputError
from vitreg.pictures.reading import read_numbers
from vitreg.train.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Task, normalise
from vitreg.train.data.official.voc import VOC, MaskedPicture
from vitreg.train.data.reading import in_parallel

UNDECIDED = 255
NUM_VOC_CLASSES = 20


@dataclass(frozen=True)
class Scenes:
    """Pictures as the network sees them, before normalisation, and what each of their pixels shows.

    `pictures` is uint8 [n, 3, size, size]. `objects` is uint8 [n, size, size]: 0 where there is no object,
    255 on an outline that nobody decided, and the number of the object's class elsewhere.
    """

    name: str
    fingerprint: str
    pictures: Tensor = field(repr=False)
    objects: Tensor = field(repr=False)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def at(self, indices: Sequence[int]) -> Scenes:
        """Return some of the pictures."""
        places = list(indices)
        return replace(self, pictures=self.pictures[places], objects=self.objects[places])

    @property
    def size(self) -> int:
        """The side of the pictures, in pixels."""
        return self.pictures.shape[-1]

    @property
    def masks(self) -> Tensor:
        """Which pixels are on any object: bool [n, size, size]."""
        return (self.objects != 0) & self.is_decided

    @property
    def is_decided(self) -> Tensor:
        """Which pixels count: bool [n, size, size]."""
        return self.objects != UNDECIDED

    def normalise(self, pictures: Tensor) -> Tensor:
        """Return uint8 pictures [b, 3, size, size] as float32 with the model's mean and deviation."""
        return normalise(pictures, self.mean, self.std)


def voc_scenes(
    pictures: Sequence[MaskedPicture],
    *,
    size: int,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Scenes:
    """Open pictures of VOC and return them with their classes, all in memory: 4 · size² bytes a picture.

    Picture and classes are squeezed to a square, so that nothing is cut off: the picture bilinear, the
    classes to the nearest pixel.

    Raises:
        InputError: There are none, one cannot be read (named), or its classes have another size.

    Source: Naseer et al. 2021 (arXiv 2105.10497), whose public code squeezes to 512 × 512.
    """
    # NOTE[DIFF]: GTA follows DINO, iBOT and Naseer et al. and does not say at which size. DINO measures at
    # 480 px, Naseer et al. at 512 px; here it is the caller's.
    if not pictures:
        raise InputError(f"expected pictures of {VOC.title}, found none")
    total = len(pictures)
    images = torch.empty(total, 3, size, size, dtype=torch.uint8)
    objects = torch.empty(total, size, size, dtype=torch.uint8)
    digest = hashlib.sha256(repr((size, mean, std)).encode())
    for index, (image, numbers) in enumerate(in_parallel(lambda one: _scene(one, size), pictures)):
        images[index], objects[index] = image, numbers
        digest.update(image.numpy().tobytes() + numbers.numpy().tobytes())
        on_picture(index + 1, total)
    return Scenes(VOC.name, digest.hexdigest(), images, objects, mean, std)


def task_scenes(task: Task) -> Scenes:
    """Return the test pictures of a task, resized and cropped as they are there, with one object each.

    The object is what the task knows of it: where that is a box, the box; all other pixels are background,
    the outline that a trimap leaves undecided too.

    Raises:
        InputError: Nobody said where the task's objects are.
    """
    if task.test_masks is None:
        raise InputError(
            f"a segmentation needs to know the objects; {task.name} has no masks. "
            "Give its index.csv boxes or trimaps (bbox_x, bbox_y, bbox_w, bbox_h, or trimap)"
        )
    objects = task.test_masks.to(torch.uint8)
    return Scenes(task.name, task.fingerprint, task.test, objects, task.mean, task.std)


def _scene(one: MaskedPicture, size: int) -> tuple[Tensor, Tensor]:
    """Return a picture and the classes of its pixels, squeezed: uint8 [3, size, size] and [size, size]."""
    picture = read_numbers(one.path).convert("RGB")
    classes = np.array(read_numbers(one.classes))
    if classes.ndim != 2:
        VOC.refuse(one.classes, "a mask with a palette", f"{classes.ndim} dimensions")
    if classes.shape != (picture.height, picture.width):
        VOC.refuse(one.classes, f"{picture.height} × {picture.width} pixels as in its picture", classes.shape)
    if strange := {int(n) for n in np.unique(classes)} - {*range(NUM_VOC_CLASSES + 1), UNDECIDED}:
        VOC.refuse(one.classes, f"classes up to {NUM_VOC_CLASSES} and {UNDECIDED}", min(strange))
    small = picture.resize((size, size), Image.Resampling.BILINEAR)
    numbers = Image.fromarray(classes.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1), torch.from_numpy(np.array(numbers))
