from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitreg
from laws import refuses
from small_models import make_vit
from vitreg import UnsupportedModelError


def test_what_the_next_block_receives(vit: object, images: Tensor) -> None:
    model = vit().eval()
    entering: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model.norm.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with vitreg.trace(model, "block_output") as trace:
        model(images)
    for value, following in zip(trace["block_output"], entering[1:], strict=True):
        assert value is following


def test_as_timms_own_intermediates(vit: object, images: Tensor) -> None:
    model = vit(reg_tokens=1).eval()
    with vitreg.trace(model, "block_output") as trace:
        model(images)
    own = model.forward_intermediates(
        images, intermediates_only=True, output_fmt="NLC", return_prefix_tokens=True
    )
    for value, (patches, prefix) in zip(trace["block_output"], own, strict=True):
        torch.testing.assert_close(value, torch.cat([prefix, patches], dim=1))


def test_as_open_clips_own_intermediates(clip: object, images: Tensor) -> None:
    model = clip().eval()
    with vitreg.trace(model, "block_output") as trace:
        model.encode_image(images)
    own = model.visual.forward_intermediates(images, intermediates_only=True, output_fmt="NLC")
    for value, patches in zip(trace["block_output"], own["image_intermediates"], strict=True):
        torch.testing.assert_close(value[:, 1:], patches)


class Several(nn.Module):
    """A small ViT whose blocks return what `wrap` makes of their tokens, and which itself does, too."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.vit, self.wrap = make_vit(), wrap
        self.stem = self.vit.patch_embed
        self.blocks = nn.ModuleList(Wrapped(block, wrap) for block in self.vit.blocks)

    def forward(self, images: Tensor) -> Any:
        tokens = self.vit._pos_embed(self.stem(images))
        for block in self.blocks:
            returned = block(tokens)
            tokens = next(iter(returned.values())) if isinstance(returned, dict) else returned[0]
        return self.wrap(tokens[:, 0])


class Wrapped(nn.Module):
    def __init__(self, block: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.block, self.wrap = block, wrap

    def forward(self, tokens: Tensor) -> Any:
        return self.wrap(self.block(tokens))


@vitreg.register_tower(Several)
def several(model: Several) -> vitreg.TowerParts:
    return vitreg.TowerParts(
        stem=model.stem,
        blocks=[vitreg.BlockParts(b, b.block.attn, b.block.mlp) for b in model.blocks],
        heads=(),
        num_prefix_tokens=1,
        has_class_token=True,
        grid=(4, 4),
        width=16,
        patch_size=(8, 8),
    )


@pytest.mark.parametrize("wrap", [lambda t: (t, None), lambda t: [t], lambda t: (t, t.mean(-1))])
def test_first_beside_other_things(wrap: Callable[[Tensor], Any], images: Tensor) -> None:
    model = Several(wrap).eval()
    plain = model.vit
    with (
        vitreg.trace(model, "block_output", "features") as ours,
        vitreg.trace(plain, "block_output") as theirs,
    ):
        model(images)
        read = dict(ours)
        plain(images)
        for mine, other in zip(read["block_output"], theirs["block_output"], strict=True):
            assert torch.equal(mine, other)
    assert torch.equal(read["features"][0], theirs["block_output"][-1][:, 0])


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda t: (t, 2 * t), "2 tensors such as"),
        (lambda t: OrderedDict(tokens=t), "OrderedDict with tokens"),
    ],
)
@pytest.mark.parametrize("target", ["block_output", "features"])
def test_what_is_no_tensor_is_refused(
    target: str, wrap: Callable[[Tensor], Any], found: str, images: Tensor
) -> None:
    model = Several(wrap).train()
    remedy = {"block_output": "`BlockParts(whole=…)`", "features": "`TowerParts(features=…)`"}[target]
    with (
        vitreg.attach(model, target=target),
        refuses(UnsupportedModelError, f"{target} is one tensor", found, remedy),
    ):
        model(images)
