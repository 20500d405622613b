"""`nn.MultiheadAttention` with adapters of the peft library."""

from __future__ import annotations

from peft.tuners.lora.layer import MultiheadAttention

from vitreg.families.registries import families, register_family
from vitreg.types import AttentionReading


@register_family(MultiheadAttention)
def adapted_multihead_attention(module: MultiheadAttention) -> AttentionReading:
    """Read the wrapped attention: while it runs, its weights have the adapters merged, with gradients."""
    read = families.find(module.base_layer)
    assert read is not None  # nn.MultiheadAttention's
    return read(module.base_layer)
