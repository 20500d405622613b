"""Figure 4: accuracy against λ.

Every λ of the grid is a row and a point of the curve; nothing is chosen. With

    --methods fine-tune GTA GTA-sum-layers GTA-sum

the three readings of Eq. (5)'s normalisation stand beside each other.

    python recipes/figure4.py
    python recipes/figure4.py --data DIR --weights FILE --model deit_tiny_patch16_224
    python recipes/figure4.py --preset paper --data CUB=DIR Cars=DIR --weights FILE
"""

from engine.experiment.job import Table
from engine.results.plots import draw_lams
from engine.scripts.console import table_script

TABLE = Table("figure4", methods=("fine-tune", "GTA"), searches=True, select="none")
main = table_script(TABLE, __doc__, draw=draw_lams)

if __name__ == "__main__":
    raise SystemExit(main())
