import torch
from torch import Tensor

import vitreg


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
