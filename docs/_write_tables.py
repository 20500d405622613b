"""Write the tables of our results anew, from `docs/_results` into `docs/_tables`.

python docs/_write_tables.py                # every table that there is
python docs/_write_tables.py NAME ...       # these, also where they are new
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from _macros.our_tables import write_tables


def main(argv: Sequence[str]) -> int:
    """Write the tables in `argv`, or all of them, and say which."""
    for path in write_tables(argv):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
