"""Figure 3: objects segmented by attention, before training, after fine-tuning, and after GTA.

Shown are the patches that hold 60 % of the class token's attention, of the best head of the last block, on
pictures of PASCAL VOC 2012 with --voc, otherwise on the data's own test pictures, where boxes or outlines are
known. Pictures are taken evenly, or by --pictures. The models are those of figure 1, where --out is the same.

    python recipes/figure3.py
    python recipes/figure3.py --data DIR --weights FILE --model deit_tiny_patch16_224 --voc DIR
"""

from engine.experiment.job import Table
from engine.scripts.console import script
from engine.scripts.segmentation import SegmentationOptions, draw_segmentations

TABLE = Table("figure3", methods=("fine-tune", "GTA"))
main = script(SegmentationOptions, TABLE, __doc__, draw_segmentations)

if __name__ == "__main__":
    raise SystemExit(main())
