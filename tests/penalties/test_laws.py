"""Laws that every registered penalty obeys, whatever it reads."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import num_hooks, readable, refuses, unchanged
from vitreg import (
    ArgumentError,
    CoTuning,
    GivenPenalty,
    ParameterPenalty,
    PassPenalty,
    ReadingPenalty,
    UnsupportedModelError,
)
from vitreg.penalties import penalties

NAMES = vitreg.list_penalties()
GUIDED = [n for n in NAMES if issubclass(penalties[n], ReadingPenalty) and penalties[n].needs_source]
WRONG_LAM = ["1", None, True, -1, -0.5, float("nan"), float("inf"), [1.0], torch.ones(1)[0]]


ZERO = [n for n in GUIDED if penalties[n].runs_source]


def make(name: str, **options: object) -> ReadingPenalty | ParameterPenalty:
    """Return a penalty as it is attached to a small model of 5 classes."""
    if penalties[name] is CoTuning:
        options["relation"] = torch.eye(5).roll(1, 0)
    return penalties[name](**options)


def take(attachment: vitreg.Attachment, model: nn.Module, images: Tensor, **more: object) -> Tensor:
    """Run the model as the attached penalty wants it run, and take the penalty with what it needs to know."""
    (penalty,) = attachment.penalties.values()
    for _ in range(1 + isinstance(penalty, PassPenalty)):
        model(images)
    labels, masks = torch.arange(len(images)) % 5, torch.zeros(len(images), *images.shape[-2:]).bool()
    masks[:, 8:24, :16] = True
    given = {"labels": labels, "masks": masks}
    needs = {penalty.needs: given[penalty.needs]} if isinstance(penalty, GivenPenalty) else {}
    return attachment.penalty(**needs, **more)


def test_there_are_penalties() -> None:
    assert ZERO
    assert set(ZERO) < set(GUIDED) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_penalty_is_its_options(name: str) -> None:
    made = penalties[name]()
    assert issubclass(penalties[name], ReadingPenalty | ParameterPenalty)
    assert made == penalties[name]()
    assert penalties[name](lam=3.0).lam == 3.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.lam = 2.0
    assert penalties[name].__doc__
    assert "Source:" in penalties[name].__doc__


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lam", WRONG_LAM, ids=str)
def test_wrong_lam(name: str, lam: object) -> None:
    with refuses(ArgumentError, "lam must be", "got", repr(lam)):
        penalties[name](lam=lam)


@pytest.mark.parametrize("name", [n for n in NAMES if issubclass(penalties[n], ReadingPenalty)])
def test_wrong_query(name: str) -> None:
    with refuses(ArgumentError, "query must be one of", "'cls', 'mean'", "'patches'"):
        penalties[name](query="patches")


@pytest.mark.parametrize("name", NAMES)
def test_value_terms_and_gradient(name: str, vit: object, perturb: object, images: Tensor) -> None:
    model = vit(proj_drop_rate=0.1).train()
    source = vit()
    source.load_state_dict(model.state_dict())
    perturb(model)
    start = {n: v.clone() for n, v in source.state_dict().items()}
    target = make(name, lam=2.0)
    with unchanged(model), vitreg.attach(model, source, target=target, lam=3.0) as attachment:
        value = take(attachment, model, images)
        assert value.dtype == torch.float32
        assert value.shape == ()
        (term,) = attachment.terms.values()
        assert term.item() > 0
        assert not term.requires_grad
        assert value.item() == pytest.approx(6 * term.item(), rel=1e-5)
        value.backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    assert all(p.grad is None for p in source.parameters())
    assert all(torch.equal(v, source.state_dict()[n]) for n, v in start.items())


@pytest.mark.parametrize("name", ZERO)
def test_zero_at_the_source(name: str, tower_model: nn.Module, images: Tensor) -> None:
    if name == "lwf" and "class_logits" not in readable(tower_model):
        with refuses(UnsupportedModelError, "LwF needs a source with a classifier of its own"):
            vitreg.attach(tower_model, target=name)
        return
    with vitreg.attach(tower_model, target=name) as attachment:
        tower_model(images)
        assert attachment.penalty().item() == pytest.approx(0, abs=1e-10)
    assert num_hooks(tower_model) == 0


@pytest.mark.parametrize("name", GUIDED)
def test_the_batch_order_plays_no_part(name: str, vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, target=make(name)) as attachment:
        perturb(model)
        value = take(attachment, model, images)
        if name == "co_tuning":
            model(images.flip(0))
            flipped = attachment.penalty(labels=torch.arange(4).flip(0))
            torch.testing.assert_close(flipped, value, rtol=1e-4, atol=1e-6)
            return
        model(images.flip(0))
        torch.testing.assert_close(attachment.penalty(), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_lam_may_be_a_function_of_the_step(name: str, vit: object, perturb: object, images: Tensor) -> None:
    model = vit(proj_drop_rate=0.1).train()
    penalty = make(name, lam=lambda step: step + 1.0)
    with vitreg.attach(model, target=penalty, lam=lambda step: 10.0**step) as attachment:
        perturb(model)
        for step in (0, 1, 2):
            value = take(attachment, model, images)
            (term,) = attachment.terms.values()
            assert value.item() == pytest.approx((step + 1) * 10**step * term.item(), rel=1e-5)
        value = take(attachment, model, images, step=0)
        (term,) = attachment.terms.values()
        assert value.item() == pytest.approx(term.item(), rel=1e-4)
