"""A training step: what all variants of it share, and what a variant says about itself."""

from __future__ import annotations

import argparse
import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from side_by_side import Step

NUM_CLASSES = 100


class NotApplicable(Exception):  # noqa: N818
    """A variant that does not exist for this model; the message says why."""


class ClipClassifier(nn.Module):
    """open_clip's vision tower with a linear head, under timm's method names."""

    def __init__(self, name: str, *, size: int, depth: int | None = None) -> None:
        super().__init__()
        from open_clip import get_model_config
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        config = get_model_config(name)
        vision = {**config["vision_cfg"], "image_size": size}
        vision |= {} if depth is None else {"layers": depth}
        text = CLIPTextCfg(context_length=8, vocab_size=8, width=8, heads=1, layers=1)  # not used
        activation = config.get("quick_gelu", False)
        clip = CLIP(config["embed_dim"], CLIPVisionCfg(**vision), text, quick_gelu=activation)
        self.visual = clip.visual
        self.head = nn.Linear(config["embed_dim"], NUM_CLASSES)

    def forward_features(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.visual(images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features if pre_logits else self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def model_name(text: str) -> str:
    """Return `text` if it names a model; raises what argparse reports otherwise."""
    if text.startswith("clip:"):
        from open_clip import list_models

        known, library = text.removeprefix("clip:") in list_models(), "open_clip"
    else:
        known, library = timm.is_model(text), "timm"
    if not known:
        raise argparse.ArgumentTypeError(f"expected a model of {library} (or clip:NAME), found {text!r}")
    return text


def make_model(name: str, *, size: int, depth: int | None = None) -> nn.Module:
    """Return a model without pre-trained weights; "clip:NAME" is open_clip's vision tower with a head."""
    if name.startswith("clip:"):
        return ClipClassifier(name.removeprefix("clip:"), size=size, depth=depth)
    options = {} if depth is None else {"depth": depth}
    return cast(nn.Module, timm.create_model(name, num_classes=NUM_CLASSES, img_size=size, **options))


@dataclass(frozen=True)
class Setting:
    """What all variants share: the source, one batch, and how they are run.

    Attributes:
        source: the pre-trained model, in eval mode and frozen.
        images: [b, 3, size, size].
        labels: class indices, [b].
        amp: whether a step runs under bfloat16 autocast.
        compile: the backend with which what runs is compiled, or None.
    """

    source: nn.Module
    images: Tensor
    labels: Tensor
    amp: bool = False
    compile: str | None = None

    def model(self) -> nn.Module:
        """Return a trainable copy of the source."""
        return copy.deepcopy(self.source).train().requires_grad_(True)

    def ready(self, module: nn.Module) -> Callable[..., Any]:
        """Return `module` as it is run: compiled if that is asked for, and by itself.

        torch keeps what it compiles by the code of `forward`, which all variants share. Each has its own
        store where torch can do that, so that none looks through the others' and none reaches the limit.
        """
        if not self.compile:
            return module
        options: dict[str, Any] = {"backend": self.compile}
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
            options["isolate_recompiles"] = True
        else:
            torch._dynamo.config.cache_size_limit = 64
        return torch.compile(module, **options)


def make_setting(
    name: str, *, size: int, batch_size: int, options: argparse.Namespace, depth: int | None = None
) -> Setting:
    """Return the setting for the model `name` and random images, the same for the same arguments."""
    torch.manual_seed(0)
    source = make_model(name, size=size, depth=depth).to(options.device).eval().requires_grad_(False)
    images = torch.randn(batch_size, 3, size, size, device=options.device)
    labels = torch.randint(NUM_CLASSES, (batch_size,), device=options.device)
    return Setting(source, images, labels, options.amp, options.compile)


class Variant(NamedTuple):
    """One way to train.

    Attributes:
        module: what is trained. Called with images, it returns logits, or logits and what it kept beside.
        penalty: from what was kept and the images to the weighted penalty.
        criterion: from logits and labels to the loss.
        mix: from images and labels to those that are used.
        project: from the optimiser to what follows its steps.
        keeps: what has to live as long as the variant.
    """

    module: nn.Module
    penalty: Callable[[Any, Tensor], Tensor] | None = None
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    project: Callable[[torch.optim.Optimizer], object] | None = None
    keeps: object = None


Make = Callable[[Setting], Variant]


def training_step(variant: Variant, setting: Setting) -> Step:
    """Return a function that takes one whole training step: forward, backward, AdamW."""
    run = setting.ready(variant.module)
    optimizer = torch.optim.AdamW(variant.module.parameters(), lr=1e-5)
    projector = None if variant.project is None else variant.project(optimizer)

    def step(projector: object = projector) -> None:  # which has to live as long
        images, labels = setting.images, setting.labels
        if variant.mix is not None:
            images, labels = variant.mix(images, labels)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=setting.amp):
            output = run(images)
            logits, kept = output if isinstance(output, tuple) else (output, None)
            loss = variant.criterion(logits, labels)
            if variant.penalty is not None:
                loss = loss + variant.penalty(kept, images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # last, so that a step begins and ends without gradients in memory

    return step
