"""Table A: a source pre-trained by DINO or by iBOT, each fine-tuned without and with GTA.

The demo pre-trains both in its drawn world.

    python recipes/table_a.py
    python recipes/table_a.py --data DIR --weights DINO=FILE iBOT=FILE --model vit_small_patch16_224
    python recipes/table_a.py --preset paper --data CUB=DIR Cars=DIR --weights DINO=FILE iBOT=FILE
"""

from engine.experiment.job import Table
from engine.scripts.console import table_script

TABLE = Table(
    "table_a", methods=("fine-tune", "GTA"), sources=("DINO", "iBOT"), searches=True, demo_seeds=(0, 1)
)
main = table_script(TABLE, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
