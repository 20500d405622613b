"""What each penalty computes and costs: vitreg's writing, the reference of popular code, and a literal one.

Value and gradient norm of the three stand beside each other. If vitreg or the reference differs from the
literal writing, in loops and float64, by more than the penalty's tolerance, nothing is timed and the script
ends with an error: no penalty is fast by computing something else. Time is that of forward and backward;
ratios are to the reference.

    python benchmarks/penalties.py --json penalties.json
    python benchmarks/penalties.py --device cuda --rounds 50
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from problems import PROBLEMS, Problem, Writing
from report import add_model, at_least, finish, parser
from side_by_side import Row, Step, compare

AMP_TOLERANCE = 0.02  # of the reference under autocast, whose products have 8 bits


KINDS = ("vitreg", "reference", "literal")


def writings(problem: Problem, options: argparse.Namespace) -> dict[str, Writing]:
    """Return the three writings as they are checked and timed: the literal one never compiled or rounded."""

    def ready(kind: str) -> Writing:
        written: Writing = getattr(problem, kind)
        fast = kind != "literal"
        run = torch.compile(written, backend=options.compile) if options.compile and fast else written

        def value() -> Tensor:
            with torch.autocast(options.device.type, dtype=torch.bfloat16, enabled=options.amp and fast):
                return run()

        return value

    return {kind: ready(kind) for kind in KINDS}


def agreement(
    problem: Problem, written: dict[str, Writing], *, amp: bool = False
) -> tuple[dict[str, Row], list[str]]:
    """Return what each writing computes, and a line for each that is too far from the literal one."""

    def figures(kind: str) -> tuple[float, Tensor]:
        value = written[kind]()
        gradient = torch.autograd.grad(value, problem.leaves)
        return value.item(), torch.cat([g.double().flatten() for g in gradient])

    expected, direction = figures("literal")
    rows: dict[str, Row] = {}
    wrong = []
    for kind in KINDS:
        value, gradient = figures(kind)
        of_value = abs(value - expected) / abs(expected)
        of_gradient = ((gradient - direction).norm() / direction.norm()).item()
        tolerance = AMP_TOLERANCE if amp and kind == "reference" else problem.tolerance
        rows[kind] = {
            "value": value,
            "gradient_norm": gradient.norm().item(),
            "value_difference": of_value,
            "gradient_difference": of_gradient,
            "tolerance": tolerance,
        }
        if not (of_value <= tolerance and of_gradient <= tolerance):  # NaN is too far as well
            wrong.append(
                f"expected {kind} within {tolerance:g} of the literal writing, found it off by "
                f"{of_value:.1e} in value and {of_gradient:.1e} in gradient"
            )
    return rows, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Compare values, measure, print tables, write JSON if asked to; return 1 if values differ."""
    argv = sys.argv[1:] if argv is None else argv
    line = parser(__doc__)
    line.add_argument("--penalties", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME")
    line.add_argument("--batch-size", type=at_least(2), default=8)
    line.add_argument("--blocks", type=at_least(1), default=12)
    line.add_argument("--heads", type=at_least(1), default=6)
    line.add_argument("--grid", type=at_least(2), default=14, help="patches a side")
    line.add_argument("--features", nargs=2, type=at_least(2), default=[768, 384], help="of BSS, b and d")
    add_model(line)  # of L2-SP
    line.add_argument("--size", type=at_least(1), default=224, help="of L2-SP's model, pixels a side")
    options = line.parse_args(argv)
    torch.manual_seed(0)
    problems = {name: PROBLEMS[name](options) for name in options.penalties}
    written = {name: writings(problem, options) for name, problem in problems.items()}
    rows: dict[str, Row] = {}
    wrong = []
    print(f"{'writing':24}  {'value':>14}  {'gradient norm':>14}  difference of value, gradient  (tolerance)")
    for name, problem in problems.items():
        computed, off = agreement(problem, written[name], amp=options.amp)
        wrong += [f"{name}: {reason}" for reason in off]
        for kind, row in computed.items():
            rows[f"{name}: {kind}"] = row
            print(
                f"{f'{name}: {kind}':24}  {row['value']:14.8g}  {row['gradient_norm']:14.8g}  "
                f"{row['value_difference']:.1e}, {row['gradient_difference']:.1e}  ({row['tolerance']:g})"
            )
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    for name, problem in problems.items():
        steps = {f"{name}: {kind}": _step(problem, written[name][kind]) for kind in KINDS}
        baselines = dict.fromkeys(steps, f"{name}: reference")
        costs = compare(
            steps,
            baselines,
            rounds=options.rounds,
            warmup=options.warmup,
            device=options.device,
            within=None if options.seconds is None else options.seconds / len(problems),
        )
        for writing, cost in costs.items():
            rows[writing] |= cost
    finish("penalties", options, argv, rows)
    return 0


def _step(problem: Problem, writing: Writing) -> Step:
    """Return what takes the value and the gradient of one writing."""

    def step() -> None:
        torch.autograd.grad(writing(), problem.leaves)

    return step


if __name__ == "__main__":
    sys.exit(main())
