import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laws
import vitreg
from laws import draw, refuses, unchanged
from vitreg import LwF, UnsupportedModelError


def bound(head: nn.Module, temperature: float = 2.0) -> LwF:
    return replace(LwF(temperature=temperature), _head=head.requires_grad_(False))


def literal(head: nn.Linear, target: Tensor, source: Tensor, temperature: float) -> float:
    weight, bias = head.weight.double().tolist(), head.bias.double().tolist()

    def shares(row: list[float]) -> list[float]:
        logits = [
            sum(w * x for w, x in zip(ws, row, strict=True)) + c for ws, c in zip(weight, bias, strict=True)
        ]
        powers = [math.exp(z / temperature) for z in logits]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for ours, theirs in zip(target.double().tolist(), source.double().tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(shares(theirs), shares(ours), strict=True))
    return temperature**2 * total / len(target)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_literal_and_laws(temperature: float) -> None:
    head, target, source = nn.Linear(6, 4), draw(0, 5, 6), draw(7, 5, 6)
    value = bound(head, temperature).value
    assert value([target], [source]).item() == pytest.approx(
        literal(head, target, source, temperature), rel=1e-4
    )
    laws.zero_at_the_source(value, [target])
    laws.a_float32_scalar(value, [target], [source])
    laws.non_negative(value, [target], [source])
    laws.same_in_any_batch_order(value, [target], [source])
    laws.gradient_to_the_target_only(value, [target], [source])
    assert all(p.grad is None for p in head.parameters())


def test_the_usual_code_with_the_factor_that_it_forgets() -> None:
    head, target, source = nn.Linear(6, 4), draw(0, 5, 6), draw(7, 5, 6)
    ours, theirs = head(target), head(source)
    usual = F.kl_div(F.log_softmax(ours / 2, 1), F.softmax(theirs / 2, 1), reduction="batchmean")
    torch.testing.assert_close(bound(head).value([target], [source]), 4 * usual, rtol=1e-4, atol=1e-6)


def test_the_heads_are_the_sources_and_not_trained(vit: object, perturb: object, images: Tensor) -> None:
    source = vit(num_classes=7)
    model = vit(num_classes=3).train()
    model.load_state_dict({k: v for k, v in source.state_dict().items() if "head" not in k}, strict=False)
    head = copy.deepcopy(source.head)
    perturb(model)
    with unchanged(model), vitreg.attach(model, source, target="lwf") as attachment:
        with torch.no_grad():
            source.head.weight.zero_()  # a copy was taken
        with vitreg.trace(model, "features") as ours, vitreg.trace(source, "features") as theirs:
            model(images), source(images)
        expected = literal(head, ours["features"][0].detach(), theirs["features"][0].detach(), 2.0)
        value = attachment.penalty()
        assert value.item() == pytest.approx(0.25 * expected, rel=1e-3)  # the default weight
        value.backward()
        assert model.head.weight.grad is None


def test_a_source_without_a_head(vit: object, clip: object) -> None:
    with refuses(UnsupportedModelError, "LwF needs a source with a classifier of its own", "num_classes=0"):
        vitreg.attach(vit(), vit(num_classes=0), target="lwf")
    with refuses(UnsupportedModelError, "LwF needs a source with a classifier of its own"):
        vitreg.attach(clip(), target="lwf")


def test_under_autocast_and_with_several_passes(vit: object, images: Tensor) -> None:
    model = vit().train()
    with vitreg.attach(model, target="lwf") as attachment:
        with torch.autocast("cpu", torch.bfloat16):
            model(images)
            value = attachment.penalty()
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(0, abs=1e-5)
