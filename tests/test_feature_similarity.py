"""How much of the source's features a model kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import vitreg
from small_models import make_vit
from vitreg import ArgumentError
from vitreg.functional import linear_cka, shared_neighbours
from vitreg.measure import feature_similarity


def test_it_compares_what_enters_the_heads(images: Tensor) -> None:
    model, source = make_vit(), make_vit()
    many = torch.cat([images, images.flip(2), images.flip(3), images.roll(5, 3)])
    pooled = [m.forward_head(m.eval().forward_features(many), pre_logits=True) for m in (model, source)]
    x, y = (features.detach() for features in pooled)
    model.train()
    found = feature_similarity(model, source, many, k=3)
    assert found.cka == pytest.approx(float(linear_cka(x, y)), rel=1e-5)
    assert found.neighbours == pytest.approx(float(shared_neighbours(x, y, k=3).mean()))
    assert model.training
    assert feature_similarity(model, source, many.split(3), k=3).cka == pytest.approx(found.cka, rel=1e-5)


def test_a_copy_with_another_head_is_alike(images: Tensor) -> None:
    model = make_vit()
    with vitreg.attach(copy.deepcopy(model)) as reg:
        torch.nn.init.zeros_(model.head.weight)
        found = feature_similarity(model, reg.source, torch.cat([images, images.flip(3)]), k=2)
    assert found.cka == pytest.approx(1)
    assert found.neighbours == 1


def test_pictures_are_checked(images: Tensor) -> None:
    with pytest.raises(ArgumentError, match="n of at least 11"):
        feature_similarity(make_vit(), make_vit(), images[:2])
    with pytest.raises(ArgumentError, match="Expected a batch of images"):
        feature_similarity(make_vit(), make_vit(), images.int())
