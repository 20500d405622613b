"""What may be done to a model while a penalty is attached: saved, copied, frozen, a head reset."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch

import vitreg
from promised import images, make_model, moved


def test_the_attached_model_can_be_saved_and_its_copy_is_free(tmp_path) -> None:
    model = make_model().eval()
    x = images()
    with vitreg.attach(model) as reg:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        assert torch.equal(loaded(x), model(x))
        model.train()
        model(x)
        ema = copy.deepcopy(model)
        moved(ema, 1.0)(x * 3)
        assert reg.penalty() == 0  # the copy wrote nothing into the original's readings


def test_shapes_alone_on_the_meta_device() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5).to("meta")
    x = torch.empty(2, 3, 224, 224, device="meta")
    with vitreg.attach(model) as reg, vitreg.trace(model, "attn_logits") as read:
        model(x)
        assert [list(value.shape) for value in read["attn_logits"]] == [[2, 3, 196]] * 12
        assert reg.penalty().shape == ()


def test_a_head_that_is_reset_is_a_new_head() -> None:
    model = make_model()
    with vitreg.attach(model, target=vitreg.L2SP(head=0.5)) as reg:
        model.reset_classifier(5)
        weight = model.head.weight
        torch.testing.assert_close(reg.penalty() / 0.1, 0.25 * weight.detach().square().sum())


def test_images_that_changed_before_the_penalty_are_refused() -> None:
    model, x = make_model(), images()
    with vitreg.attach(model) as reg:
        model(x)
        x.zero_()
        with pytest.raises(vitreg.StateError, match="changed in place"):
            reg.penalty()
        model(x)
        assert reg.penalty() == 0


@pytest.mark.parametrize("how", ["data", "numpy", "storage"])
def test_images_that_changed_where_nobody_counts(how: str) -> None:
    """As a data loader does that writes the next batch into the same memory."""
    model = make_model()
    x = images() if how != "numpy" else torch.from_numpy(images().numpy().copy())
    with vitreg.attach(model) as reg:
        for _ in range(2):
            model(x)
            assert reg.penalty() == 0
        model(x)
        if how == "data":
            x.data.mul_(2)
        elif how == "numpy":
            x.numpy()[:] = 0
        else:
            x.untyped_storage().resize_(0)
        with pytest.raises(vitreg.StateError, match="changed in place"):
            reg.penalty()


def test_images_that_are_not_finite_did_not_change() -> None:
    model, x = make_model(), images()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = torch.nan, torch.inf
    with vitreg.attach(model) as reg:
        model(x)
        assert reg.penalty().isnan()


def test_attached_in_inference_mode() -> None:
    model, x = make_model(), images()
    start = copy.deepcopy(model)
    with torch.inference_mode():
        reg = vitreg.attach(model, target=vitreg.L2SP(lam=1.0))
    moved(model, 0.1)
    model(x)
    value = reg.penalty()
    value.backward()
    reg.remove()
    heads = ("head.weight", "head.bias")
    pairs = [(p, q, n) for (n, p), q in zip(model.named_parameters(), start.parameters(), strict=True)]
    squares = [(p - q).square().sum() for p, q, name in pairs if p.dim() > 1 and name not in heads]
    expected = (sum(squares) + 0.1 * model.head.weight.square().sum()) / 2
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(model.norm.weight.grad, None)
    torch.testing.assert_close(model.cls_token.grad, (model.cls_token - start.cls_token).detach())


def test_double_precision_by_default() -> None:
    model, x = make_model(), images()
    source = copy.deepcopy(model)
    moved(model, 0.1)
    with vitreg.attach(model, source) as reg:
        model(x)
        expected = reg.penalty().item()
        torch.set_default_dtype(torch.float64)
        try:
            model.double()(x.double())
            value = reg.penalty()
        finally:
            torch.set_default_dtype(torch.float32)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_a_source_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = make_model()
    with vitreg.attach(model) as reg:
        model.to_empty(device="cpu").load_state_dict(make_model().state_dict())
        model(images())
        with pytest.raises(vitreg.MismatchError, match=r"weights, found it on the meta device.* Attach once"):
            reg.penalty()


def test_a_model_that_is_frozen_altogether_has_no_penalty_even_if_the_images_need_gradients() -> None:
    model = make_model().requires_grad_(False)
    with vitreg.attach(model) as reg:
        model(images().requires_grad_())
        value = reg.penalty()
        assert (value.item(), value.requires_grad) == (0, False)


def test_a_target_by_name_has_the_weight_of_attach() -> None:
    model = make_model()
    for target, lam, weight in (
        ("bss", None, 1e-3),  # its authors'
        ("bss", 1e-2, 1e-2),
        (vitreg.BSS(lam=5), None, 5),
        (vitreg.BSS(lam=5), 1e-2, 5e-2),
        ("features", 3.0, 3.0),
    ):
        with vitreg.attach(model, None, target, lam) as reg:
            with torch.no_grad():
                model.cls_token += 0.1
            model(images())
            value = reg.penalty().detach()
            torch.testing.assert_close(value, weight * next(iter(reg.terms.values())))
            assert value > 0


def test_a_head_that_did_not_run_is_named() -> None:
    model = make_model()
    with vitreg.attach(model, target="bss") as reg:
        model.forward_features(images())
        with pytest.raises(vitreg.StateError, match="did not deliver features"):
            reg.penalty()


def test_a_replica_of_data_parallel_is_refused() -> None:
    model = make_model()
    with vitreg.attach(model):
        replica = model.patch_embed._replicate_for_data_parallel()
        with pytest.raises(vitreg.StateError, match="DistributedDataParallel"):
            replica(images())


def test_a_copy_of_an_attachment_is_not_attached() -> None:
    model = make_model()
    with vitreg.attach(model, every=2) as reg:
        reg.step = 1
        with pytest.raises(vitreg.StateError, match="was removed"):
            copy.deepcopy(reg).penalty()
        assert reg.penalty() == 0
