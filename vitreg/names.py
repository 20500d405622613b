"""Names of modules and parameters, whatever has come to wrap a module since."""

from __future__ import annotations

WRAPPERS = frozenset({"_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod"})
"""Where torch's wrappers keep what they wrap: activation checkpointing, FSDP1, `torch.compile`."""


def plain_name(name: str) -> str:
    """Return a dotted name as it was before anything on its way was wrapped.

    >>> plain_name("blocks.0._checkpoint_wrapped_module.attn")
    'blocks.0.attn'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)
