"""Appendix B: where the class token looks, on many pictures of every data set.

As figure 1, whose models it shares where --out is the same, with twelve pictures of each data set.

    python recipes/appendix_b.py
    python recipes/appendix_b.py --preset paper --data CUB=DIR Cars=DIR --weights FILE
"""

from engine.experiment.job import Table
from engine.scripts.console import script
from engine.scripts.figure import FigureOptions, draw_attention

TABLE = Table("appendix_b", methods=("fine-tune", "GTA"), num_pictures=12)
main = script(FigureOptions, TABLE, __doc__, draw_attention)

if __name__ == "__main__":
    raise SystemExit(main())
