"""How the cost of a penalty grows with the batch, the picture, the depth and the number of penalties.

Each point is measured side by side with the plain step of the same batch, picture and depth; the options that
are not varied stay at `--batch-size`, `--size` and the model's own depth.

    python benchmarks/scaling.py --json scaling.json
    python benchmarks/scaling.py --axes tokens --sizes 224 384 512 --batch-size 2 --device cuda --amp
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import vitreg
from report import add_model, at_least, finish, parser
from side_by_side import Row
from training import Setting, make_setting
from variants import VARIANTS, Entry, attached, costs

COMPARED = ("GTA", "L2-SP", "block-output guide")
TARGETS = ("attn_logits", "block_output", "msa_output", "l2sp")
"""What is attached together, all to one source: the first one, the first two, and so on."""

Point = tuple[str, Setting, dict[str, Entry]]
Axis = Callable[[argparse.Namespace], Iterator[Point]]


def batches(options: argparse.Namespace) -> Iterator[Point]:
    """Yield a point for each batch size."""
    for batch_size in options.batch_sizes:
        yield f"batch size {batch_size}", _setting(options, batch_size=batch_size), _compared()


def tokens(options: argparse.Namespace) -> Iterator[Point]:
    """Yield a point for each picture size, named by the number of tokens of a block."""
    for size in options.sizes:
        setting = _setting(options, size=size)
        with vitreg.trace(setting.source, "block_output", layers=0) as trace:
            setting.source(setting.images[:1])
        yield f"{trace['block_output'][0].shape[1]} tokens", setting, _compared()


def depths(options: argparse.Namespace) -> Iterator[Point]:
    """Yield a point for each number of blocks."""
    for depth in options.depths:
        yield f"{depth} blocks", _setting(options, depth=depth), _compared()


def penalties(options: argparse.Namespace) -> Iterator[Point]:
    """Yield one point, at which each number of penalties is a variant."""
    numbers = range(1, len(TARGETS) + 1)
    counted = {f"{n} attached": attached(TARGETS[:n]) for n in numbers}
    entries = {"plain": VARIANTS["plain"], **{name: Entry(make) for name, make in counted.items()}}
    yield "penalties", _setting(options), entries


AXES: dict[str, Axis] = {"batch": batches, "tokens": tokens, "depth": depths, "penalties": penalties}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every point, print a table, and write JSON if asked to; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    line = parser(__doc__)
    add_model(line)
    line.add_argument("--size", type=at_least(1), default=224, help="pixels a side where not varied")
    line.add_argument("--batch-size", type=at_least(1), default=8, help="where not varied")
    line.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES), metavar="AXIS")
    line.add_argument("--batch-sizes", nargs="+", type=at_least(1), default=[1, 2, 4, 8, 16])
    line.add_argument("--sizes", nargs="+", type=at_least(1), default=[112, 224, 384], help="pixels a side")
    line.add_argument("--depths", nargs="+", type=at_least(1), default=[3, 6, 12, 24])
    options = line.parse_args(argv)
    rows: dict[str, Row] = {}
    left_out: dict[str, str] = {}
    began = time.monotonic()
    for axis in options.axes:
        for point, setting, entries in AXES[axis](options):
            left = None if options.seconds is None else options.seconds - (time.monotonic() - began)
            if left is not None and left <= 0:
                left_out[point] = f"no time was left, after {options.seconds} s"
                continue
            of_point = argparse.Namespace(**{**vars(options), "seconds": left})
            measured, without = costs(entries, setting, of_point)
            for name, row in measured.items():
                rows[f"{point}: {name}"] = {**row, "baseline": f"{point}: {row['baseline']}"}
            left_out |= {f"{point}: {name}": reason for name, reason in without.items()}
    finish("scaling", options, argv, rows, left_out)
    return 0


def _setting(
    options: argparse.Namespace,
    batch_size: int | None = None,
    size: int | None = None,
    depth: int | None = None,
) -> Setting:
    return make_setting(
        options.model,
        size=size or options.size,
        batch_size=batch_size or options.batch_size,
        depth=depth,
        options=options,
    )


def _compared() -> dict[str, Entry]:
    return {name: VARIANTS[name] for name in ("plain", *COMPARED)}


if __name__ == "__main__":
    sys.exit(main())
