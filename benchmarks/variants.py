"""The variants of the training step that `overhead.py` and `scaling.py` measure."""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

import rivals
import rivals_transformers
import vitreg
from side_by_side import Row, Step, compare
from training import NUM_CLASSES, Make, NotApplicable, Setting, Variant, training_step


class Entry(NamedTuple):
    """A variant in the table.

    Attributes:
        make: makes it.
        baseline: the name of the variant that its cost is divided by.
        cycle: after how many steps its cost repeats; a round takes as many.
    """

    make: Make
    baseline: str = "plain"
    cycle: int = 1


def attached(target: Any, **options: Any) -> Make:
    """Return what makes a step with `vitreg.attach(model, source, target, **options)`."""

    def make(setting: Setting) -> Variant:
        model = setting.model()
        attachment = vitreg.attach(model, setting.source, target, **options)
        return Variant(model, lambda kept, images: attachment.penalty())

    return make


def _co_tuning(setting: Setting) -> Variant:
    model, labels = setting.model(), setting.labels
    relation = torch.full((NUM_CLASSES, NUM_CLASSES), 1 / NUM_CLASSES, device=labels.device)
    attachment = vitreg.attach(model, setting.source, vitreg.CoTuning(relation=relation))
    return Variant(model, lambda kept, images: attachment.penalty(labels=labels))


def _object_guide(setting: Setting) -> Variant:
    model = setting.model()
    attachment = vitreg.attach(model, target="object_guide")
    masks = torch.ones_like(setting.images[:, 0], dtype=torch.bool)
    return Variant(model, lambda kept, images: attachment.penalty(masks=masks))


def _r_drop(setting: Setting) -> Variant:
    model, labels = setting.model(), setting.labels
    attachment = vitreg.attach(model, target="r_drop")

    def penalty(kept: Any, images: Tensor) -> Tensor:
        """Pass a second time, with the loss that this pass has too."""
        return F.cross_entropy(model(images), labels) + attachment.penalty()

    return Variant(model, penalty)


def without_fused_attention(make: Make) -> Make:
    """Return what makes the same step of a model and a source whose attention timm does not fuse."""

    def make_unfused(setting: Setting) -> Variant:
        source = copy.deepcopy(rivals.plain_timm(setting.source))
        for block in source.blocks:
            block.attn.fused_attn = False
        return make(replace(setting, source=source))

    return make_unfused


def projected(projection: Any) -> Make:
    """Return what makes a step after which `projection` pulls the weights back."""

    def make(setting: Setting) -> Variant:
        model = setting.model()
        return Variant(model, project=lambda opt: vitreg.project(model, opt, setting.source, projection))

    return make


FIVE = {
    "gta": vitreg.GTA(),
    "centred": vitreg.GTA(center=True),
    "kl": vitreg.AttentionKL(),
    "kl, flatter": vitreg.AttentionKL(temperature=2.0),
    "probabilities": vitreg.FeatureGuide("attn_probs"),
}
"""Five penalties for which a source runs as far as for one."""


def _middle_block(setting: Setting) -> Variant:
    middle = vitreg.describe(setting.source).num_blocks // 2 - 1
    return attached("block_output", layers=middle)(setting)


def _remembered_source(setting: Setting) -> Variant:
    """Make GTA whose source has seen all views: the batch's pictures are views that come again."""
    model, views = setting.model(), range(len(setting.images))
    source = vitreg.CachedSource(setting.source, len(views))
    attachment = vitreg.attach(model, source)
    return Variant(model, lambda kept, images: attachment.penalty(views=views))


def _source_in_bfloat16(setting: Setting) -> Variant:
    model = setting.model()
    attachment = vitreg.attach(model, vitreg.FrozenSource(setting.source, autocast=torch.bfloat16))
    return Variant(model, lambda kept, images: attachment.penalty())


def _reading_alone(setting: Setting) -> Variant:
    model = setting.model()
    stack = ExitStack()
    stack.enter_context(vitreg.trace(model, "attn_logits"))
    return Variant(model, keeps=stack)


def _cutmix(setting: Setting) -> Variant:
    _refuse_odd(setting)
    mixup = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=NUM_CLASSES)

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return mixup(images.clone(), labels)  # timm writes into the images, which the other variants use

    return Variant(setting.model(), criterion=SoftTargetCrossEntropy(), mix=mix)


def _transmix(setting: Setting) -> Variant:
    _refuse_odd(setting)
    model = setting.model()
    mix = vitreg.TransMix(model, num_classes=NUM_CLASSES, mixup_alpha=0.0, cutmix_alpha=1.0)
    return Variant(model, criterion=lambda logits, labels: mix.loss(logits), mix=mix)


def _refuse_odd(setting: Setting) -> None:
    if len(setting.images) % 2:
        raise NotApplicable(f"pictures are mixed in pairs, found a batch of {len(setting.images)}")


