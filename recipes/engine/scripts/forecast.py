"""What a table takes, before any of it is trained: its runs, hours by a short measurement, and disk."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields

import vitreg
from engine.experiment.job import Job
from engine.experiment.search import choices, lams_of
from engine.scripts.stopwatch import Clock, Pace, Stopwatch, picture_seconds
from vitreg.errors import InputError
from vitreg.train.basics.distributed import world_size
from vitreg.train.data.subset import trained_and_held_out
from vitreg.train.runs.plan import Run, plan, plan_search
from vitreg.train.runs.run import load_finished
from vitreg.train.training.methods import METHODS, target_of
from vitreg.train.training.state import Measurement

SECONDS = 10.0
"""How long steps are measured, those of all methods together; in a hurry, twice as long at most."""


Kind = tuple[str, str]
"""A model and a method."""


@dataclass(frozen=True)
class Part:
    """Runs that follow one another, of one stage, data set and seed; and the seconds that they take."""

    stage: str
    data: str
    seed: int
    runs: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Forecast:
    """What is to be done, in its order, and what that was concluded from.

    Attributes:
        finished: how many runs are there already.
        paces: by model and method.
        unmeasured: for which of these there was no time, so that they have the slowest pace of the others.
        pictures: how many a measured batch had.
        measured: seconds that all of it took.
        checkpoint_bytes: of the disk while a run is trained, twice at the moment of writing.
        reading_bytes: of the disk for what sources read of views.
    """

    parts: Sequence[Part]
    finished: int
    paces: Mapping[Kind, Pace]
    unmeasured: Sequence[Kind]
    pictures: int
    measured: float
    checkpoint_bytes: int
    reading_bytes: float


def forecast(job: Job, *, seconds: float = SECONDS, clock: Clock = time.monotonic) -> Forecast:
    """Return what the runs of `job` take here; nothing is stored, and what is trained is thrown away.

    Raises:
        InputError: There are several processes.
    """
    if world_size() > 1:
        raise InputError("--plan is for one process: leave out what launches several")
    left, finished = _in_order(job)
    first: dict[Kind, Run] = {}
    for _, run in left:
        if run.configuration.hyper is not None:
            first.setdefault(_kind(run), run)
    began = clock()
    paces, pictures = _paces(first, job, seconds, clock)
    unmeasured = [kind for kind in first if kind not in paces]
    for model, method in unmeasured:
        alike = [pace for (own, _), pace in paces.items() if own == model] or list(paces.values())
        slowest = {field.name: max(getattr(pace, field.name) for pace in alike) for field in fields(Pace)}
        paces[model, method] = Pace(**slowest)
    tested = picture_seconds(left[0][1], job, clock, seconds / 10) if left else 0.0
    measured = clock() - began
    known: dict[tuple[str, Kind], float] = {}
    sizes: dict[Hashable, tuple[int, int]] = {}
    parts = []
    keys = [(stage, run.task.name, run.configuration.seed) for stage, run in left]
    for key in dict.fromkeys(keys):
        runs = [run for (_, run), own in zip(left, keys, strict=True) if own == key]
        taken = [_run_seconds(run, paces.get(_kind(run)), tested, known, sizes) for run in runs]
        parts.append(Part(*key, len(runs), sum(map(_steps, runs)), sum(taken)))
    stored = {(run.task.name, _kind(run)): run for _, run in left}.values()
    starts = {run.start.name: run for run in first.values()}.values()
    models = [run.start.create(len(run.task.classes), 0.0) for run in starts]
    return Forecast(
        parts,
        finished,
        paces,
        unmeasured,
        pictures,
        measured,
        # Weights, and two numbers of AdamW for each.
        max((sum(3 * p.nbytes for p in model.parameters()) for model in models), default=0),
        sum(_pool(run) * paces[_kind(run)].view_bytes for run in stored if _steps(run)),
    )


def _paces(first: Mapping[Kind, Run], job: Job, seconds: float, clock: Clock) -> tuple[dict[Kind, Pace], int]:
    """Return what methods take, as far as there is time, and how many pictures the measured batches had.

    Each has its share of `seconds`. What reads the model comes first, the last row before the others: a
    source may have to be run for it, and what is not measured is taken to be as slow.
    """
    began, longest, pictures = clock(), 0.0, 0
    paces: dict[Kind, Pace] = {}

    def rank(kind: Kind) -> int:
        c, place = first[kind].configuration, job.design.methods.index(kind[1])
        return -place if isinstance(target_of(c.method, c.lam), vitreg.ReadingPenalty) else place + 1

    order = sorted(first, key=rank)

    def share() -> float:
        return max(0.0, began + seconds - clock()) / (len(order) - len(paces))

    for kind in order:
        if clock() - began + longest > 1.9 * seconds:  # the rest is for test pictures
            break
        watch = Stopwatch(first[kind], job, clock)
        pictures = pictures or watch.largest_batch(share())
        paces[kind] = watch.pace(pictures, share())
        longest = max(longest, watch.longest)
    return paces, pictures


def _in_order(job: Job) -> tuple[list[tuple[str, Run]], int]:
    """Return the runs that are left, each with its stage, as they will follow; and how many are finished."""
    stages: list[tuple[str, Run]] = []
    chosen = {}
    if job.select == "validation" and (search := plan_search(job.design, job.hold_out)):
        stages = [("search for λ", run) for run in search]
        reports = [report for run in search if (report := load_finished(run, job.place.out)) is not None]
        if len(reports) == len(search):
            chosen = lams_of(choices(reports))
        else:  # whichever it will be, it is one of each cell
            tried = [run.configuration for run in search]
            chosen = {c.cell: c.lam for c in tried if c.cell and c.lam}
    stages += [("table", run) for run in plan(job.design, chosen)]
    distinct = {run.configuration.folder: (stage, run) for stage, run in stages}
    left = [one for one in distinct.values() if load_finished(one[1], job.place.out) is None]
    return left, len(distinct) - len(left)


def _run_seconds(
    run: Run,
    pace: Pace | None,
    tested: float,
    known: dict[tuple[str, Kind], float],
    sizes: dict[Hashable, tuple[int, int]],
) -> float:
    """Return what a run takes.

    `known` are the views that runs before it have seen, `sizes` how many pictures they were trained and
    measured on; afterwards, with this one.
    """
    c, method = run.configuration, METHODS.get(run.configuration.method)
    pictures, trained = len(run.task.test_labels), 0
    if c.share is not None:
        key = (c.data, c.share, c.hold_out, c.seed)
        if key not in sizes:
            parts = trained_and_held_out(run.task, c.share, c.hold_out, seed=c.seed)
            sizes[key] = len(parts[0]), len(parts[1]) or pictures
        trained, pictures = sizes[key]
    measurements, last = 1, _steps(run)
    if c.measure_every:
        on_the_way = Measurement(c.measure_every, lambda model: {})
        measurements += sum(on_the_way.is_due(step) or step == last for step in range(1, last + 1))
    is_read_before = method is not None and (
        method.head == "probe" or isinstance(target_of(c.method, c.lam), vitreg.CoTuning)
    )
    seconds = tested * (pictures * measurements + trained * is_read_before)
    if c.hyper is None or pace is None:
        return seconds
    new_steps = float(c.hyper.steps)
    if c.hyper.views:
        seen = known.get((run.task.name, _kind(run)), 0.0)
        most = min(c.hyper.views * trained, c.hyper.steps * c.hyper.batch_size)
        new = most * (1 - seen / _pool(run))
        known[run.task.name, _kind(run)] = seen + new
        new_steps = new / c.hyper.batch_size
    return seconds + pace.start + new_steps * pace.new_step + (c.hyper.steps - new_steps) * pace.step


def _kind(run: Run) -> Kind:
    return run.start.name, run.configuration.method


def _steps(run: Run) -> int:
    return 0 if run.configuration.hyper is None else run.configuration.hyper.steps


def _pool(run: Run) -> int:
    """Return how many views there are of all training pictures of a run's data set."""
    hyper = run.configuration.hyper
    return 0 if hyper is None else hyper.views * len(run.task.train_labels)
