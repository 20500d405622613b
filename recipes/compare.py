"""Which method helps beyond chance? Methods beside plain fine-tuning and the linear probe, with intervals.

Each difference is paired over seeds and test pictures, from the predictions that every run keeps.

    python recipes/compare.py
    python recipes/compare.py --data a=DIR b=DIR --weights FILE --shots 5 --epochs 10 --seeds 0 1 2 3 4

A run that is finished is never run again, and more seeds, data sets or methods add to those in `--out`.
"""

from engine.experiment.job import Table
from engine.scripts.console import table_script

TABLE = Table("compare", methods=("linear-probe", "fine-tune", "LP-FT", "LP-FT+GTA"))
main = table_script(TABLE, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
