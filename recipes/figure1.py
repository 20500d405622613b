"""Figure 1: where the class token looks, before training, after fine-tuning, and after GTA.

Without options it shows the demo's drawn pictures, with --data yours, a figure for each data set. The models
are those of the first of --rates or --shots and the first of --seeds; pictures are taken evenly from the test
set, in its order, or by --pictures. The models are kept in --out: a second figure does not train again.

    python recipes/figure1.py
    python recipes/figure1.py --data DIR --weights FILE --model deit_tiny_patch16_224 --pictures 3 14 15
"""

from engine.experiment.job import Table
from engine.scripts.console import script
from engine.scripts.figure import FigureOptions, draw_attention

TABLE = Table("figure1", methods=("fine-tune", "GTA"))
main = script(FigureOptions, TABLE, __doc__, draw_attention)

if __name__ == "__main__":
    raise SystemExit(main())
