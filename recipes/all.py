"""Every table and figure at one scale, one after the other, and one page of results at the end.

Options are those of the tables, given on to each; tables in one --out share their runs. The tables of
several sources need a file for each: --weights SSL=FILE SL=FILE DINO=FILE iBOT=FILE, of which the others take
iBOT's, SSL's or the first. What cannot be made of what is given is left out, and said.

    python recipes/all.py                       (the demo: 44 minutes on one thread)
    python recipes/all.py --quick               (a few steps of everything, to see that it works)
    python recipes/all.py --data DIR --weights FILE --model deit_tiny_patch16_224
    python recipes/all.py --preset paper --data CUB=DIR Cars=DIR --voc DIR --weights SL=FILE SSL=FILE
"""

from collections.abc import Sequence

from engine.scripts.run_all import run_all

TABLES = ("table1", "table2", "table3", "table4", "table5", "table6", "table_a")
FIGURES = ("figure1", "figure3", "figure4", "appendix_b")
SCRIPTS = (*TABLES, *FIGURES, "steps", "compare", "shift")


def main(argv: Sequence[str] | None = None) -> int:
    """Run all scripts on the command line's options, or `argv`, and return the exit code."""
    return run_all(SCRIPTS, description=__doc__, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main())
