import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitreg
from laws import draw, refuses
from vitreg import RDrop, StateError


def shares(row: list[float]) -> list[float]:
    return [math.exp(z) / sum(math.exp(x) for x in row) for z in row]


def literal(passes: list[Tensor]) -> float:
    values = []
    for i in range(len(passes)):
        for j in range(i):
            for one, other in zip(passes[i].double().tolist(), passes[j].double().tolist(), strict=True):
                p, q = shares(one), shares(other)
                values.append(
                    sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True)) / 2
                )
    return sum(values) / len(values)


@pytest.mark.parametrize("num_passes", [2, 3])
def test_literal_and_laws(num_passes: int) -> None:
    passes = [draw(i, 5, 4).requires_grad_() for i in range(num_passes)]
    value = RDrop().value(passes)
    assert value.item() == pytest.approx(literal(passes), rel=1e-4)
    torch.testing.assert_close(RDrop().value(passes[::-1]), value)
    torch.testing.assert_close(RDrop().value([p.roll(1, 0) for p in passes]), value)
    torch.testing.assert_close(RDrop().value([p + 3 for p in passes]), value, rtol=1e-4, atol=1e-6)
    assert RDrop().value([passes[0]] * 2).item() == 0
    value.backward()
    assert all(p.grad.abs().sum() > 0 for p in passes), "each pass is trained"


def test_the_authors_loss() -> None:
    p, q = draw(0, 5, 4), draw(7, 5, 4)
    p_loss = F.kl_div(F.log_softmax(p, dim=-1), F.softmax(q, dim=-1), reduction="none").sum()
    q_loss = F.kl_div(F.log_softmax(q, dim=-1), F.softmax(p, dim=-1), reduction="none").sum()
    torch.testing.assert_close(RDrop().value([p, q]), (p_loss + q_loss) / 2 / len(p), rtol=1e-4, atol=1e-6)


def test_of_a_model_that_drops(vit: object, images: Tensor) -> None:
    model = vit(proj_drop_rate=0.2).train()
    with vitreg.attach(model, target=["r_drop", "gta"]) as attachment:
        passes = [model(images), model(images)]
        value = attachment.penalty()
        assert attachment.terms["r_drop"].item() == pytest.approx(literal(passes), rel=1e-4)
        assert attachment.terms["gta"].item() > 0
        value.backward()
        model(images)
        with refuses(StateError, "'r_drop' compares two passes", "[[4, 5]]", "twice"):
            attachment.penalty()
        model(images), model(images[:2])
        with refuses(StateError, "'r_drop' compares two passes", "[[4, 5], [2, 5]]"):
            attachment.penalty()
