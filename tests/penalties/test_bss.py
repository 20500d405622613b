import pytest
import torch
from torch import Tensor

import vitreg
from laws import draw, num_hooks, refuses, unchanged
from vitreg import BSS, ArgumentError


def literal(features: Tensor, k: int) -> Tensor:
    return sum(value**2 for value in torch.linalg.svdvals(features)[-k:])


@pytest.mark.parametrize("shape", [(2, 8), (6, 16), (16, 6), (7, 7)])
@pytest.mark.parametrize("k", [1, 2])
def test_value_and_gradient(shape: tuple[int, int], k: int) -> None:
    features = draw(5, *shape).requires_grad_()
    value = BSS(k=k).value([features])
    value.backward()
    exact = features.detach().double().requires_grad_()
    literal(exact, k).backward()
    assert value.item() == pytest.approx(literal(exact, k).item(), rel=1e-4)
    torch.testing.assert_close(features.grad.double(), exact.grad, rtol=1e-3, atol=1e-4)


def test_laws() -> None:
    features = draw(0, 6, 9)
    value = BSS().value([features])
    assert value.dtype == torch.float32
    assert value.item() >= 0
    torch.testing.assert_close(BSS().value([features.roll(1, 0)]), value)
    torch.testing.assert_close(BSS().value([2 * features]), 4 * value)
    assert BSS().value([torch.ones(3, 5)]).item() == pytest.approx(0, abs=1e-5)


def test_defaults() -> None:
    bss = BSS()
    assert (bss.lam, bss.k, bss.extractor, bss.needs_source, bss.name) == (1e-3, 1, "features", False, "bss")


def test_of_a_model_without_a_source(vit: object, images: Tensor) -> None:
    model = vit().train()
    with unchanged(model), vitreg.attach(model, target="bss") as attachment:
        assert attachment.source is None
        assert num_hooks(model) == 4, "the stem, the head, and both ends of the model"
        with vitreg.trace(model, "features") as trace:
            model(images)
        value = attachment.penalty()
        expected = literal(trace["features"][0].detach().double(), 1).item()
        assert attachment.terms["bss"].item() == pytest.approx(expected, rel=1e-3)
        assert value.item() == pytest.approx(1e-3 * expected, rel=1e-3)
        value.backward()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_features_that_are_not_finite(wrong: float) -> None:
    """A step that overflowed has no loss, so that a GradScaler leaves it out."""
    features = draw(0, 6, 9)
    features[2, 3] = wrong
    value = BSS(k=2).value([features.requires_grad_()])
    value.backward()
    assert value.isnan()
    assert not features.grad.isfinite().all()


@pytest.mark.parametrize("k", [0, -1, 1.0, True, "1", None])
def test_wrong_k(k: object) -> None:
    with refuses(ArgumentError, "k must be a whole number of at least 1", repr(k)):
        BSS(k=k)


def test_a_batch_of_one(vit: object, images: Tensor) -> None:
    model = vit().train()
    with unchanged(model), vitreg.attach(model, target="bss") as attachment:
        model(images[:1])
        with refuses(ArgumentError, "at least 2 images", "found 1", "drop_last=True"):
            attachment.penalty()
        model(images)
        assert attachment.penalty().item() >= 0


def test_more_values_than_there_are(vit: object, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, target=BSS(k=5)) as attachment:
        model(images)
        with refuses(ArgumentError, "k=5", "[4, 16]"):
            attachment.penalty()
