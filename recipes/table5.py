"""Table 5: does GTA help TransMix, which trusts the attention of the model that is trained?

Compared are fine-tuning and GTA, each without and with TransMix: pictures mixed in pairs, their labels
weighted by where the class token looks.

    python recipes/table5.py
    python recipes/table5.py --data DIR --weights FILE --model deit_tiny_patch16_224
    python recipes/table5.py --preset paper --data CUB=DIR Cars=DIR --weights FILE
"""

from engine.experiment.job import Table
from engine.scripts.console import table_script

TABLE = Table("table5", methods=("fine-tune", "fine-tune+TransMix", "GTA", "GTA+TransMix"))
main = table_script(TABLE, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
