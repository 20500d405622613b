"""Table 3: which feature of the source should guide the target?

Compared are fine-tuning without a guide, and fine-tuning guided by the source's block output, MSA output or
attention logits (GTA), in a small and in the full training set.

The demo, minutes on two cores, with nothing needed:
    python recipes/table3.py

Your pictures:
    python recipes/table3.py --data DIR --weights FILE --model deit_tiny_patch16_224

The paper's protocol:
    python recipes/table3.py --preset paper --data CUB=DIR Cars=DIR --weights FILE

A run that is finished is never run again: the same command goes on where it was stopped.
"""

from engine.experiment.job import Table
from engine.scripts.console import table_script

TABLE = Table("table3", methods=("fine-tune", "block-output", "msa-output", "GTA"))
main = table_script(TABLE, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
