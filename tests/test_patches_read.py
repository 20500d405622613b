"""What is read is of all images and all patches in their order, or an error: by looking, not by name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_vit
from vitreg import MismatchError, UnsupportedModelError

TARGETS = ["attn_logits", "attn_probs", "msa_output", "block_output", "features"]


class Thins(nn.Module):
    """Keeps some tokens behind the class token: at random, or those that are largest."""

    def __init__(self, keep: int, how: str, always: bool) -> None:
        super().__init__()
        self.keep, self.how, self.always = keep, how, always

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training or self.always):
            return x
        patches = x[:, 1:]
        score = torch.rand(patches.shape[:2]) if self.how == "random" else patches.norm(dim=-1)
        chosen = score.argsort(1, descending=True)[:, : self.keep]
        return torch.cat([x[:, :1], patches.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))], 1)


class Merges(nn.Module):
    """A block that averages pairs of tokens behind its attention, as token merging does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return torch.cat([x[:, :1], x[:, 1:].unflatten(1, (-1, 2)).mean(2)], 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("how", ["random", "largest"])
@pytest.mark.parametrize("place", ["patch_drop", "pos_drop", "norm_pre"])
def test_dropped_tokens(place: str, how: str, always: bool, target: str, images: Tensor) -> None:
    model = make_vit().train()
    setattr(model, place, Thins(10, how, always))
    with vitreg.attach(model, target=target) as reg:
        model(images)
        with refuses(MismatchError, "10 patches", "4×4 patches", "Token dropping"):
            reg.penalty()
        getattr(model, place).keep = 16
        if how == "largest" or not always:
            return
        model(images)
        with refuses(MismatchError, "10 patches", "4×4 patches", "Token dropping"):
            reg.penalty()  # the source drops some still
        getattr(reg.source.tower.module, place).keep = 16
        model(images)
        assert reg.penalty().item() == pytest.approx(0, abs=1e-10)  # both in one random order


@pytest.mark.parametrize("target", ["attn_logits", "msa_output", "block_output", "features"])
def test_merged_tokens(target: str, images: Tensor) -> None:
    model = make_vit().train()
    model.blocks = nn.Sequential(Merges(model.blocks[0]), Merges(model.blocks[1]), model.blocks[2])
    for index, (block, inner) in enumerate(zip(model.blocks, copy.copy(list(model.blocks)), strict=True)):
        if index < 2:
            block.attn, block.mlp = inner.block.attn, inner.block.mlp
    with vitreg.attach(model, target=target) as reg:
        model(images)
        with refuses(MismatchError, "4×4 patches", "Token dropping", "merges"):
            reg.penalty()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("how", ["random", "largest"])
def test_shuffled_tokens_in_training(how: str, target: str, images: Tensor) -> None:
    model = make_vit().train()
    model.pos_drop = Thins(16, how, always=False)
    with vitreg.attach(model, target=target) as reg:
        model(images)
        with refuses(MismatchError, "in one order", "another patch", "shuffles"):
            reg.penalty()


@pytest.mark.parametrize("target", ["attn_logits", "block_output"])
def test_a_source_that_shuffles_as_the_model_does(
    target: str, images: Tensor, perturb: Callable[[nn.Module], None]
) -> None:
    model, source = make_vit().train(), make_vit()
    for one in (model, source):
        one.load_state_dict(source.state_dict())
    straight = copy.deepcopy(source)
    for one in (model, source):
        one.pos_drop = Thins(16, "random", always=True)
    perturb(model.blocks)
    plain = make_vit().train()
    plain.load_state_dict(model.state_dict())
    with vitreg.attach(plain, straight, target) as reg:
        plain(images)
        expected = reg.penalty().item()
    with vitreg.attach(model, source, target) as reg:
        for _ in range(3):
            model(images)
            before = torch.get_rng_state()
            assert reg.penalty().item() == pytest.approx(expected, rel=1e-4)  # the same of each order
            assert torch.equal(torch.get_rng_state(), before)
        assert reg.source.is_random
        model.pos_drop = nn.Dropout(0.1)  # which draws before, so that the source's numbers are others
        model.norm_pre = Thins(16, "random", always=True)
        model(images)
        with refuses(MismatchError, "in one order"):
            reg.penalty()


class Sorts(nn.Module):
    """Has the same tokens in another order, or half of them and zeros: by their size."""

    def __init__(self, keep: int = 16, prefix: int = 1) -> None:
        super().__init__()
        self.keep, self.prefix = keep, prefix

    def forward(self, x: Tensor) -> Tensor:
        patches = x[:, self.prefix :]
        chosen = patches.norm(dim=-1).argsort(1, descending=True)[:, : self.keep]
        kept = patches.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))
        none = torch.zeros_like(patches[:, self.keep :])
        return torch.cat([x[:, : self.prefix], kept, none], 1)


@pytest.mark.parametrize("target", ["attn_logits", "features"])
@pytest.mark.parametrize("num_images", [1, 4])
@pytest.mark.parametrize("keep", [16, 8])
@pytest.mark.parametrize("place", ["patch_drop", "norm_pre", "a hook"])
def test_patches_that_are_sorted_by_content(
    place: str, keep: int, num_images: int, target: str, images: Tensor
) -> None:
    model = make_vit().train()
    if place == "a hook":
        model.patch_embed.register_forward_hook(lambda _m, _a, out: Sorts(keep, prefix=0)(out))
    else:
        setattr(model, place, Sorts(keep))
    with vitreg.attach(model, target=target) as reg:
        for _ in range(2):
            model(images[:num_images])
            with refuses(MismatchError, "the same patch in every picture", "by their content", "Switch off"):
                reg.penalty()


