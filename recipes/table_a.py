"""Table A: a source pre-trained by DINO or by iBOT, each fine-tuned without and with GTA.

The demo pre-trains both in its drawn world.

    python recipes/table_a.py
    python recipes/table_a.py --data DIR --weights DINO=FILE iBOT=FILE --model vit_small_patch16_224
    python recipes/table_a.py --preset paper --data CUB=DIR Cars=DIR --weights DINO=FILE iBOT=FILE
"""

import sys
from collections.abc import Sequence

from engine.experiment.job import Table
from engine.scripts.console import run_table

TABLE = Table(
    "table_a", methods=("fine-tune", "GTA"), sources=("DINO", "iBOT"), searches=True, demo_seeds=(0, 1)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script on the command line's options, or `argv`, and return its exit code."""
    return run_table(TABLE, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
