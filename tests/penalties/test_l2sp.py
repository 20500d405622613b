import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

import vitreg
from laws import draw, refuses, unchanged
from vitreg import L2SP, ArgumentError, MismatchError, StateError, UnsupportedModelError

seeds = st.integers(0, 99)
shapes = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple), max_size=3)


def half_square(tensors: list[Tensor], start: list[Tensor] | None = None) -> float:
    total = 0.0
    for index, tensor in enumerate(tensors):
        origin = torch.zeros_like(tensor) if start is None else start[index]
        for x, y in zip(
            tensor.detach().double().flatten().tolist(), origin.double().flatten().tolist(), strict=True
        ):
            total += (x - y) ** 2 / 2
    return total


@given(shapes, shapes, st.floats(0, 2), seeds)
def test_literal(body: list[tuple[int, ...]], head: list[tuple[int, ...]], beta: float, seed: int) -> None:
    if not body and not head:
        return
    parameters = [draw(seed + i, *shape) for i, shape in enumerate(body)]
    start = [draw(seed + 20 + i, *shape) for i, shape in enumerate(body)]
    new = [draw(seed + 40 + i, *shape) for i, shape in enumerate(head)]
    got = L2SP(head=beta).value(parameters, start, new)
    assert got.item() == pytest.approx(half_square(parameters, start) + beta * half_square(new), rel=1e-4)


def literal(model: nn.Module, start: dict[str, Tensor], beta: float, biases: bool) -> float:
    """Return the penalty of a timm model, by names: its own head is new, all else started somewhere."""
    body, origins, head = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or (parameter.dim() < 2 and not biases):
            continue
        if name.startswith("head."):
            head.append(parameter)
        else:
            body.append(parameter)
            origins.append(start[name])
    return half_square(body, origins) + beta * half_square(head)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_of_a_model(vit: object, perturb: object, beta: float, biases: bool) -> None:
    model, source = vit(init_values=0.1).train(), vit(init_values=0.1, num_classes=9)
    with vitreg.attach(model, source, target=L2SP(head=beta, biases=biases)) as attachment:
        perturb(model)
        start = dict(source.named_parameters())
        expected = literal(model, start, beta, biases)
        assert attachment.penalty().item() == pytest.approx(0.1 * expected, rel=1e-4)
        assert attachment.terms["l2sp"].item() == pytest.approx(expected, rel=1e-4)


def test_what_is_frozen_takes_no_part(vit: object, perturb: object) -> None:
    model = vit().train()
    with vitreg.attach(model, target="l2sp") as attachment, vitreg.freeze(model, "attention"):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        perturb(model)
        attachment.penalty().backward()
        expected = literal(model, start, 0.1, biases=False)
        assert attachment.terms["l2sp"].item() == pytest.approx(expected, rel=1e-4)
        assert all((p.grad is not None) <= p.requires_grad for p in model.parameters())


def test_the_gradient_is_the_shift(vit: object, perturb: object) -> None:
    model = vit().train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with vitreg.attach(model, target=L2SP(lam=1.0, head=0.5, biases=True)) as attachment:
        perturb(model)
        attachment.penalty().backward()
    for name, parameter in model.named_parameters():
        shift = 0.5 * parameter if name.startswith("head.") else parameter - start[name]
        torch.testing.assert_close(parameter.grad, shift.detach(), rtol=1e-3, atol=1e-6)


def test_zero_with_finite_gradients_at_the_start(vit: object) -> None:
    model = vit().train()
    with vitreg.attach(model, target=L2SP(head=0.0)) as attachment:
        value = attachment.penalty()
        assert value.item() == 0
        value.backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in model.parameters())


def test_the_start_is_a_copy(vit: object, perturb: object) -> None:
    model = vit().train()
    with vitreg.attach(model, model, target=L2SP(head=0.0)) as attachment:
        perturb(model)
        assert attachment.penalty().item() > 0


def test_no_forward_pass_is_needed(vit: object, images: Tensor) -> None:
    model = vit().eval()
    with vitreg.attach(model, target="l2sp") as attachment:
        assert attachment.penalty().item() == pytest.approx(attachment.penalty().item())
        assert attachment.step == 2


