"""Table 1: the data sets as they lie on the disk, beside the paper's counts.

    python recipes/table1.py                                      (says what to put where)
    python recipes/table1.py --data CUB=DIR Cars=DIR Pet=DIR      (official layouts, or your own)
    python recipes/table1.py --data CUB=CUB_200_2011.tgz          (unpacked beside the archive, once)
    python recipes/table1.py --data Pet=DIR --download            (into DIR: CUB, Aircraft, Pet, VOC)

Pictures are counted, not opened. PASCAL VOC, which table 4 needs, is looked at, but is no row.
"""

from engine.experiment.job import Table
from engine.scripts.console import script
from engine.scripts.counting import CountingOptions, count_data_sets

TABLE = Table("table1")
main = script(CountingOptions, TABLE, __doc__, count_data_sets)

if __name__ == "__main__":
    raise SystemExit(main())
