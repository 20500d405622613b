"""Does it hold under shift? Trained models on other pictures: other styles, other places, other backgrounds.

Test sets are splits of index.csv, or folders of the same classes. Where objects are known, each also stands
on other backgrounds: if accuracy falls there, the model looked at the background. With --tied the training
pictures, too, are made anew, so that the background's brightness gives most of them away.

    python recipes/shift.py
    python recipes/shift.py --data pets=DIR --weights FILE --shots 5 --epochs 10 --test outdoors=DIR
    python recipes/shift.py --data pacs=DIR --weights FILE --shots 5 --epochs 10 --test art_painting cartoon
    python recipes/shift.py --data pets=DIR --weights FILE --shots 20 --epochs 10 --tied 0.95
"""

from engine.experiment.job import Table
from engine.scripts.console import script
from engine.scripts.shift import ShiftOptions, measure_shift

TABLE = Table("shift", methods=("linear-probe", "fine-tune", "LP-FT", "LP-FT+GTA"))
main = script(ShiftOptions, TABLE, __doc__, measure_shift)

if __name__ == "__main__":
    raise SystemExit(main())
