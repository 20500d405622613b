"""Low-rank adapters (LoRA) in a model's blocks, put in by the peft library and merged at the end."""

from __future__ import annotations

from torch import nn

import vitreg
from vitreg.errors import InputError, import_library
from vitreg.families import find_tower
from vitreg.parameters.heads import head_parameters

RANK = 8
ALPHA = 16
DROPOUT = 0.1
"""r, α and dropout that fine-tuning Vision Transformers with LoRA usually takes."""


class Adapters:
    """Adapters on every linear layer of the blocks; only they and the task head are trained.

    The weights are W + (α/r) · B A, with B zero at first, so that the model begins as it was. `merge` adds
    the products to the weights, and the model is a plain one again.

    Raises:
        InputError: The peft library is not installed.
        UnsupportedModelError: The blocks have no linear layers.

    Source: Hu et al. 2022 (ICLR), "LoRA", arXiv 2106.09685.
    """

    def __init__(self, model: nn.Module) -> None:
        peft = import_library("peft", "LoRA needs the peft library; pip install peft")
        self._required = [(p, p.requires_grad) for p in model.parameters()]
        tower = find_tower(model)
        blocks = {id(module) for block in tower.blocks for module in block.module.modules()}
        places = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) in blocks]
        if not places:
            raise vitreg.UnsupportedModelError(
                f"LoRA adapts linear layers, found none in the blocks of {type(tower.module).__name__}. "
                "Use fine-tune."
            )
        head = head_parameters(model, tower)
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=places)
        self._tuner = peft.LoraModel(model, config, "default")
        for parameter in head:
            parameter.requires_grad_(True)

    def check_gradients(self) -> None:
        """Raise `InputError` if an adapter had no part in the last backward pass.

        Some attention takes the weight out of its linear layer instead of calling it, past the adapter.
        """
        for name, parameter in self._tuner.model.named_parameters():
            if "lora_" in name and parameter.grad is None:
                place = name.partition(".lora_")[0]
                raise InputError(
                    f"LoRA would train nothing at {place}: the model takes the weight of this layer without "
                    "calling it. Use fine-tune, or another architecture"
                )

    def merge(self) -> None:
        """Add what was learnt to the weights and take the adapters out; calling it again does nothing."""
        if self._required:
            self._tuner.merge_and_unload()
        while self._required:
            parameter, required = self._required.pop()
            parameter.requires_grad_(required)
