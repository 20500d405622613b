"""The seven promises of the design, one section each."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import vitreg
from promised import images, make_model, moved
from vitreg.extractors import Extractor, extractors


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# 1. Nothing is replaced.


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_state_are_bit_identical_before_during_and_after(training: bool) -> None:
    model = make_model().train(training)
    x = images()
    before, state = model(x), copy.deepcopy(model.state_dict())
    forwards = [m.forward for m in model.modules()]
    with vitreg.attach(model, target=["attn_logits", "msa_output", "block_output", "l2sp", "bss"]):
        assert torch.equal(model(x), before)
        assert list(model.state_dict()) == list(state)
        assert all("forward" not in vars(m) for m in model.modules())
        assert [m.forward for m in model.modules()] == forwards
    assert torch.equal(model(x), before)
    assert hooks_of(model) == 0
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), state.values(), strict=True))


class _CountFused(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


def test_fused_attention_stays_on() -> None:
    model = make_model()
    with vitreg.attach(model) as reg, _CountFused() as count:
        model(images())
        assert count.calls == 3
        reg.penalty()
        assert count.calls == 3 + 2  # the source stops before its last block's attention


def test_an_exception_leaves_no_hook_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    with pytest.raises(RuntimeError, match="mid-training"), vitreg.attach(model):
        raise RuntimeError("mid-training")
    assert hooks_of(model) == 0

    def fails_late(tower, block, query):
        if block is tower.blocks[-1]:
            raise vitreg.UnsupportedModelError("on purpose")
        return vitreg.Probe({"output": vitreg.Tap(block.module)}, lambda seen: seen["output"])

    monkeypatch.setitem(extractors._entries, "fails_late", Extractor(fails_late))
    with pytest.raises(vitreg.UnsupportedModelError, match="on purpose"):
        vitreg.attach(model, target=["attn_logits", vitreg.FeatureGuide("fails_late")])
    assert hooks_of(model) == 0
    with vitreg.attach(model):  # and its name was not kept
        pass


def test_an_attachment_that_nobody_keeps_removes_itself() -> None:
    model = make_model()
    vitreg.attach(model)
    gc.collect()
    assert hooks_of(model) == 0


# 2. Only what is read is computed.


def test_the_source_stops_at_the_deepest_block_that_is_read() -> None:
    model = make_model()
    reg = vitreg.attach(model, target=vitreg.FeatureGuide("block_output", layers=[0, 1]))
    ran = []
    for index, block in enumerate(reg.source.tower.module.blocks):
        block.norm1.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    model(images())
    reg.penalty()
    assert ran == [0, 1]
    reg.remove()


def test_no_square_matrix_of_logits_is_made() -> None:
    model = make_model()
    n = 10
    with vitreg.attach(model) as reg:

        class _NoSquare(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                if isinstance(out, Tensor) and out.dim() >= 2:
                    assert tuple(out.shape[-2:]) != (n, n), func
                return out

        with _NoSquare():
            model(images())
            reg.penalty()


def test_what_nobody_reads_is_not_hooked() -> None:
    model = make_model()
    with vitreg.attach(model, target=vitreg.GTA(layers=1)):
        hooked = {n for n, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks}
        attention = {"blocks.1.attn", "blocks.1.attn.q_norm", "blocks.1.attn.k_norm"}
        tokens = {"blocks.0", "blocks.1"}  # as they enter the first block and the last one that is read
        assert hooked == {"", "patch_embed", *tokens, *attention}  # "" is what it is called with
    with vitreg.attach(model, target="l2sp"):
        hooked = {n for n, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks}
        assert hooked == {"patch_embed"}, "which only notices a pass with other weights"


def test_a_penalty_that_needs_no_source_runs_and_keeps_none() -> None:
    model = make_model()
    with vitreg.attach(model, target="bss") as reg:
        assert reg.source is None
    with vitreg.attach(model, target="l2sp") as reg:
        assert reg.source is not None
        reg.source.tower.module.register_forward_pre_hook(lambda *_: pytest.fail("the source ran"))
        model(images())
        reg.penalty()


# 3. Never silently zero: tests/test_refused_*.py. Here, that a drifted model's penalty is not zero.


@pytest.mark.parametrize(
    "target", ["attn_logits", "attn_probs", "msa_output", "block_output", "features", "l2sp", "bss"]
)
def test_a_drifted_model_pays_and_its_gradient_is_not_zero(target: str) -> None:
    source = make_model()
    model = moved(copy.deepcopy(source))
    with vitreg.attach(model, source, target) as reg:
        model(images())
        value = reg.penalty()
        value.backward()
    assert value > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# 4. The source is not trained.


def test_the_source_is_a_frozen_copy_in_eval_mode_outside_of_the_model() -> None:
    source = make_model().train()
    model = make_model()
    with vitreg.attach(model, source) as reg:
        frozen = reg.source.tower.module
        assert frozen is not source
        assert source.training
        assert all(p.requires_grad for p in source.parameters())
        assert not frozen.training
        assert not any(p.requires_grad for p in frozen.parameters())
        assert not {id(p) for p in frozen.parameters()} & {
            id(p) for p in [*model.parameters(), *source.parameters()]
        }
        model(images())
        first = reg.penalty().item()
        moved(source, 1.0)  # training what it was copied from changes nothing
        model(images())
        assert reg.penalty().item() == first
        assert all(p.grad is None for p in frozen.parameters())


def test_the_model_as_its_own_source_is_frozen_as_it_is_now() -> None:
    model = make_model()
    with vitreg.attach(model, model) as reg:
        model(images())
        assert reg.penalty() == 0
        moved(model)
        model(images())
        assert reg.penalty() > 0


def test_the_source_follows_the_model() -> None:
    model = make_model()
    with vitreg.attach(model) as reg:
        model.to(torch.float64)
        model(images().double())
        assert reg.penalty() == 0
        assert next(reg.source.tower.module.parameters()).dtype == torch.float64


def test_the_source_runs_in_the_callers_autocast() -> None:
    model = make_model()
    with vitreg.attach(model, target="block_output") as reg:
        seen = []
        reg.source.tower.module.blocks[0].attn.qkv.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images())
        value = reg.penalty()  # taken outside of the region
        assert seen == [torch.bfloat16]
        assert value == 0
        assert value.dtype == torch.float32


# 5. Training stays what it was: tests/test_training.py and those of checkpointing and sharding.

# 6. Values are unweighted float32 scalars; `lam` is the attachment's.


def test_lam_is_applied_by_the_attachment_and_terms_are_unweighted() -> None:
    source = make_model()
    model = moved(copy.deepcopy(source))
    plain = vitreg.attach(model, source, {"a": vitreg.GTA(), "b": vitreg.FeatureGuide("msa_output")})
    weighted = vitreg.attach(
        model,
        source,
        {"c": vitreg.GTA(lam=10), "d": vitreg.FeatureGuide("msa_output", lam=lambda step: step + 3)},
        lam=2,
    )
    model(images())
    total, scaled = plain.penalty(), weighted.penalty()
    assert total.shape == ()
    assert total.dtype == torch.float32
    a, b = plain.terms["a"], plain.terms["b"]
    assert torch.equal(a, weighted.terms["c"])
    assert torch.equal(b, weighted.terms["d"])
    assert not a.requires_grad
    torch.testing.assert_close(total, a + b)
    torch.testing.assert_close(scaled, 2 * (10 * a + 3 * b))
    model(images())
    torch.testing.assert_close(weighted.penalty(), 2 * (10 * a + 4 * b))
    assert weighted.step == 2
    weighted.lam = lambda step: 2 * step
    model(images())
    torch.testing.assert_close(weighted.penalty(), 4 * (10 * a + 5 * b))
    with pytest.raises(vitreg.ArgumentError, match="lam must be finite"):
        weighted.lam = -1
    plain.remove()
    weighted.remove()


def test_values_are_float32_under_autocast() -> None:
    source = make_model()
    model = moved(copy.deepcopy(source), 0.02)
    with vitreg.attach(model, source, ["attn_logits", "msa_output", "block_output", "l2sp", "bss"]) as reg:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images())
            half = reg.penalty()
        terms = reg.terms
        model(images())
        reg.penalty()
        assert half.dtype == torch.float32
        for name, value in terms.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, reg.terms[name], rtol=0.1, atol=1e-3)


# 7. A table is a pure function of its stored runs: tests/train and tests/engine.
