"""Table 5: does GTA help TransMix, which trusts the attention of the model that is trained?

Compared are fine-tuning and GTA, each without and with TransMix: pictures mixed in pairs, their labels
weighted by where the class token looks.

    python recipes/table5.py
    python recipes/table5.py --data DIR --weights FILE --model deit_tiny_patch16_224
    python recipes/table5.py --preset paper --data CUB=DIR Cars=DIR --weights FILE
"""

import sys
from collections.abc import Sequence

from engine.experiment.job import Table
from engine.scripts.console import run_table

TABLE = Table("table5", methods=("fine-tune", "fine-tune+TransMix", "GTA", "GTA+TransMix"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script on the command line's options, or `argv`, and return its exit code."""
    return run_table(TABLE, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
