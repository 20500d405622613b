"""Table 4: how well the class token's attention covers objects, before training, after it, and after GTA.

Measured is the Jaccard index of the objects and the patches that hold 60 % of the attention of the best head,
in the last block: on PASCAL VOC 2012 val with --voc, otherwise on the data's own test pictures, where boxes
or outlines are known. The models are those of the first of --rates or --shots.

    python recipes/table4.py
    python recipes/table4.py --data DIR --weights FILE --model deit_tiny_patch16_224 --voc DIR
    python recipes/table4.py --preset paper --data CUB=DIR Cars=DIR --weights FILE --voc VOCtrainval.tar
"""

import sys
from collections.abc import Sequence

from engine.experiment.job import Table
from engine.scripts.segmentation import run_segmentation_table

TABLE = Table("table4", methods=("fine-tune", "GTA"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script on the command line's options, or `argv`, and return its exit code."""
    return run_segmentation_table(TABLE, description=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
