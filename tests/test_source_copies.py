"""Copies of sources: of models that torch alone does not copy, and of a source itself."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import vitreg
from laws import refuses, unchanged
from small_models import TOWERS, make_clip, make_vit
from vitreg import MismatchError, UnsupportedModelError
from vitreg.sources.copies import frozen_copy


def with_weight_norm(images: Tensor) -> nn.Module:
    model = make_vit()
    for block in model.blocks:
        nn.utils.weight_norm(block.attn.qkv)
    return model


def pruned(images: Tensor) -> nn.Module:
    model = make_vit()
    for block in model.blocks:
        prune.l1_unstructured(block.attn.qkv, "weight", 0.5)
    return model


def with_outputs_kept(images: Tensor) -> nn.Module:
    """Return a model on which somebody keeps outputs: one as it is, others in a dictionary of lists."""
    model = make_vit()
    model.blocks[0].attn.kept = model(images)
    model.kept = {"all": [model(images), {"once more": (model(images),)}]}
    return model


ODD = {"weight_norm": with_weight_norm, "pruning": pruned, "outputs kept": with_outputs_kept}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_of_a_model_with_computed_tensors(
    make: Callable[[Tensor], nn.Module], images: Tensor, perturb: Callable[[nn.Module], None]
) -> None:
    model = make(images).train()
    seen: list[list[Tensor]] = []

    def pass_of(module: nn.Module) -> None:
        outputs: list[Tensor] = []
        hooks = [
            block.attn.register_forward_hook(lambda *args: outputs.append(args[2].detach()))
            for block in module.blocks
        ]
        module(images)
        for hook in hooks:
            hook.remove()
        seen.append(outputs)

    pass_of(model)
    with vitreg.attach(model, target="msa_output") as attachment:
        perturb(model)
        pass_of(model)
        value = attachment.penalty()
    before, after = seen
    expected = sum((a.double() - b.double()).square().mean() for a, b in zip(after, before, strict=True))
    assert value.item() == pytest.approx(expected.item() / len(before), rel=1e-4)
    value.backward()


def test_a_copy_shares_no_tensor() -> None:
    model = make_vit()
    model.kept = model.head.weight * 2
    copied, beside = frozen_copy(model)
    assert not beside
    ours = {t.data_ptr() for t in [*model.parameters(), *model.buffers(), model.kept]}
    assert not ours & {t.data_ptr() for t in [*copied.parameters(), *copied.buffers(), copied.kept]}
    assert torch.equal(copied.kept, model.kept)
    assert not copied.kept.requires_grad


def test_what_cannot_be_copied_is_named() -> None:
    model = make_vit()
    model.blocks[1].lock = threading.Lock()
    with unchanged(model), refuses(UnsupportedModelError, "'lock' of 'blocks.1' (Block)", "Take it off"):
        vitreg.attach(model)
    del model.blocks[1].lock
    lock = threading.Lock()

    class Hook:
        def __init__(self) -> None:
            self.lock = lock

        def __call__(self, *_: object) -> None: ...

    handle = model.head.register_forward_hook(Hook())
    with refuses(UnsupportedModelError, "a hook of 'head' (Linear)", "Take it off"):
        vitreg.attach(model)
    handle.remove()
    vitreg.attach(model).remove()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("make", [make_vit, make_clip], ids=["timm", "clip"])
def test_of_a_source(
    make: Callable[[], nn.Module],
    duplicate: Callable[[object], object],
    images: Tensor,
    perturb: Callable[[nn.Module], None],
) -> None:
    model = make().train()
    sources = [vitreg.FrozenSource(model), vitreg.CachedSource(model, size=len(images))]
    perturb(model)
    values = []
    for source in (sources[0], *map(duplicate, sources)):
        assert isinstance(source, vitreg.FrozenSource)
        with vitreg.attach(model, source) as attachment:
            getattr(model, "encode_image", model)(images)
            values.append(attachment.penalty(views=range(len(images))).item())
    assert values[0] > 0
    assert values == pytest.approx(values[:1] * 3, rel=1e-5)


def test_a_model_of_another_picture_size_since(images: Tensor) -> None:
    for align, found in (("exact", "found that it fails (AssertionError"), ("resample", "[2, 2, 64]")):
        model = make_vit().train()
        with vitreg.attach(model, align=align) as attachment:
            model.set_input_size(img_size=(64, 64))
            model(torch.randn(2, 3, 64, 64))
            with refuses(MismatchError, found, "since it was attached (set_input_size), attach again"):
                attachment.penalty()
        with vitreg.attach(model, make_vit(), align="resample") as attachment:
            model(torch.randn(2, 3, 64, 64))
            assert attachment.penalty() > 0


def test_logits_are_not_read_from_weights_of_the_last_pass() -> None:
    model = TOWERS["torchvision"]()
    prune.l1_unstructured(model.encoder.layers[1].self_attention, "in_proj_weight", 0.5)
    with refuses(UnsupportedModelError, "a hook that computes one (pruning", "Leave it without, or read"):
        vitreg.attach(model)
