"""The weight of the penalty, set while the training runs."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from laws import num_hooks, refuses
from vitreg import ArgumentError, StateError

LABELS = torch.tensor([0, 1, 2, 3])


def literal_norm(value: Tensor, weights: list[Tensor]) -> float:
    total = 0.0
    for gradient in torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True):
        if gradient is not None:
            total += sum(number**2 for number in gradient.double().flatten().tolist())
    return total**0.5


def loss_of(model: nn.Module, images: Tensor) -> Tensor:
    return F.cross_entropy(model(images), LABELS)


def test_gradients_keep_the_ratio(vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model) as attachment:
        perturb(model)
        loss = loss_of(model, images)
        value = attachment.balance(loss, ratio=0.3, start=0)
        weights = list(model.blocks[1].parameters())
        assert literal_norm(value, weights) == pytest.approx(0.3 * literal_norm(loss, weights), rel=1e-4)
        factor = attachment.terms["balance"]
        assert not factor.requires_grad
        assert value.item() == pytest.approx(factor.item() * attachment.terms["attn_logits"].item(), rel=1e-5)
        assert all(p.grad is None for p in model.parameters()), "what is measured is in nobody's way"
        (loss + value).backward()
    assert num_hooks(model) == 0


def test_when_it_is_measured(vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    factors = []
    with vitreg.attach(model) as attachment:
        for _ in range(9):
            perturb(model)
            loss = loss_of(model, images)
            (loss + attachment.balance(loss, ratio=0.3, start=2, interval=3)).backward()
            factors.append(attachment.terms["balance"].item())
    assert factors[:2] == [1, 1], "at the source the penalty has no gradient"
    assert factors[2] == factors[3] == factors[4] != factors[5] == factors[6] == factors[7] != factors[8]


def test_the_cap_and_a_penalty_without_a_gradient(vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model) as attachment:
        loss = loss_of(model, images)
        assert attachment.balance(loss, ratio=0.3, start=0).item() == 0
        assert attachment.terms["balance"].item() == 1, "where there is none, the factor stays"
        perturb(model)
        for ratio, factor in ((1e6, 5.0), (1e-6, 0.2)):
            loss = loss_of(model, images)
            attachment.balance(loss, ratio=ratio, start=0, interval=1, cap=5)
            assert attachment.terms["balance"].item() == pytest.approx(factor)


def test_the_multiplier_follows_the_excess(vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    factor = 1.0
    with vitreg.attach(model) as attachment:
        perturb(model)
        for budget in (1e-4, 0.1, 1e4, 0.02):
            value = attachment.balance(loss_of(model, images), budget=budget, start=0, rate=0.2)
            drift = attachment.terms["attn_logits"].item()
            factor *= math.exp(0.2 * min(1.0, max(-1.0, drift / budget - 1)))
            assert attachment.terms["balance"].item() == pytest.approx(factor, rel=1e-5)
            assert value.item() == pytest.approx(factor * drift, rel=1e-5)


@pytest.mark.parametrize("budget", [5e-4, 1e-3])
def test_a_budget_bounds_the_drift(vit: object, images: Tensor, budget: float) -> None:
    drifts = {}
    for bound in (None, budget):
        torch.manual_seed(0)
        model = vit().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        with vitreg.attach(model) as attachment:
            for _ in range(120):
                loss = loss_of(model, images)
                if bound is None:
                    value = 0 * attachment.penalty()
                else:
                    value = attachment.balance(loss, budget=bound, start=0, rate=0.3)
                optimizer.zero_grad()
                (loss + value).backward()
                optimizer.step()
            drifts[bound] = attachment.terms["attn_logits"].item()
    assert drifts[None] > 2 * budget, "without a bound it goes further"
    assert drifts[budget] < 1.2 * budget


def test_a_resumed_training_is_the_same(vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    source = vit()
    perturb(model)
    with vitreg.attach(model, source) as attachment:
        for _ in range(3):
            loss = loss_of(model, images)
            attachment.balance(loss, ratio=0.3, start=1, interval=1)
        state = attachment.state_dict()
        assert state["step"] == state["balanced"] == 3
        after = [attachment.balance(loss_of(model, images), budget=0.1).item() for _ in range(2)]
    with vitreg.attach(model, source) as attachment:
        attachment.load_state_dict(state)
        assert attachment.step == 3
        again = [attachment.balance(loss_of(model, images), budget=0.1).item() for _ in range(2)]
        assert again == pytest.approx(after)
        with refuses(ArgumentError, "Expected the state_dict() of an attachment", "'step': 1"):
            attachment.load_state_dict({"step": 1})


def test_what_it_takes(vit: object, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, target=["attn_logits", "l2sp"], every=2) as attachment:
        loss = loss_of(model, images)
        with refuses(ArgumentError, "either ratio or budget", "ratio=None, budget=None"):
            attachment.balance(loss)
        with refuses(ArgumentError, "either ratio or budget", "ratio=1, budget=1"):
            attachment.balance(loss, ratio=1, budget=1)
        with refuses(ArgumentError, "ratio must be a finite number above 0", "-1"):
            attachment.balance(loss, ratio=-1)
        with refuses(ArgumentError, "cap ≥ 1", "cap=0.5"):
            attachment.balance(loss, ratio=1, cap=0.5)
        with refuses(StateError, "a loss that depends on trained weights", "block=INDEX"):
            attachment.balance(torch.ones((), requires_grad=True), ratio=1, start=0)


def test_a_penalty_on_weights_alone(vit: object, perturb: object, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, target="l2sp") as attachment:
        perturb(model)
        loss = loss_of(model, images)
        value = attachment.balance(loss, ratio=0.5, start=0, block=2)
        weights = list(model.blocks[2].parameters())
        assert literal_norm(value, weights) == pytest.approx(0.5 * literal_norm(loss, weights), rel=1e-4)
