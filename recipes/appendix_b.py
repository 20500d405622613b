"""Appendix B: where the class token looks, on many pictures of every data set.

As figure 1, whose models it shares where --out is the same, with twelve pictures of each data set.

    python recipes/appendix_b.py
    python recipes/appendix_b.py --preset paper --data CUB=DIR Cars=DIR --weights FILE
"""

import sys
from collections.abc import Sequence

from engine.experiment.job import Table
from engine.scripts.figure import run_figure

TABLE = Table("appendix_b", methods=("fine-tune", "GTA"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script on the command line's options, or `argv`, and return its exit code."""
    return run_figure(TABLE, description=__doc__, num_pictures=12, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
