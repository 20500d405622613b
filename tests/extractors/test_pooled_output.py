import torch
from torch import Tensor

import vitreg


def test_it_is_the_mean_of_the_patches(vit: object, images: Tensor) -> None:
    for options in ({"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}):
        model = vit(**options).eval()
        with vitreg.trace(model, "pooled_output", "block_output") as trace:
            model(images)
        for ours, whole in zip(trace["pooled_output"], trace["block_output"], strict=True):
            mean = sum(token.double() for token in whole[:, model.num_prefix_tokens :].unbind(1)) / 16
            torch.testing.assert_close(ours.double(), mean, rtol=1e-4, atol=1e-5)
