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
