"""Table 4: how well the class token's attention covers objects, before training, after it, and after GTA.

Measured is the Jaccard index of the objects and the patches that hold 60 % of the attention of the best head,
in the last block: on PASCAL VOC 2012 val with --voc, otherwise on the data's own test pictures, where boxes
or outlines are known. The models are those of the first of --rates or --shots.

    python recipes/table4.py
    python recipes/table4.py --data DIR --weights FILE --model deit_tiny_patch16_224 --voc DIR
    python recipes/table4.py --preset paper --data CUB=DIR Cars=DIR --weights FILE --voc VOCtrainval.tar
"""

from engine.experiment.job import Table
from engine.scripts.console import script
from engine.scripts.segmentation import SegmentationOptions, measure_segmentation

TABLE = Table("table4", methods=("fine-tune", "GTA"))
main = script(SegmentationOptions, TABLE, __doc__, measure_segmentation)

if __name__ == "__main__":
    raise SystemExit(main())
