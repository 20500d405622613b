"""Towers that nobody registered: found by their shape, and believed only if a run on a picture agrees.

The shape is that of a Vision Transformer: a patch embedding, tokens, a chain of blocks with attention.
`chains` looks for such blocks, `trial` runs them, `tokens` says which token is which patch, `plan` puts
together what was found, and `tower` makes a tower's parts of it. `attention` does the same for an attention
class alone.
"""

from vitreg.families.structure.attention import structural_reading
from vitreg.families.structure.remedy import refusal
from vitreg.families.structure.rotary import rotary_reading
from vitreg.families.structure.tower import checked_parts, structural_parts, structural_towers

__all__ = [
    "checked_parts",
    "refusal",
    "rotary_reading",
    "structural_parts",
    "structural_reading",
    "structural_towers",
]