VARIANTS: dict[str, Entry] = {
    "plain": Entry(lambda setting: Variant(setting.model())),
    "plain without fused attention": Entry(without_fused_attention(lambda setting: Variant(setting.model()))),
    "GTA without fused attention": Entry(
        without_fused_attention(attached("attn_logits")), baseline="plain without fused attention"
    ),
    "reading alone": Entry(_reading_alone),
    "GTA": Entry(attached("attn_logits")),
    "GTA, remembered source": Entry(_remembered_source),
    "GTA, every 4th step": Entry(attached("attn_logits", every=4), cycle=4),
    "GTA, a quarter of the pictures": Entry(attached("attn_logits", fraction=0.25)),
    "five penalties on one source": Entry(attached(FIVE), baseline="GTA"),
    "GTA, source in bfloat16": Entry(_source_in_bfloat16),
    "attention guide": Entry(attached("attn_probs")),
    "MSA-output guide": Entry(attached("msa_output")),
    "block-output guide": Entry(attached("block_output")),
    "block-output guide, middle block": Entry(_middle_block),
    "feature guide": Entry(attached("features")),
    "attention KL": Entry(attached("attention_kl")),
    "object guide": Entry(_object_guide),
    "Gram anchor": Entry(attached("gram_anchor")),
    "LDIFS": Entry(attached("ldifs")),
    "DELTA": Entry(attached("delta")),
    "LwF": Entry(attached("lwf")),
    "Co-tuning": Entry(_co_tuning),
    "R-Drop": Entry(_r_drop),
    "L2-SP": Entry(attached("l2sp")),
    "BSS": Entry(attached("bss")),
    "SPD": Entry(projected(vitreg.SPD())),
    "FTP": Entry(projected(vitreg.FTP())),
    "MARS": Entry(projected(vitreg.MARS(radius=1.0))),
    "L2Ball": Entry(projected(vitreg.L2Ball(radius=1.0))),
    "CutMix": Entry(_cutmix),
    "TransMix": Entry(_transmix, baseline="CutMix"),
    "GTA, unfused attention": Entry(rivals.gta_from_unfused_attention),
    "block-output guide, feature getter": Entry(rivals.block_outputs_from_feature_getter),
    "L2-SP, loop over parameters": Entry(rivals.l2sp_in_a_loop),
    "BSS, torch.svd": Entry(rivals.bss_by_svd),
    "transformers": Entry(rivals_transformers.plain, baseline="transformers"),
    "transformers, attention guide": Entry(rivals_transformers.with_vitreg, baseline="transformers"),
    "transformers, output_attentions": Entry(rivals_transformers.output_attentions, baseline="transformers"),
}
"""Every variant by its name."""


def with_baselines(names: Iterable[str]) -> list[str]:
    """Return the names in the table's order, with the baselines that they need."""
    wanted = set(names)
    while missing := {VARIANTS[name].baseline for name in wanted} - wanted:
        wanted |= missing
    return [name for name in VARIANTS if name in wanted]


class Costs(NamedTuple):
    """What was measured: a row a variant, and why others have none."""

    rows: dict[str, Row]
    left_out: dict[str, str]


def costs(entries: Mapping[str, Entry], setting: Setting, options: argparse.Namespace) -> Costs:
    """Return the cost of each variant beside its baseline; those that do not apply are named and left out.

    With `--keep-going` each variant takes a step before any is measured, and one that cannot is left out too,
    whatever the error; so is one for whose first step, which may compile it, no time is left.
    """
    began = time.monotonic()
    steps: dict[str, Step] = {}
    left_out: dict[str, str] = {}
    for name, entry in entries.items():
        taken = time.monotonic() - began
        if options.seconds is not None and options.keep_going and taken > TRIAL * options.seconds:
            found: Step | str = f"no time was left to try it, after {taken:.0f} s"
        elif entry.baseline in left_out:
            found = f"its baseline, {entry.baseline}, was left out"
        else:
            found = _step_or_reason(entry, setting, keep_going=options.keep_going)
        if isinstance(found, str):
            print(f"left out: {name}: {found}", flush=True)
            left_out[name] = found
            if setting.images.is_cuda:
                gc.collect()
                torch.cuda.empty_cache()
        else:
            steps[name] = found
    if not steps:
        raise SystemExit("none of the variants could be measured: the reasons stand above")
    within = None if options.seconds is None else max(0.0, options.seconds - (time.monotonic() - began))
    rows = compare(
        steps,
        {name: entries[name].baseline for name in steps},
        rounds=options.rounds,
        warmup=options.warmup,
        device=options.device,
        cycles={name: entries[name].cycle for name in steps},
        within=within,
    )
    return Costs(rows, left_out)


TRIAL = 0.6
"""The share of `--seconds` after which no further variant is tried, so that those that run are measured."""


def _step_or_reason(entry: Entry, setting: Setting, *, keep_going: bool) -> Step | str:
    """Return the variant's step, or why there is none for this model."""
    try:
        step = training_step(entry.make(setting), setting)
        if keep_going:
            step()
        return step
    except (NotApplicable, vitreg.UnsupportedModelError) as reason:
        return str(reason)
    except Exception as error:  # whatever a library, a compiler or a full memory leads to
        if not keep_going:
            raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
