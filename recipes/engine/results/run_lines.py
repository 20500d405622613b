"""A table's runs by row, and as lines of a CSV file that say what computed them: figures lead to runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vitreg.train.basics.tables import csv_of
from vitreg.train.runs.report import Report
from vitreg.wording import listed

Key = tuple[Any, ...]
"""Data set, source, share, what else tells rows apart, method, λ."""


def row_groups(
    found: Iterable[Any], labels: Mapping[str, str], beside: Callable[[Any], tuple[str, ...]] = lambda one: ()
) -> dict[Key, list[Any]]:
    """Return what was found of runs by row, rows of the same pictures and source one after the other.

    Each of `found` has the `configuration` of its run; `beside` is what else tells rows apart. `labels` names
    the sources by the fingerprints of their weights.
    """
    groups: dict[Key, list[Any]] = {}
    for one in found:
        c = one.configuration
        share = "" if c.share is None else str(c.share)
        key = (c.data, labels.get(c.weights, ""), share, *beside(one), c.method, c.lam)
        groups.setdefault(key, []).append(one)
    order = list(dict.fromkeys(key[:-2] for key in groups))
    return dict(sorted(groups.items(), key=lambda group: order.index(group[0][:-2])))


def runs_csv(reports: Sequence[Report]) -> str:
    """Return a line for each run: what it was, what came out in percent, and what computed it."""
    return csv_of([line_of(report) for report in reports])


def line_of(report: Report) -> dict[str, Any]:
    """Return what is to be known of a run, by column."""
    c, hyper, machine = report.configuration, report.configuration.hyper, report.machine
    top1 = report.metrics.get("top1")
    return {
        "data": c.data,
        "weights": c.weights[:8],
        "model": c.model,
        "size": c.size,
        "share": "" if c.share is None else str(c.share),
        "method": c.method,
        "lam": "" if c.lam is None else c.lam,
        "seed": c.seed,
        "hold_out": c.hold_out,
        "measure_every": c.measure_every,
        **{name: getattr(hyper, name, "") for name in ("steps", "views", "every", "fraction", "balance")},
        "precision": c.precision,
        "top1": "" if top1 is None else float(f"{top1:.7g}"),
        "object_share": percentages(report.metrics.get("object_share", ())),
        "jaccard": percentages(report.metrics.get("jaccard", ())),
        "seconds": round(report.seconds),
        "device": machine["device"],
        "threads": machine["threads"],
        "torch": machine["versions"]["torch"],
        "timm": machine["versions"]["timm"],
        "folder": c.folder,
    }


def percentages(shares: Sequence[float]) -> str:
    """Return the figure of each block, in percent."""
    return " ".join(f"{100 * share:.2f}" for share in shares)


def describe_machines(reports: Sequence[Report]) -> list[str]:
    """Return with what the runs of a table were computed."""
    found = {
        (r.machine["device"], r.machine["threads"], *(r.machine["versions"][n] for n in ("torch", "timm")))
        for r in reports
    }
    return [
        f"computed on {device}, {threads} thread(s) a run, torch {torch}, timm {timm}."
        for device, threads, torch, timm in sorted(found)
    ]


def machine_differences(reports: Iterable[Report]) -> list[str]:
    """Return a warning if the runs of a table come from different devices, threads or versions."""
    found: dict[str, set[str]] = {}
    for report in reports:
        machine = {**report.machine, **report.machine.get("versions", {})}
        for name, value in machine.items():
            if name != "versions":
                found.setdefault(name, set()).add(str(value))
    told = [f"{name} {' and '.join(sorted(values))}" for name, values in found.items() if len(values) > 1]
    return [f"warning: not all runs were computed alike: {listed(told)}"] if told else []
