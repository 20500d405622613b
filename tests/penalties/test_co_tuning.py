import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laws
import vitreg
from laws import draw, refuses
from vitreg import ArgumentError, CoTuning, UnsupportedModelError


def bound(head: nn.Module, relation: Tensor) -> CoTuning:
    return replace(CoTuning(relation=relation), _head=head.requires_grad_(False))


def literal(head: nn.Linear, features: Tensor, shares: Tensor) -> float:
    total = 0.0
    for row, share in zip(head(features).double().tolist(), shares.double().tolist(), strict=True):
        norm = math.log(sum(math.exp(z) for z in row))
        total -= sum(p * (z - norm) for p, z in zip(share, row, strict=True))
    return total / len(features)


def test_literal_and_laws() -> None:
    head, features, relation = nn.Linear(6, 4), draw(0, 5, 6), draw(3, 3, 4).softmax(1)
    labels = torch.tensor([0, 2, 1, 1, 0])
    penalty = bound(head, relation)
    value = penalty.value([features], [], [labels])
    assert value.item() == pytest.approx(literal(head, features, relation[labels]), rel=1e-4)
    soft = F.one_hot(labels, 3).float()
    torch.testing.assert_close(penalty.value([features], [], [soft]), value)
    torch.testing.assert_close(penalty.value([features.roll(1, 0)], [], [labels.roll(1)]), value)
    for dtype in (torch.bfloat16, torch.float64):
        assert penalty.value([features.to(dtype)], [], [labels]).dtype == torch.float32
    laws.gradient_to_the_target_only(lambda t, s: penalty.value(t, s, [labels]), [features], [])


def test_the_authors_loss() -> None:
    """Their CoTuningLoss: relations as targets of the source's head."""
    head, features, relation = nn.Linear(6, 4), draw(0, 5, 6), draw(3, 3, 4).softmax(1)
    labels = torch.tensor([0, 2, 1, 1, 0])
    y_pred = F.softmax(head(features), dim=-1)
    authors = torch.mean(torch.sum(-relation[labels] * torch.log(y_pred.clamp(min=1e-5)), dim=-1))
    torch.testing.assert_close(bound(head, relation).value([features], [], [labels]), authors)


def test_of_a_model_with_a_relation_of_its_pictures(vit: object, images: Tensor) -> None:
    source, model = vit(num_classes=7), vit(num_classes=3).train()
    batches = [(images, torch.tensor([0, 1, 2, 1])), (images + 1, torch.tensor([0, 0, 2, 1]))]
    relation = vitreg.measure.class_relation(source, batches, 3)
    said = [source.eval()(pictures).double().softmax(1) for pictures, _ in batches]
    for label in range(3):
        own = [row for rows, (_, labels) in zip(said, batches, strict=True) for row in rows[labels == label]]
        torch.testing.assert_close(relation[label].double(), sum(own) / len(own), rtol=1e-4, atol=1e-6)
    with vitreg.attach(model, source, target=CoTuning(relation=relation)) as attachment:
        with vitreg.trace(model, "features") as trace:
            model(images)
        features, labels = trace["features"][0].detach(), batches[0][1]
        expected = literal(source.head, features, relation[labels])
        assert attachment.penalty(labels=labels).item() == pytest.approx(2.3 * expected, rel=1e-3)


def test_what_is_missing_is_said(vit: object, images: Tensor) -> None:
    with refuses(ArgumentError, "CoTuning needs the relation", "class_relation"):
        vitreg.attach(vit(), target="co_tuning")
    with refuses(ArgumentError, "relation is [classes, classes of the source]", "[3]"):
        CoTuning(relation=torch.ones(3))
    with refuses(UnsupportedModelError, "CoTuning needs a source with a classifier"):
        vitreg.attach(vit(), vit(num_classes=0), target=CoTuning(relation=torch.eye(5)))
    model = vit().train()
    with vitreg.attach(model, target=CoTuning(relation=torch.eye(4))) as attachment:
        model(images)
        with refuses(ArgumentError, "'co_tuning' needs penalty(labels=…)", "found none"):
            attachment.penalty()
        model(images)
        with refuses(ArgumentError, "Expected labels for 4 pictures", "[3]"):
            attachment.penalty(labels=torch.zeros(3).long())
        model(images)
        with refuses(ArgumentError, "a relation to the 5 classes", "found one to 4"):
            attachment.penalty(labels=torch.zeros(4).long())
    with refuses(ArgumentError, "no picture of class 3"):
        vitreg.measure.class_relation(vit(), [(images, torch.tensor([0, 1, 2, 1]))], 4)
