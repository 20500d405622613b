"""The linear probe on features: the weight decay is the best on pictures that are held out in turn."""

from __future__ import annotations

import pytest
import torch

import vitreg
from laws import draw, refuses
from vitreg import ArgumentError


def test_the_decay_is_the_best_of_a_literal_search() -> None:
    labels = torch.arange(40) % 4
    features = draw(0, 40, 12) + 0.8 * draw(1, 4, 12)[labels]
    probe = vitreg.fit_probe(features, labels, num_classes=4)
    folds = vitreg.functional.stratified_folds(labels, 5)
    scores = {}
    for decay in (1e-4, 1e-3, 1e-2, 1e-1):
        right, loss, held_out = 0, 0.0, torch.zeros(40, 4, dtype=torch.float64)
        for i in range(40):
            kept = [j for j in range(40) if folds[j] != folds[i]]
            weight, bias = vitreg.functional.logistic_regression(
                features[kept], labels[kept], weight_decay=decay, num_classes=4
            )
            held_out[i] = features[i].double() @ weight.T + bias
            right += int(held_out[i].argmax() == labels[i])
            loss -= float(held_out[i].log_softmax(0)[labels[i]])
        scores[decay] = (right / 40, -loss / 40, held_out)
    best = max(scores, key=lambda decay: scores[decay][:2])
    assert probe.weight_decay == best
    assert probe.fold_accuracy == pytest.approx(scores[best][0])
    assert probe.accuracies == pytest.approx({decay: score[0] for decay, score in scores.items()})
    torch.testing.assert_close(probe.held_out_logits, scores[best][2])
    weight, bias = vitreg.functional.logistic_regression(features, labels, weight_decay=best, num_classes=4)
    assert torch.equal(probe.weight, weight)
    assert torch.equal(probe.bias, bias)
    fitted = (features.double() @ weight.T + bias).argmax(1)
    assert probe.train_accuracy == pytest.approx(sum((fitted == labels).tolist()) / 40)
    assert len({score[0] for score in scores.values()}) > 1, "the search has something to choose"
    assert repr(probe).startswith(f"LinearProbe(4 classes, 40 pictures, weight decay {best:g}, top-1 ")


def test_among_equals_the_smaller_loss_wins() -> None:
    labels = torch.arange(20) % 2
    features = 10.0 * labels[:, None] + 0.1 * draw(0, 20, 3)
    probe = vitreg.fit_probe(features, labels, num_classes=2)
    assert set(probe.accuracies.values()) == {1.0}
    assert probe.weight_decay == 1e-4


def test_as_many_folds_as_the_smallest_class_has_pictures() -> None:
    for smallest in (2, 3, 7):
        labels = torch.cat([torch.zeros(9), torch.ones(smallest)]).long()
        probe = vitreg.fit_probe(draw(0, len(labels), 4), labels, num_classes=2)
        assert probe.folds is not None
        assert len(probe.folds.unique()) == min(5, smallest)


def test_a_class_with_one_picture() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    probe = vitreg.fit_probe(draw(0, 4, 3), labels, num_classes=2)
    assert probe.weight_decay == 1e-2
    assert probe.fold_accuracy is probe.folds is probe.held_out_logits is None
    assert probe.accuracies == {}
    assert "none held out" in repr(probe)
    assert vitreg.fit_probe(draw(0, 4, 3), labels, num_classes=2, weight_decays=[0.5]).weight_decay == 0.5


def test_one_decay_is_taken_and_measured() -> None:
    labels = torch.arange(20) % 2
    probe = vitreg.fit_probe(draw(0, 20, 3), labels, num_classes=2, weight_decays=(0.5,))
    assert probe.weight_decay == 0.5
    assert list(probe.accuracies) == [0.5]
    with refuses(ArgumentError, "weight_decays must hold at least one"):
        vitreg.fit_probe(draw(0, 20, 3), labels, num_classes=2, weight_decays=())
