"""What an error says of a model without a tower: why, and the lines that register one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn

from vitreg.families.structure.chains import find_attention, find_chains
from vitreg.families.structure.trial import CannotTry, Refused

_REMEDY = "Use the model without what changes its tokens, such as masking."
_MASKED_AUTOENCODER = (
    "A masked autoencoder shuffles them even at mask_ratio=0: load its encoder's weights into the model for "
    "fine-tuning (VisionTransformer of MAE's models_vit.py, or timm's vit_…_patch16_224.mae), or take "
    "transformers' ViTMAEModel, which is read at mask ratio 0."
)


def refusal(model: nn.Module, reasons: Mapping[str, Refused]) -> str:
    """Return the message for a model in which no tower was found; `reasons` say why blocks belong to none."""
    known = {block: why for block, why in reasons.items() if not isinstance(why, CannotTry)}
    if known:
        reason = next(iter(known.values()))
        return (
            "Expected a Vision Transformer whose blocks see the picture's patches row by row, behind the "
            f"prefix tokens, found a {type(model).__name__}: {reason}. A source would see other tokens than "
            f"the model. {_MASKED_AUTOENCODER if _takes_mask_ratio(model) else _REMEDY}"
        )
    name, why = type(model).__name__, f" ({next(iter(reasons.values()))})" if reasons else ""
    expected = (
        "Expected a Vision Transformer: a known class (`vitreg.list_towers()`), or a patch embedding, tokens "
        f"and blocks with attention; found none in {name}{why}"
    )
    places = [place.removeprefix(".") for place in find_attention(model, "")]
    attention = {type(model.get_submodule(place)).__name__ for place in places}
    called = [place for place, _ in model.named_modules() if "attn" in place or "attention" in place]
    if not attention and not called:
        return (
            f"{name} is no Vision Transformer: it has no attention. {expected}. If it is one all the same, "
            "register what it computes by `vitreg.register_family` and `vitreg.register_tower`."
        )
    found = f" It has {', '.join(sorted(attention))}." if attention else ""
    return (
        f"{expected}.{found} If it is one, these lines are enough where its attention can be read as it is:\n"
        f"{tower_remedy(model)}"
    )


def _takes_mask_ratio(model: nn.Module) -> bool:
    return any("mask_ratio" in inspect.signature(part.forward).parameters for part in model.modules())


def tower_remedy(model: nn.Module) -> str:
    """Return nine lines that register `model`'s class as a tower, with the names that were found in it."""
    chains = find_chains(model)
    blocks, attention = "model.blocks", "block.attn"
    if chains and not chains[-1][0].parts:
        first = chains[-1][0].name
        blocks = f"model.{first.rpartition('.')[0]}"
        inner = find_attention(model.get_submodule(first), first)[0]
        attention = f"block{inner[len(first) :]}"
    stem = next((name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)), "patch_embed")
    convolution = dict(model.named_modules()).get(stem)
    is_attribute = all(part.isidentifier() for part in stem.split("."))
    stem = f"model.{stem}" if is_attribute else f'model.get_submodule("{stem}")'
    patch = getattr(convolution, "stride", (16, 16))
    width = getattr(convolution, "out_channels", 768)
    return (
        f"  @vitreg.register_tower({type(model).__name__})\n"
        "  def tower(model):\n"
        "      return vitreg.TowerParts(\n"
        f"          stem={stem},  # the first submodule to run; it receives the pictures\n"
        f"          blocks=[vitreg.BlockParts(block, {attention}) for block in {blocks}],\n"
        "          heads=(),  # names of the classifiers that its forward calls\n"
        "          num_prefix_tokens=1, has_class_token=True,\n"
        f"          grid=None, patch_size={tuple(patch)}, width={width},\n"
        "      )"
    )
