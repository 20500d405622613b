"""`python -m vitreg` is the command line `vitreg`."""

import sys

from vitreg.cli import main

if __name__ == "__main__":
    sys.exit(main())