def test_a_classifier_around_clip(clip: object, perturb: object) -> None:
    model = nn.Sequential(clip(), nn.Linear(8, 3))
    with vitreg.attach(model, target=L2SP(lam=1.0, head=2.0)) as attachment:
        start = {name: value.clone() for name, value in model.named_parameters()}
        perturb(model)
        visual = {n: p for n, p in model.named_parameters() if ".visual." in n and p.dim() >= 2}
        expected = half_square(list(visual.values()), [start[n].detach() for n in visual])
        expected += 2.0 * half_square([model[1].weight])
        assert attachment.penalty().item() == pytest.approx(expected, rel=1e-4)


def test_bad_options() -> None:
    for wrong in (-1, float("nan"), "0.1", True, None):
        with refuses(ArgumentError, "head must be", repr(wrong)):
            L2SP(head=wrong)
    with refuses(ArgumentError, "head must be a number"):
        L2SP(head=lambda step: 1.0)


def test_a_source_of_other_shapes(vit: object) -> None:
    model, source = vit(mlp_ratio=2), vit(mlp_ratio=4)
    with unchanged(model), refuses(MismatchError, "'blocks.0.mlp.fc1", "[64", "same call"):
        vitreg.attach(source, model, target="l2sp")


def test_it_joins_when_the_model_does(vit: object, perturb: object) -> None:
    model = vit().train().requires_grad_(False)
    with vitreg.attach(model, target=L2SP(lam=1.0, head=0.5)) as attachment:
        perturb(model)
        start = dict(attachment.source.tower.module.named_parameters())
        value = attachment.penalty()
        assert (value.item(), value.requires_grad) == (0, False)
        model.head.requires_grad_(True)
        assert attachment.penalty().item() == pytest.approx(
            literal(model, start, 0.5, biases=False), rel=1e-4
        )
        model.requires_grad_(True)
        value = attachment.penalty()
        assert value.item() == pytest.approx(literal(model, start, 0.5, biases=False), rel=1e-4)
        value.backward()


class WithPenalty(nn.Module):
    """Loss and penalty in one forward, as functional_call needs them."""

    def __init__(self, model: nn.Module, attachment: vitreg.Attachment) -> None:
        super().__init__()
        self.model, self.attachment = model, attachment

    def forward(self, images: Tensor) -> Tensor:
        return 0 * self.model(images).sum() + self.attachment.penalty()


@pytest.mark.parametrize("targets", [["l2sp"], ["attn_logits", "l2sp"]])
def test_under_functional_call(targets: list[str], vit: object, images: Tensor) -> None:
    model = vit().train()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    with unchanged(model), vitreg.attach(model, target=targets) as attachment:
        fast = {name: (p + 0.1).detach().requires_grad_() for name, p in model.named_parameters()}
        torch.func.functional_call(model, fast, (images,))
        with refuses(StateError, "'cls_token' was another tensor", "functional_call", "inside the call"):
            attachment.penalty()
        model(images)
        attachment.penalty()
        inside = {f"model.{name}": p for name, p in fast.items()}
        torch.func.functional_call(WithPenalty(model, attachment), inside, (images,)).backward()
        body = [name for name, p in fast.items() if p.dim() > 1 and not name.startswith("head.")]
        expected = half_square([fast[n] for n in body], [start[n] for n in body])
        expected += 0.1 * half_square([fast["head.weight"]])
        assert attachment.terms["l2sp"].item() == pytest.approx(expected, rel=1e-4)
        assert model.head.weight.grad is None
        if targets == ["l2sp"]:
            weight = fast["head.weight"]
            torch.testing.assert_close(weight.grad, 0.1 * 0.1 * weight.detach())


@pytest.mark.parametrize("wrapped", ["model", "source", "both"])
def test_of_wrapped_blocks(wrapped: str, vit: object, perturb: object) -> None:
    source = vit()
    model = copy.deepcopy(source).train()
    perturb(model)
    expected = literal(model, dict(source.named_parameters()), 0.1, biases=False)
    for part in {"model": [model], "source": [source], "both": [model, source]}[wrapped]:
        apply_activation_checkpointing(part, check_fn=lambda module: isinstance(module, Block))
    with vitreg.attach(model, source, target="l2sp") as attachment:
        attachment.penalty()
        assert attachment.terms["l2sp"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mark", ["_is_flat_param", "_fsdp_flattened"])
def test_shards_of_fsdp1_are_refused(mark: str, vit: object) -> None:
    model = vit().train()
    with vitreg.attach(model, target="l2sp") as attachment:
        setattr(model.head.weight, mark, True)
        with refuses(UnsupportedModelError, "one by one, found FSDP1, which joins them", "Use DDP"):
            attachment.penalty()
