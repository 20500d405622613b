"""Table 2: GTA against fine-tuning and four rivals: L2-SP, BSS, training attention only or FFNs only.

Each penalty gets the best λ of its grid, chosen on training pictures that are held out: {0.1c, c, 10c} for
the rivals, c their authors' own, and {0.1, 1, 10, 100} for GTA. `--select test` takes the test pictures.

The demo, on two cores:
    python recipes/table2.py

Your pictures:
    python recipes/table2.py --data DIR --weights FILE --model deit_tiny_patch16_224

The paper's protocol:
    python recipes/table2.py --preset paper --data CUB=DIR Cars=DIR --weights FILE

A run that is finished is never run again: the same command goes on where it was stopped.
"""

from engine.experiment.job import Table
from engine.scripts.console import table_script

METHODS = ("fine-tune", "L2-SP", "BSS", "attention-only", "ffn-only", "GTA")
TABLE = Table("table2", methods=METHODS, searches=True, rates=(0.15, 0.3, 0.5, 1.0), demo_seeds=(0, 1))
main = table_script(TABLE, __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
