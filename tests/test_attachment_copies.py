"""Copies of an attachment: they know what it was, and leave the original attached."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import num_hooks, refuses
from small_models import make_clip, make_vit
from vitreg import ArgumentError, StateError

COPY: dict[str, Callable[[vitreg.Attachment], vitreg.Attachment]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda attachment: pickle.loads(pickle.dumps(attachment)),
}


@pytest.mark.parametrize("duplicate", COPY.values(), ids=COPY)
@pytest.mark.parametrize("target", ["attn_logits", "l2sp", "bss", ["attn_logits", "l2sp", "bss"]])
def test_a_copy_is_not_attached(
    duplicate: Callable[[vitreg.Attachment], vitreg.Attachment], target: str | list[str], images: Tensor
) -> None:
    model = make_vit().train()
    with vitreg.attach(model, target=target, lam=2.0) as attachment:
        model(images)
        attachment.penalty()
        hooks = num_hooks(model)
        twin = duplicate(attachment)
        assert repr(twin) == repr(attachment).replace(", attached,", ", removed,")
        assert (twin.step, twin.terms, list(twin.penalties)) == (
            1,
            attachment.terms,
            list(attachment.penalties),
        )
        twin.step = 7
        with refuses(StateError, "was removed", "attach again"):
            twin.penalty()
        twin.remove()
        del twin
        gc.collect()
        assert num_hooks(model) == hooks
        model(images)
        attachment.penalty()
        assert attachment.step == 2
    assert num_hooks(model) == 0


def test_the_source_of_a_copy_is_one(images: Tensor, perturb: Callable[[nn.Module], None]) -> None:
    model = make_clip().train()
    with vitreg.attach(model, target="block_output") as attachment:
        twin = pickle.loads(pickle.dumps(attachment))
        perturb(model)
        model.encode_image(images)
        expected = attachment.penalty()
    with vitreg.attach(model, twin.source, "block_output") as again:
        model.encode_image(images)
        torch.testing.assert_close(again.penalty(), expected)


@pytest.mark.parametrize(
    ("lam", "own", "every"), [(1e200, 1e200, 1), (1e39, 1.0, 1), (1.0, 1.0, 10**400), (2e38, 1.0, 2)]
)
def test_a_weight_that_is_no_float32(lam: float, own: float, every: int) -> None:
    model = make_vit().train()
    with vitreg.attach(model, target=vitreg.L2SP(lam=own), lam=lam, every=every) as attachment:
        attachment.step = 0
        with refuses(ArgumentError, "weight of 'l2sp'", "float32", "smaller"):
            attachment.penalty()


def test_a_value_that_is_no_tensor(images: Tensor) -> None:
    class Odd(vitreg.ReadingPenalty):
        extractor = "features"
        needs_source = False

        def value(self, target: object, source: object) -> float:
            return 1.0

    model = make_vit().train()
    with vitreg.attach(model, target=Odd()) as attachment:
        model(images)
        with refuses(ArgumentError, "scalar tensor", "'odd'", "float"):
            attachment.penalty()
