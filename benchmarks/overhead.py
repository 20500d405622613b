"""What a training step costs with vitreg, and with what users write today, as a ratio to the plain step.

Whole steps (forward, backward, AdamW) take turns in one process, see `side_by_side.py`. Beside the time
stands the peak memory of a step: what it allocates at its peak beyond weights, optimiser and source.

    python benchmarks/overhead.py                       # ViT-S/16, 224 px, batch 8, on this machine
    python benchmarks/overhead.py --device cuda --amp --batch-size 128 --json overhead.json
    python benchmarks/overhead.py --size 512 --batch-size 2 --variants GTA "GTA, unfused attention"
    python benchmarks/overhead.py --model clip:ViT-B-16
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from full_batch import batch_that_fills
from report import add_model, at_least, finish, parser
from training import make_setting
from variants import VARIANTS, costs, with_baselines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write JSON if asked to; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    line = parser(__doc__)
    add_model(line)
    line.add_argument("--size", type=at_least(1), default=224, help="pixels a side")
    batch = "pictures of a step; full: as many as fill the device's memory in the plain step"
    line.add_argument("--batch-size", type=_batch_size, default=8, metavar="N|full", help=batch)
    line.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="NAME", help="default: all")
    options = line.parse_args(argv)
    if options.batch_size == FULL:
        options.batch_size = batch_that_fills(options.model, size=options.size, options=options)
        print(f"{options.batch_size} pictures fill the memory")
    setting = make_setting(options.model, size=options.size, batch_size=options.batch_size, options=options)
    entries = {name: VARIANTS[name] for name in with_baselines(options.variants or VARIANTS)}
    rows, left_out = costs(entries, setting, options)
    finish("overhead", options, argv, rows, left_out)
    return 0


FULL = "full"


def _batch_size(text: str) -> int | str:
    return FULL if text == FULL else at_least(2)(text)


if __name__ == "__main__":
    sys.exit(main())
