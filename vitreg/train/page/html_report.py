"""What a fine-tuning came to, as one page that can be handed on: nothing of it lies elsewhere."""

from __future__ import annotations

import base64
import shlex
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import torch
from accelerate import Accelerator
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from vitreg.plot.pictures import HEAT, Panel, draw_panel, enlarge
from vitreg.train.attention_overlay import SATURATED, attention_maps, object_block
from vitreg.train.choice import interval, paired_difference
from vitreg.train.data.dataset import evenly
from vitreg.train.finetuned import Finetuned
from vitreg.train.labelled_folder import Pictures
from vitreg.train.page.probabilities import NUM_BINS, commonest_mistakes, confusion, reliability
from vitreg.train.runs.predictions import stored_right
from vitreg.wording import plain

MOST_IN_MATRIX = 30
"""Classes up to which the confusion matrix is shown; beyond, the commonest mistakes have to do."""

NUM_MISTAKES, NUM_SHOWN, NUM_PAIRS, NUM_WEAKEST = 12, 6, 10, 8
"""How many mistakes, other pictures, pairs of classes and classes are shown at most."""

_TILE = 2.24
"""The side of a picture in inches of 100 pixels."""

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    finalize=lambda value: plain(value) if type(value) is str else value,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Names of classes and files are escaped, and none can turn the order of letters around."""


def html_report(found: Finetuned, pictures: Pictures, accelerator: Accelerator, block: int | None) -> str:
    """Return the page of what was trained and delivered.

    It shows the attention of `block`, from 0; of None that of `object_block`.
    """
    task, probabilities, out = pictures.task, found.probabilities, found.out
    labels = torch.tensor(task.test_labels)
    source = pictures.start.create(len(task.classes), 0.0)
    if block is None:
        block = object_block(source, task, accelerator=accelerator)
    # A mistake is the worse the less probable the model finds what is true.
    worst = probabilities.gather(1, labels[:, None])[:, 0].argsort(stable=True)
    wrong = worst[probabilities.argmax(1)[worst] != labels[worst]].tolist()[:NUM_MISTAKES]
    even = evenly(len(labels), at_most=NUM_SHOWN)
    images = task.normalise(task.test[[*wrong, *even]])
    maps = attention_maps(found.model, images, block, accelerator=accelerator)
    before = attention_maps(source, images[len(wrong) :], block, accelerator=accelerator)

    def tile(index: int, heats: dict[str, Tensor]) -> dict[str, Any]:
        probability, predicted = probabilities[index].max(0)
        image = task.test[index]
        drawn = {"picture": None, **heats}
        return {
            "name": task.test_names[index],
            "true": task.classes[labels[index]],
            "predicted": task.classes[predicted],
            "probability": float(probability),
            "of_true": float(probabilities[index, labels[index]]),
            "is_right": int(predicted) == int(labels[index]),
            "pictures": {title: _data_uri(image, heat) for title, heat in drawn.items()},
        }

    after, both = maps[len(wrong) :], (found.fine_tuned, found.probe)
    counts = confusion(probabilities, task.test_labels)
    each = list(zip(task.classes, counts.diag().tolist(), counts.sum(1).tolist(), strict=True))
    return _PAGES.get_template("report.html").render(
        name=task.name,
        found=found,
        pictures=pictures,
        models=_models(found),
        difference=paired_difference(*(stored_right(out, one.configuration) for one in both)),
        counts=counts.tolist() if len(task.classes) <= MOST_IN_MATRIX else [],
        pairs=commonest_mistakes(counts, task.classes, at_most=NUM_PAIRS),
        weakest=sorted(each, key=lambda row: row[1] / max(row[2], 1))[:NUM_WEAKEST],
        mistakes=[tile(i, {"attention": heat}) for i, heat in zip(wrong, maps, strict=False)],
        shown=[
            tile(i, {"before": old, "after": new}) for i, old, new in zip(even, before, after, strict=True)
        ],
        block=block,
        heat=[to_hex(matplotlib.colormaps[HEAT](place / 8)) for place in range(9)],
        reliability=reliability(probabilities, task.test_labels),
        num_bins=NUM_BINS,
        place=shlex.quote(out.resolve().name),
        machine=found.report.machine,
    )


def _models(found: Finetuned) -> list[dict[str, Any]]:
    """Return both models, or the probe alone where nothing else was trained."""
    reports = {"linear probe": found.probe, f"fine-tuned: {found.trial}": found.fine_tuned}
    if found.fine_tuned.configuration == found.probe.configuration:
        del reports[f"fine-tuned: {found.trial}"]
    return [
        {
            "name": name,
            "metrics": report.metrics,
            "interval": interval(stored_right(found.out, report.configuration)),
            "is_delivered": report is found.report,
        }
        for name, report in reports.items()
    ]


def _data_uri(picture: Tensor, attention: Tensor | None) -> str:
    """Return a picture, uint8 [3, size, size], with its attention as heat, where there is one."""
    image = picture.permute(1, 2, 0).float() / 255
    size = (image.shape[0], image.shape[1])
    heat = None if attention is None else enlarge(attention, size, saturated=SATURATED)
    figure, file = Figure(figsize=(_TILE, _TILE), dpi=100), BytesIO()
    draw_panel(figure.add_axes((0, 0, 1, 1)), Panel(image, heat=heat))
    figure.savefig(file, format="jpeg", pil_kwargs={"quality": 85})
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
