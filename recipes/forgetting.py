"""What was forgotten? Fine-tuned models on the pictures of their source's own task, beside the source.

The source's own head on the fine-tuned body, how many of the ten nearest pictures are still the same, how
alike the features are (CKA), and how far the attention has moved. The curve leads from each training's start
to its end (WiSE-FT), new accuracy against old.

    python recipes/forgetting.py --data DIR --weights FILE --shots 5 --epochs 10 --source-data DIR

Pictures of the source lie in a folder for each class, in the order of its head, or in an index.csv whose
labels are class indices. A run that is finished is never run again, and what it forgot is measured once.
"""

from engine.experiment.job import Table
from engine.scripts.console import script
from engine.scripts.forgetting import ForgettingOptions, measure_forgetting

TABLE = Table("forgetting", methods=("linear-probe", "fine-tune", "LP-FT", "LP-FT+GTA"))
main = script(ForgettingOptions, TABLE, __doc__, measure_forgetting)

if __name__ == "__main__":
    raise SystemExit(main())
