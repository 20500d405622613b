import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import vitreg
from laws import num_hooks, refuses, unchanged
from small_models import make_vit
from vitreg import StateError, TransMix


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3])


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a function that makes numpy draw a CutMix box of a known side around a known centre."""

    def place(share: float, row: int, column: int) -> None:
        centre = iter([row, column] * 100)
        monkeypatch.setattr(np.random, "rand", lambda: 0.0)
        monkeypatch.setattr(np.random, "beta", lambda a, b: 1 - share)
        monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(centre))

    return place


def focused(vit: object, sharpness: float, rows: slice, columns: slice) -> tuple[nn.Module, float]:
    """Return a model whose last block's class token attends to a box of patches, and one patch's odds.

    The patches' tokens are +e inside the box and -e outside whatever the images show, the class token's
    query is sharpness · e in each head and the keys are the tokens themselves, so the two logits are
    ± sharpness · sqrt(d_head).
    """
    model = vit(depth=1, num_heads=2, class_token=True).train()
    pattern = torch.tensor([1.0, -1.0] * 8)
    sign = -torch.ones(4, 4)
    sign[rows, columns] = 1
    attention = model.blocks[0].attn
    with torch.no_grad():
        for parameter in (*model.patch_embed.parameters(), model.cls_token, model.pos_embed):
            parameter.zero_()
        model.pos_embed[0, 0] = pattern
        model.pos_embed[0, 1:] = sign.flatten()[:, None] * pattern
        attention.qkv.weight.zero_()
        attention.qkv.bias.zero_()
        attention.qkv.weight[16:32] = torch.eye(16)
        attention.qkv.bias[:16] = sharpness * pattern
    return model, math.exp(2 * sharpness * 8 * 8**-0.5)


# The box fills the upper left quarter of 32×32 pixels; patches are 8 pixels wide.
INSIDE = (slice(0, 2), slice(0, 2))


@pytest.mark.parametrize("sharpness", [0.5, 0.0, -0.5])
def test_the_formula(vit: object, box: object, images: Tensor, labels: Tensor, sharpness: float) -> None:
    model, odds = focused(vit, sharpness, *INSIDE)
    box(0.25, 8, 8)
    with unchanged(model), TransMix(model, num_classes=5, smoothing=0.0) as mix:
        mixed, area = mix(images, labels)
        model(mixed)
        soft = mix.labels()
    assert torch.equal(mixed[:, :, :16, :16], images.flip(0)[:, :, :16, :16])
    assert torch.equal(mixed[:, :, 16:], images[:, :, 16:])
    assert torch.equal(mixed[:, :, :, 16:], images[:, :, :, 16:])
    lam_attn = 4 * odds / (4 * odds + 12)  # four patches inside, twelve outside
    lam = (0.25 + lam_attn) / 2
    for i in range(4):
        for c in range(5):
            own, partner = float(labels[i] == c), float(labels[3 - i] == c)
            assert area[i, c].item() == pytest.approx(0.75 * own + 0.25 * partner)
            assert soft[i, c].item() == pytest.approx((1 - lam) * own + lam * partner, rel=1e-4)
    if sharpness > 0:
        assert soft[0, 3] > area[0, 3], "attention inside the box speaks for the partner"
    elif sharpness < 0:
        assert soft[0, 3] < area[0, 3]
    else:
        torch.testing.assert_close(soft, area)


def test_of_the_models_own_attention(vit: object, box: object, images: Tensor, labels: Tensor) -> None:
    model = vit(reg_tokens=2).train()
    box(0.25, 16, 24)
    with TransMix(model, num_classes=5, smoothing=0.1) as mix, vitreg.trace(model, "attn_probs") as trace:
        mixed, _ = mix(images, labels)
        logits = model(mixed)
        soft = mix.labels()
        assert not soft.requires_grad
    attention = trace["attn_probs"][-1].detach().double()
    inside = [row * 4 + column for row in range(1, 3) for column in range(2, 4)]
    assert torch.equal(mixed[:, :, 8:24, 16:], images.flip(0)[:, :, 8:24, 16:])
    assert logits.shape == soft.shape
    for i in range(4):
        share = [0.0, 0.0]
        for j in range(2):
            for p in range(16):
                share[0] += attention[i, j, p].item()
                share[1] += attention[i, j, p].item() if p in inside else 0.0
        lam = (0.25 + share[1] / share[0]) / 2
        for c in range(5):
            own = 0.9 * float(labels[i] == c) + 0.02
            partner = 0.9 * float(labels[3 - i] == c) + 0.02
            assert soft[i, c].item() == pytest.approx((1 - lam) * own + lam * partner, rel=1e-4)


def test_loss(vit: object, box: object, images: Tensor, labels: Tensor) -> None:
    model = vit().train()
    box(0.25, 8, 8)
    with TransMix(model, num_classes=5) as mix:
        mixed, _ = mix(images, labels)
        logits = model(mixed)
        loss = mix.loss(logits)
        mix(images, labels)
        again = model(mixed)
        soft = mix.labels()
    literal = sum(-(soft[i, c] * F.log_softmax(again[i].double(), -1)[c]) for i in range(4) for c in range(5))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(literal.item() / 4, rel=1e-5)
    loss.backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0


def test_mixup_keeps_its_own_weight(
    vit: object, monkeypatch: pytest.MonkeyPatch, images: Tensor, labels: Tensor
) -> None:
    model = vit().train()
    monkeypatch.setattr(np.random, "beta", lambda a, b: 0.3)
    with TransMix(model, num_classes=5, cutmix_alpha=0.0, smoothing=0.0) as mix:
        mixed, area = mix(images, labels)
        model(mixed)
        soft = mix.labels()
    torch.testing.assert_close(mixed, 0.3 * images + 0.7 * images.flip(0))
    torch.testing.assert_close(area[0], torch.tensor([0.3, 0, 0, 0.7, 0]))
    torch.testing.assert_close(soft, area)


def test_no_mixing(vit: object, images: Tensor, labels: Tensor) -> None:
    model = vit().train()
    with TransMix(model, num_classes=5, prob=0.0, smoothing=0.0) as mix:
        mixed, area = mix(images, labels)
        assert torch.equal(mixed, images)
        model(mixed)
        assert torch.equal(area, F.one_hot(labels, 5).float())
        assert torch.equal(mix.labels(), area)


@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0, 1))
def test_labels_are_distributions(seed: int, half: int, smoothing: float) -> None:
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        model = make_vit(depth=1).train()
        images, labels = torch.randn(2 * half, 3, 32, 32), torch.arange(2 * half) % 5
        kept = images.clone()
        with TransMix(model, num_classes=5, smoothing=smoothing) as mix:
            mixed, area = mix(images, labels)
            model(mixed)
            soft = mix.labels()
    finally:
        np.random.set_state(state)
    assert torch.equal(images, kept), "the caller's batch stays as it is"
    for y in (area, soft):
        assert bool((y >= -1e-6).all())
        torch.testing.assert_close(y.sum(1), torch.ones(2 * half))
        # what an image gives away, its partner's class receives
        assert bool((y.gather(1, labels.flip(0)[:, None]) + 1e-6 >= smoothing / 5).all())


def test_images_and_areas_are_those_of_timm(vit: object, images: Tensor, labels: Tensor) -> None:
    from timm.data.mixup import Mixup

    ours = TransMix(vit().train(), num_classes=5)
    theirs = Mixup(0.8, 1.0, switch_prob=0.8, num_classes=5)
    state = np.random.get_state()
    drawn = []
    try:
        for seed in range(10):
            np.random.seed(seed)
            mixed, area = ours(images, labels)
            np.random.seed(seed)
            their_images, their_area = theirs(images.clone(), labels)
            torch.testing.assert_close(mixed, their_images)
            torch.testing.assert_close(area, their_area)
            drawn.append(bool((mixed == images).any()))
    finally:
        np.random.set_state(state)
    assert len(set(drawn)) == 2, "both mixup and CutMix were drawn"


def test_together_with_an_attachment(
    vit: object, perturb: object, box: object, images: Tensor, labels: Tensor
) -> None:
    model = vit().train()
    box(0.25, 8, 8)
    source = vit()
    with unchanged(model):
        with TransMix(model, num_classes=5) as mix:
            mixed, _ = mix(images, labels)
            loss = mix.loss(model(mixed))
        with vitreg.attach(model, source) as attachment:
            model(mixed)
            penalty = attachment.penalty()
        for penalty_first in (True, False):
            with TransMix(model, num_classes=5) as mix, vitreg.attach(model, source) as attachment:
                mix(images, labels)
                logits = model(mixed)
                if penalty_first:
                    torch.testing.assert_close(attachment.penalty(), penalty)
                torch.testing.assert_close(mix.loss(logits), loss)
                if not penalty_first:
                    torch.testing.assert_close(attachment.penalty(), penalty)
    assert penalty.item() > 0


def test_a_source_copied_from_a_model_with_transmix(vit: object, images: Tensor, labels: Tensor) -> None:
    """The frozen copy's pass must not be taken for the model's."""
    model = vit().train()
    with TransMix(model, num_classes=5) as mix, vitreg.attach(model) as attachment:
        mixed, _ = mix(images, labels)
        logits = model(mixed)
        (mix.loss(logits) + attachment.penalty()).backward()
        with refuses(StateError, "Nothing was mixed"):
            mix.labels()


def test_only_the_last_block_is_read(vit: object) -> None:
    model = vit()
    with TransMix(model, num_classes=5):
        assert num_hooks(model.blocks[0]) == num_hooks(model.blocks[1]) == 0
        assert num_hooks(model.blocks[2]) > 0


def test_pictures_that_are_no_squares(vit: object, box: object, labels: Tensor) -> None:
    for options in ({"img_size": (32, 64)}, {"dynamic_img_size": True}):
        model = vit(**options).train()
        box(0.25, 16, 32)
        with TransMix(model, num_classes=5) as mix:
            mixed, _ = mix(torch.randn(4, 3, 32, 64), labels)
            model(mixed)
            torch.testing.assert_close(mix.labels().sum(1), torch.ones(4))


def test_one_loss_a_pass(vit: object, images: Tensor, labels: Tensor) -> None:
    model = vit().train()
    with TransMix(model, num_classes=5) as mix:
        with refuses(StateError, "Nothing was mixed", "mix(x, y)"):
            mix.labels()
        mixed, _ = mix(images, labels)
        with refuses(StateError, "forward pass in training mode", "not run since the batch was mixed"):
            mix.labels()
        model(mixed)
        mix.labels()
        with refuses(StateError, "Nothing was mixed", "mix(x, y)"):
            mix.labels()
        mix(images, labels)
        with refuses(StateError, "not run since the batch was mixed"):
            mix.labels()
        model(images[:2])
        with refuses(StateError, "saw 2 images", "4 were mixed", "Run it on"):
            mix.labels()


def test_evaluation_in_between(vit: object, images: Tensor, labels: Tensor) -> None:
    model = vit().train()
    with TransMix(model, num_classes=5) as mix:
        mixed, _ = mix(images, labels)
        mix.loss(model(mixed))
        mixed, _ = mix(images, labels)
        model.eval()
        model(mixed)
        with refuses(StateError, "eval mode", "model.train()"):
            mix.labels()
        model.train()
        with torch.no_grad():
            model(mixed)
        with refuses(StateError, "without gradients"):
            mix.labels()
        model(mixed)
        assert mix.labels().shape == (4, 5)


def test_after_remove(vit: object, images: Tensor, labels: Tensor) -> None:
    model = vit().train()
    with unchanged(model):
        mix = TransMix(model, num_classes=5)
        mix.remove()
        mix.remove()
        with refuses(StateError, "removed"):
            mix(images, labels)
