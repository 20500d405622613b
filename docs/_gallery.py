"""Draw the pictures of docs/gallery.md anew, by the code that the page shows.

    python docs/_gallery.py        # about three minutes on two cores

The models are those of the recipes' demo: a small Vision Transformer, pre-trained and fine-tuned in a drawn
world in which the background of the training pictures gives the class away.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean, stdev
from tempfile import gettempdir
from typing import Any

import matplotlib.style
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "recipes"))

import vitreg  # noqa: E402
from engine.demo import supervised as demo  # noqa: E402
from engine.demo import world  # noqa: E402
from engine.demo.dataset import SETTINGS  # noqa: E402
from vitreg.weights import read_weights  # noqa: E402

PAGE = ROOT / "docs" / "gallery.md"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n\n!\[[^\]]*\]\((?P<file>assets/[\w-]+\.png)#both\)",
    re.DOTALL | re.MULTILINE,
)
"""A block of code, and the picture that stands below it."""

PER_CLASS = 6
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
    cache: Path, *, pre_training: int = demo.SOURCE_STEPS, steps: int = SETTINGS.hyper.steps, seeds: int = 3
) -> dict[str, Any]:
    """Return what the page takes for granted: models, pictures, and what was measured in training.

    The source is pre-trained for so many steps unless it lies in `cache`.
    """
    source = demo.create_model(world.NUM_SOURCE_CLASSES).eval()
    source.load_state_dict(read_weights(demo.source_checkpoint(cache, steps=pre_training)))
    train, test = world.draw_target("train", seed=0), world.draw_target("test", seed=0)
    measured = sorted({*range(0, steps, 15), steps})
    runs = {
        (lam, seed): fine_tune(source, train, test, lam=lam, seed=seed, measured=measured)
        for lam in LAMS
        for seed in range(seeds)
    }

    def top1(lam: float, place: int) -> tuple[float, float]:
        values = [runs[lam, seed].top1[place] for seed in range(seeds)]
        return fmean(values), stdev(values) if seeds > 1 else 0.0

    return {
        "source": source,
        "fine_tuned": runs[DRAWN["fine-tuning"], 0].model,
        "guided": runs[DRAWN["GTA"], 0].model,
        "pictures": test.images[SHOWN],
        "images": demo.normalise(test.images[SHOWN]),
        "masks": test.masks[SHOWN],
        "test_images": demo.normalise(test.images),
        "test_masks": test.masks,
        "steps": measured,
        "drifts": {name: runs[lam, 0].drift for name, lam in DRAWN.items()},
        "top1": {
            name: [(step, *top1(lam, place)) for place, step in enumerate(measured)]
            for name, lam in DRAWN.items()
        },
        "top1_of_lam": {"GTA": [(lam, *top1(lam, -1)) for lam in LAMS if lam]},
        "top1_of_fine_tuning": top1(0.0, -1)[0],
    }


def fine_tune(
    source: nn.Module,
    train: world.Pictures,
    test: world.Pictures,
    *,
    lam: float,
    seed: int,
    measured: Sequence[int],
) -> Training:
    """Return a model that was fine-tuned with GTA on a few pictures of each class up to the last step."""
    torch.manual_seed(seed)
    model = demo.create_model(world.NUM_TARGET_CLASSES)
    start = {key: value for key, value in source.state_dict().items() if not key.startswith("head.")}
    model.load_state_dict(start, strict=False)
    each = world.PICTURES_PER_CLASS
    rows = torch.cat([c * each + torch.randperm(each)[:PER_CLASS] for c in range(world.NUM_TARGET_CLASSES)])
    batches = (
        batch for _ in count() for batch in rows[torch.randperm(len(rows))].split(SETTINGS.hyper.batch_size)
    )
    settings = demo.SourceSettings(lr=SETTINGS.hyper.lr, weight_decay=SETTINGS.hyper.weight_decay)
    optimizer, schedule = demo.optimisation(model, settings, max(measured[-1], 2))
    training = Training(model, [], [])
    with vitreg.attach(model, source, lam=lam) as reg:
        for step in range(measured[-1] + 1):
            if step in measured:
                training.top1.append(top1_of(model.eval(), test))
                shown = demo.normalise(test.images[::8])
                training.drift.append(vitreg.measure.attention_drift(model, source, shown))
            if step < measured[-1]:
                batch = next(batches)
                loss = F.cross_entropy(
                    model.train()(demo.normalise(train.images[batch])), train.labels[batch]
                )
                (loss + reg.penalty()).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
    return training


@torch.no_grad()
def top1_of(model: nn.Module, test: world.Pictures) -> float:
    """Return the share of the test pictures that the model names rightly, in percent."""
    return 100 * float((model(demo.normalise(test.images)).argmax(1) == test.labels).float().mean())


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
