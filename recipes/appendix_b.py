"""Appendix B: where the class token looks, on many pictures of every data set.

As figure 1, whose models it shares where --out is the same, with twelve pictures of each data set.

    python recipes/appendix_b.py
    python recipes/appendix_b.py --preset paper --data CUB=DIR Cars=DIR --weights FILE
"""

import sys

from engine.looking import run_figure
from engine.prepare import Table

TABLE = Table("appendix_b", methods=("fine-tune", "GTA"))

if __name__ == "__main__":
    sys.exit(run_figure(TABLE, description=__doc__, num_pictures=12))
