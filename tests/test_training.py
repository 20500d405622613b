"""Training set-ups: each against the plain, eager, single-process gradients."""

from __future__ import annotations

import copy
import gc
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreg
from plain_training import TARGETS, assert_same, batch, gradients, make_pair, plain_gradients


def test_gradients_are_those_of_a_literal_second_writing() -> None:
    model, source = make_pair()
    x, y = batch()
    for m in (model, source):
        for block in m.blocks:
            block.attn.fused_attn = False
    seen: dict[str, list[Tensor]] = {"model": [], "source": []}
    for name, m in (("model", model), ("source", source)):
        for block in m.blocks:
            block.attn.attn_drop.register_forward_pre_hook(lambda _, args, n=name: seen[n].append(args[0]))
    loss = F.cross_entropy(model(x), y)
    with torch.no_grad():
        source(x)
    for ours, theirs in zip(seen["model"], seen["source"], strict=True):
        # Logits are known from the softmax up to a constant a row, so both are compared centred.
        t, s = ours[:, :, 0, 1:].log(), theirs[:, :, 0, 1:].log()
        t, s = t - t.mean(-1, keepdim=True), s - s.mean(-1, keepdim=True)
        loss = loss + (t - s).square().mean() / len(model.blocks)
    loss.backward()
    expected = gradients(model)

    model, source = make_pair()
    with vitreg.attach(model, source, vitreg.GTA(center=True)) as reg:
        (F.cross_entropy(model(x), y) + reg.penalty()).backward()
    assert_same(gradients(model), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_after_attaching(backend: str) -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, TARGETS) as reg:
        torch.compiler.reset()
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        for _ in range(2):
            model.zero_grad()
            (F.cross_entropy(compiled(x), y) + reg.penalty()).backward()
        assert_same(gradients(model), plain_gradients(), rtol=1e-3, atol=1e-5)
        model.eval()
        compiled(x)
        with pytest.raises(vitreg.StateError, match="eval mode"):
            reg.penalty()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("every", [1, 2])
def test_compiled_together_with_the_penalty(backend: str, every: int) -> None:
    values: dict[bool, list[float]] = {}
    for is_compiled in (False, True):
        model, source = make_pair()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with vitreg.attach(model, source, TARGETS, every=every) as reg:

            def objective(x: Tensor, y: Tensor, model=model, reg=reg) -> Tensor:
                return F.cross_entropy(model(x), y) + reg.penalty()

            torch.compiler.reset()
            run = torch.compile(objective, backend=backend) if is_compiled else objective
            values[is_compiled] = []
            for step in range(4):
                if step != 1:  # other models come and go meanwhile
                    others = vitreg.attach(make_pair()[0], target="bss")
                else:
                    del others
                    gc.collect()
                optimizer.zero_grad()
                loss = run(*batch())
                loss.backward()
                optimizer.step()
                values[is_compiled].append(loss.item())
            assert reg.step == 4
    assert values[True] == pytest.approx(values[False], rel=1e-4)
    assert len(set(values[False])) == 4


def test_compiled_before_attaching_is_refused() -> None:
    model, source = make_pair()
    with pytest.raises(vitreg.ArgumentError, match="Attach first"):
        vitreg.attach(torch.compile(model, backend="eager"), source)
    model.compile(backend="eager")
    with pytest.raises(vitreg.ArgumentError, match="Attach first"):
        vitreg.attach(model, source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model, source = make_pair()
    x, y = batch()
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=2.0**10)
    with vitreg.attach(model, source, TARGETS) as reg:
        with torch.autocast("cpu", dtype=dtype):
            loss = F.cross_entropy(model(x), y) + reg.penalty()
        scaler.scale(loss).backward()
    ours = {n: g / scaler.get_scale() for n, g in gradients(model).items()}
    expected = plain_gradients()
    flat = [torch.cat([g.flatten() for g in some.values()]) for some in (ours, expected)]
    assert F.cosine_similarity(*flat, dim=0) > 0.99


def test_gradient_accumulation() -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, "attn_logits") as reg:
        for part in (slice(0, 2), slice(2, 4)):
            ((F.cross_entropy(model(x[part]), y[part]) + reg.penalty()) / 2).backward()
    assert_same(gradients(model), plain_gradients("attn_logits"), rtol=1e-4, atol=1e-6)


def test_validation_in_the_middle_of_an_epoch() -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, TARGETS) as reg:
        loss = F.cross_entropy(model(x), y)
        model.eval()
        with torch.no_grad():
            model(3 * x)
            model.train()
            model(5 * x)
        (loss + reg.penalty()).backward()
    assert_same(gradients(model), plain_gradients())


