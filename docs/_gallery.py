"""Draw the pictures of docs/gallery.md anew, by the code that the page shows.

    python docs/_gallery.py        # about three minutes on two cores

The models are those of the recipes' demo: a small Vision Transformer, pre-trained and fine-tuned in a drawn
world in which the background of the training pictures gives the class away.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from tempfile import gettempdir
from typing import Any

import matplotlib.style
from accelerate.utils import set_seed
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes"))

import vitreg  # noqa: E402
from engine.demo.dataset import SETTINGS, drawn_start, drawn_task  # noqa: E402
from vitreg.train.data.dataset import Task  # noqa: E402
from vitreg.train.data.subset import Share, subset  # noqa: E402
from vitreg.train.models.start import Start  # noqa: E402
from vitreg.train.training.device import make_accelerator  # noqa: E402
from vitreg.train.training.evaluation import evaluate  # noqa: E402
from vitreg.train.training.loop import train  # noqa: E402
from vitreg.train.training.state import Entry, Measurement  # noqa: E402

PAGE = ROOT / "docs" / "gallery.md"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n\n!\[[^\]]*\]\((?P<file>assets/[\w-]+\.png)#both\)",
    re.DOTALL | re.MULTILINE,
)
"""A block of code, and the picture that stands below it."""

PER_CLASS = 6
EVERY = 15
"""Steps between two measurements."""

LAMS = (0.0, 1.0, 10.0, 100.0, 1000.0)
"""Of GTA; 0 is plain fine-tuning."""

DRAWN = {"fine-tuning": 0.0, "GTA": 100.0}
SHOWN = [125, 375, 625, 875]
"""Test pictures, evenly spread."""


@dataclass
class Training:
    """A fine-tuned model, and its top-1 in percent and its drift [l] at each step that was measured."""

    model: nn.Module
    top1: list[float]
    drift: list[Tensor]


def page_names(
    cache: Path, *, steps: int = SETTINGS.hyper.steps, seeds: int = 3, is_quick: bool = False
) -> dict[str, Any]:
    """Return what the page takes for granted: models, pictures, and what was measured in training.

    The source is pre-trained unless it lies in `cache`; a quick one is hardly trained.
    """
    task = drawn_task()
    start = drawn_start(cache, is_quick=is_quick, on_step=lambda done, total: None)
    runs = {
        (lam, seed): fine_tune(task, start, lam=lam, seed=seed, steps=steps)
        for lam in LAMS
        for seed in range(seeds)
    }
    measured = sorted({*range(0, steps, EVERY), steps})

    def top1(lam: float, place: int) -> tuple[float, float]:
        values = [runs[lam, seed].top1[place] for seed in range(seeds)]
        return fmean(values), stdev(values) if seeds > 1 else 0.0

    assert task.test_masks is not None
    return {
        "source": start.create(len(task.classes), 0.0).eval(),
        "fine_tuned": runs[DRAWN["fine-tuning"], 0].model.eval(),
        "guided": runs[DRAWN["GTA"], 0].model.eval(),
        "pictures": task.test[SHOWN],
        "images": task.normalise(task.test[SHOWN]),
        "masks": task.test_masks[SHOWN],
        "test_images": task.normalise(task.test),
        "test_masks": task.test_masks,
        "steps": measured,
        "drifts": {name: runs[lam, 0].drift for name, lam in DRAWN.items()},
        "top1": {
            name: [(step, *top1(lam, place)) for place, step in enumerate(measured)]
            for name, lam in DRAWN.items()
        },
        "top1_of_lam": {"GTA": [(lam, *top1(lam, -1)) for lam in LAMS if lam]},
        "top1_of_fine_tuning": top1(0.0, -1)[0],
    }


def fine_tune(task: Task, start: Start, *, lam: float, seed: int, steps: int) -> Training:
    """Return a model that was fine-tuned with GTA on a few pictures of each class."""
    set_seed(seed)
    model, source = (start.create(len(task.classes), 0.0) for _ in range(2))
    training = Training(model, [], [])
    accelerator, shown = make_accelerator("cpu"), task.normalise(task.test[::8])

    def measure(model: nn.Module) -> Entry:
        training.top1.append(evaluate(model, replace(task, test_masks=None), accelerator=accelerator)["top1"])
        training.drift.append(vitreg.measure.attention_drift(model, source, shown))
        return {}

    measure(model)
    train(
        model,
        task,
        subset(task, Share(shots=PER_CLASS), seed=seed),
        replace(SETTINGS.hyper, steps=steps),
        seed=seed,
        accelerator=accelerator,
        method="GTA" if lam else "fine-tune",
        lam=lam or None,
        measure=Measurement(EVERY, measure),
    )
    return training


def main() -> None:
    """Write each picture of the page, light and dark."""
    names = page_names(Path(gettempdir()) / "vitreg-gallery")
    print({name: names[name] for name in ("top1", "top1_of_lam", "top1_of_fine_tuning")})
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        for style, end in (("default", ""), ("dark_background", "-dark")):
            with matplotlib.style.context(style):
                exec(block["code"], names)
                path = (ROOT / "docs" / block["file"]).with_name(f"{Path(block['file']).stem}{end}.png")
                names["figure"].savefig(path, metadata={"Software": None}, transparent=True)
                print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