class Overlapping(nn.Module):
    """A stem whose patches overlap, with a norm over the whole picture."""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 16, 7, 2, 3), nn.GroupNorm(2, 16), nn.ReLU(), nn.Conv2d(16, 16, 7, 4, 3)
        )
        self.num_patches, self.grid_size, self.patch_size = 16, (4, 4), (8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.convolutions(images).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("pos_embed", ["learn", "none"])
@pytest.mark.parametrize("num_images", [1, 4])
def test_patches_that_overlap_are_read(pos_embed: str, num_images: int, images: Tensor) -> None:
    model = make_vit(embed_layer=Overlapping, pos_embed=pos_embed).train()
    with vitreg.attach(model) as reg:
        for batch in (images, torch.zeros_like(images)):
            model(batch[:num_images])
            assert reg.penalty() == 0


def test_a_random_source_cannot_be_remembered(images: Tensor) -> None:
    model = make_vit().train()
    model.pos_drop = Thins(16, "random", always=True)
    with vitreg.attach(model, vitreg.CachedSource(model, 4)) as reg:
        model(images)
        with refuses(UnsupportedModelError, "the same of an image each time", "random numbers in eval mode"):
            reg.penalty(views=range(4))


class Moves(nn.Module):
    """Has the tokens, or pictures, in another order that is always the same, in training or ever."""

    def __init__(self, what: str, is_patches: bool) -> None:
        super().__init__()
        self.what, self.is_patches = what, is_patches
        self.order = torch.randperm(16, generator=torch.Generator().manual_seed(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "pictures":
            return x.roll(1, 0)
        return x[:, self.order] if self.is_patches else torch.cat([x[:, :1], x[:, 1:][:, self.order]], 1)


@pytest.mark.parametrize("target", ["attn_logits", "features"])
@pytest.mark.parametrize("what", ["pictures", "patches"])
@pytest.mark.parametrize("place", ["patch_embed", "pos_drop"])
def test_a_fixed_order_of_the_model_alone(place: str, what: str, target: str, images: Tensor) -> None:
    model, source = make_vit().train(), make_vit()
    source.load_state_dict(model.state_dict())
    moves = Moves(what, is_patches=place == "patch_embed")
    getattr(model, place).register_forward_hook(lambda _m, _a, out: moves(out))
    with vitreg.attach(model, source, target) as reg:
        model(images)
        with refuses(MismatchError, "in one order", "another patch", "another picture"):
            reg.penalty()


@pytest.mark.parametrize("size", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_pictures_that_are_alike_and_a_stem_that_differs_are_no_shuffle(
    size: float, scale: float, images: Tensor
) -> None:
    model = make_vit(drop_rate=0.1 if size else 0.0).train()
    twice = images[:2].repeat(2, 1, 1, 1)
    bordered = images.clone()
    bordered[..., :20] = 1
    checked = torch.zeros_like(images)
    checked[..., ::2] = torch.arange(4)[:, None, None, None]
    for batch in (twice, bordered, checked, torch.zeros_like(images), images[:1]):
        source = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in source.patch_embed.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=size).mul_(scale)
        for dtype in (torch.bfloat16, torch.float32):
            with vitreg.attach(model, source) as reg, torch.autocast("cpu", dtype, dtype != torch.float32):
                model(batch)
                assert reg.penalty() >= 0


def test_alike_tokens_have_no_order(images: Tensor) -> None:
    model = make_vit(pos_embed="none").train()
    with vitreg.attach(model) as reg:
        model(torch.zeros(4, 3, 32, 32))
        assert reg.penalty() == 0


@pytest.mark.parametrize("size", [0.05, 0.3, 3.0])
def test_a_model_far_from_its_source_is_no_shuffle(size: float, images: Tensor) -> None:
    model, source = make_vit().train(), make_vit()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=size)
    with vitreg.attach(model, source) as reg:
        model(images)
        assert reg.penalty() > 0


class OnAPart(nn.Module):
    """A block that runs on a random part of the batch in training, as DINOv2's stochastic depth does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            chosen = torch.randperm(len(x))[: len(x) // 2]
            x = x.index_add(0, chosen, self.attn(self.norm1(x[chosen])), alpha=2.0)
        else:
            x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@pytest.mark.parametrize("target", ["attn_logits", "attn_probs", "msa_output"])
@pytest.mark.parametrize("every", [slice(None), slice(1, 2)])
def test_a_part_of_the_batch(target: str, every: slice, images: Tensor) -> None:
    model = make_vit().train()
    blocks = list(model.blocks)
    blocks[every] = map(OnAPart, blocks[every])
    model.blocks = nn.Sequential(*blocks)
    with vitreg.attach(model, target=target) as reg:
        model(images)
        with refuses(MismatchError, "for 4 images, found 2", "a part of the batch", "drop_path_rate"):
            reg.penalty()
    with vitreg.attach(model, target="block_output") as reg:
        model(images)  # whose outputs are of all images
        assert reg.penalty() > 0


def test_features_of_a_large_batch(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitreg.sources import frozen

    monkeypatch.setattr(frozen, "ENOUGH_PIXELS_ON_CPU", 1)
    model = make_vit().train()
    with vitreg.attach(model, target=["features", "block_output"]) as reg:
        for _ in range(2):
            model(images)
            assert reg.penalty().item() == pytest.approx(0, abs=1e-10)