def test_ema_by_deepcopy_and_by_timm() -> None:
    from timm.utils import ModelEmaV3

    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, TARGETS) as reg:
        ema = ModelEmaV3(model, decay=0.5)
        loss = F.cross_entropy(model(x), y)
        ema.module(5 * x)
        copy.deepcopy(model).train()(7 * x)
        (loss + reg.penalty()).backward()
        ema.update(model)
    assert_same(gradients(model), plain_gradients())


def test_two_attachments_share_one_source() -> None:
    model, source = make_pair()
    x, y = batch()
    first = vitreg.attach(model, source, "attn_logits")
    second = vitreg.attach(model, first.source, ["msa_output", "l2sp"])
    assert first.source is second.source
    (F.cross_entropy(model(x), y) + first.penalty() + second.penalty()).backward()
    first.remove()
    second.remove()
    assert_same(gradients(model), plain_gradients())


def test_the_optimiser_sees_the_models_parameters_only() -> None:
    model, source = make_pair()
    before = [id(p) for p in model.parameters()]
    with vitreg.attach(model, source, TARGETS):
        assert [id(p) for p in model.parameters()] == before


def test_transmix_and_gta_in_one_pass() -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source) as reg, vitreg.TransMix(model, num_classes=5) as mix:
        mixed, labels = mix(x, y)
        assert mixed.shape == x.shape
        assert labels.shape == (4, 5)
        loss = mix.loss(model(mixed)) + reg.penalty()
        loss.backward()
    assert all(p.grad is not None for p in model.parameters())


class _ClipClassifier(nn.Module):
    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.clip.encode_image(x))


def test_a_clip_model_is_read_however_it_is_called() -> None:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=16, image_size=48)
    text = CLIPTextCfg(context_length=8, vocab_size=32, width=32, heads=2, layers=1)
    clip = CLIP(32, vision, text)
    x, y = batch()
    tokens = torch.randint(0, 32, (4, 8))
    values = []
    classifier = _ClipClassifier(copy.deepcopy(clip))
    for model, call in (
        (clip, lambda: clip(x, tokens)[0].sum()),
        (clip, lambda: clip.encode_image(x).sum()),
        (clip.visual, lambda: clip.visual(x).sum()),
        (classifier, lambda: F.cross_entropy(classifier(x), y)),
    ):
        with vitreg.attach(model, clip, ["attn_logits", "block_output", "l2sp", "bss"]) as reg:
            with torch.no_grad():
                for block in vitreg.families.find_tower(model).blocks:
                    block.attention.in_proj_weight.mul_(1.01)
            (call() + reg.penalty()).backward()
            values.append(reg.terms["attn_logits"].item())
        with torch.no_grad():
            for block in vitreg.families.find_tower(model).blocks:
                block.attention.in_proj_weight.div_(1.01)
    assert values[0] > 0
    assert values == pytest.approx([values[0]] * 4, rel=1e-4)
    assert vitreg.describe(classifier).name == "clip.visual"


def test_saved_and_pickled_while_attached() -> None:
    model, source = make_pair()
    x, y = batch()
    keys = list(model.state_dict())
    with vitreg.attach(model, source, TARGETS) as reg:
        assert list(model.state_dict()) == keys
        loss = F.cross_entropy(model(x), y)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        for again in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(model))):
            assert list(again.state_dict()) == keys
            again.train()
            torch.testing.assert_close(again(x), model(x))
            again(7 * x)
            with vitreg.attach(again, source) as other:  # the copy has no attachment of its own
                again(x)
                other.penalty()
        loss = F.cross_entropy(model(x), y)
        again(9 * x)
        (loss + reg.penalty()).backward()
    assert_same(gradients(model), plain_gradients())


def test_layer_decay_and_parameter_groups() -> None:
    from timm.optim import create_optimizer_v2

    def groups(model: nn.Module) -> list[tuple[float, float, list[str]]]:
        names = {id(p): n for n, p in model.named_parameters()}
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
        return [
            (g["lr_scale"], g["weight_decay"], [names[id(p)] for p in g["params"]])
            for g in optimizer.param_groups
        ]

    model, source = make_pair()
    before = groups(model)
    assert len({scale for scale, _, _ in before}) > 2
    with vitreg.attach(model, source, TARGETS):
        assert groups(model) == before


def test_channels_last() -> None:
    model, source = make_pair()
    x, y = batch()
    with vitreg.attach(model, source, TARGETS) as reg:
        model.to(memory_format=torch.channels_last)
        images = x.to(memory_format=torch.channels_last)
        (F.cross_entropy(model(images), y) + reg.penalty()).backward()
    assert_same(gradients(model), plain_gradients(), rtol=1e-4, atol=1e-6)
