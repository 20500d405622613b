"""Table 6: a supervised source (SL) or a self-supervised one (SSL), each fine-tuned without and with GTA.

The demo's sources are its supervised one and one that is pre-trained by iBOT.

    python recipes/table6.py
    python recipes/table6.py --data DIR --weights SL=FILE SSL=FILE --model vit_small_patch16_224
    python recipes/table6.py --preset paper --data CUB=DIR Cars=DIR --weights SL=FILE SSL=FILE
"""

from engine.experiment.job import Table
from engine.scripts.console import table_script

TABLE = Table("table6", methods=("fine-tune", "GTA"), sources=("SL", "SSL"), searches=True, demo_seeds=(0, 1))
main = table_script(TABLE, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
