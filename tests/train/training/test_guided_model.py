from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vitreg
from small_data import MODEL, SIZE
from vitreg.errors import InputError
from vitreg.train.training.guided_model import Applied
from vitreg.train.training.hyperparameters import Hyperparameters, Mixing
from vitreg.train.training.methods import (
    DEMANDING,
    METHODS,
    check_methods,
    guide_of,
    is_guided,
    target_of,
)

LAM = 2.0


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(MODEL, num_classes=3, img_size=SIZE).train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, SIZE, SIZE, generator=generator), torch.tensor([0, 2, 1, 1])


def applied(model: nn.Module, method: str, **options: Any) -> Applied:
    hyper = Hyperparameters(steps=2, batch_size=4, lr=0.1, weight_decay=0.0, **options)
    return Applied(model, method, LAM if is_guided(method) else None, hyper, num_classes=3)


def num_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("method", [name for name in METHODS if guide_of(name) not in DEMANDING])
def test_a_method_leaves_nothing_behind(model: nn.Module, method: str) -> None:
    pictures, labels = batch()
    with applied(model, method) as at_work:
        mixed, targets = at_work.mix(pictures, labels)
        loss = at_work.loss(model(mixed), targets)
        objective = loss + at_work.penalty()
        assert torch.isfinite(objective)
        assert (at_work.attachment is not None) == is_guided(method) == bool(at_work.terms)
        is_whole = METHODS[method].trains is None and not METHODS[method].adapters
        assert all(p.requires_grad for p in model.parameters()) == is_whole
        assert torch.equal(mixed, pictures) == (not method.endswith("+TransMix"))
    assert num_hooks(model) == 0
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("L2-SP", vitreg.L2SP(lam=LAM)),
        ("BSS", vitreg.BSS(lam=LAM)),
        ("block-output", vitreg.FeatureGuide("block_output", lam=LAM)),
        ("msa-output", vitreg.FeatureGuide("msa_output", lam=LAM)),
        ("GTA", vitreg.GTA(lam=LAM)),
        ("GTA-sum", vitreg.GTA(lam=LAM, reduction="sum")),
        ("GTA-sum-layers+TransMix", vitreg.GTA(lam=LAM, reduction="sum_layers")),
        ("fine-tune", None),
        ("attention-only", None),
    ],
)
def test_what_a_method_attaches(method: str, expected: Any) -> None:
    assert target_of(method, LAM if is_guided(method) else None) == expected


def test_grids_are_the_paper_s() -> None:
    assert METHODS["GTA"].grid == (0.1, 1.0, 10.0, 100.0)
    assert METHODS["L2-SP"].grid == pytest.approx((0.01, 0.1, 1.0))
    assert METHODS["BSS"].grid == pytest.approx((1e-4, 1e-3, 1e-2))


@pytest.mark.parametrize(("method", "part"), [("attention-only", "attn"), ("ffn-only", "mlp")])
def test_only_a_part_is_trained(model: nn.Module, method: str, part: str) -> None:
    with applied(model, method):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {n for n, _ in model.named_parameters() if f".{part}." in n or n.startswith("head.")}
    assert trained == expected | {"pos_embed"}


def test_without_mixing_the_loss_is_cross_entropy(model: nn.Module) -> None:
    pictures, labels = batch()
    with applied(model, "fine-tune", smoothing=0.1) as at_work:
        mixed, targets = at_work.mix(pictures, labels)
        logits = model(mixed)
        assert torch.equal(mixed, pictures)
        assert torch.equal(
            at_work.loss(logits, targets), F.cross_entropy(logits, labels, label_smoothing=0.1)
        )
        assert at_work.penalty() == 0.0


def test_mixup_blends_pictures_and_labels_alike(model: nn.Module) -> None:
    pictures, labels = batch()
    before = pictures.clone()
    np.random.seed(3)
    with applied(model, "fine-tune", mixing=Mixing(mixup=0.8), smoothing=0.0) as at_work:
        mixed, targets = at_work.mix(pictures, labels)
        logits = model(mixed)
        found = at_work.loss(logits, targets)
    assert torch.equal(pictures, before)
    own = float(targets[0, 0])  # the last picture's label, 1, is its partner's
    assert 0 < own < 1
    assert torch.allclose(mixed, own * pictures + (1 - own) * pictures.flip(0), atol=1e-5)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()))


def test_transmix_mixes_as_its_authors_unless_told_otherwise(model: nn.Module) -> None:
    for mixing, expected in ((None, (0.8, 1.0, 0.8)), (Mixing(cutmix=0.5), (0.0, 0.5, 0.5))):
        with applied(model, "GTA+TransMix", mixing=mixing, smoothing=0.1) as at_work:
            mix = at_work._transmix
            assert mix is not None
            assert (mix.mixup_alpha, mix.cutmix_alpha, mix.switch_prob) == expected
            assert mix.smoothing == 0.1


def test_names_are_found_whatever_their_case() -> None:
    assert check_methods(["gta+transmix", "l2-sp", "L2-SP"]) == ("GTA+TransMix", "L2-SP")
    with pytest.raises(InputError, match="did you mean L2-SP"):
        check_methods(["L2SP"])
