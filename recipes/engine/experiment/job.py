"""What a table's script compares, and what one command line makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from engine.experiment.ray_executor import RayOptions, cluster, execute_on_ray
from vitreg.train.data.test_sets import TestSet
from vitreg.train.runs.execution import execute
from vitreg.train.runs.plan import Design, Run
from vitreg.train.runs.report import Report
from vitreg.train.runs.workplace import Workplace


@dataclass(frozen=True)
class Table:
    """A table or figure: its name, and the rows and sources that it compares by default.

    Attributes:
        name: of the script, and of the paper's numbers beside ours.
        methods: the rows.
        sources: the labels of its sources; one without a label is not named.
        searches: whether every method's grid is searched, also where one λ is known to do.
        rates: the shares of the training pictures in the paper's protocol.
        select: how the best λ is found where the options do not say, see `--select`.
        measures: how many times a run is measured in the course of its training, unless the options say.
        demo_seeds: the seeds of the demo, where its own would take too long.
        num_pictures: how many pictures of each data set a figure shows, unless the options say.
    """

    name: str
    methods: Sequence[str] = ()
    sources: Sequence[str] = ("",)
    searches: bool = False
    rates: tuple[float, ...] = (0.15, 1.0)
    demo_seeds: tuple[int, ...] = (0, 1, 2)
    select: str = "validation"
    measures: int = 0
    num_pictures: int = 6


@dataclass(frozen=True)
class Job:
    """What a command line asks for, checked, and where its runs go.

    Attributes:
        select: how the best λ is found, see `--select`.
        hold_out: the share of each class's training pictures that is held out to choose by.
        ray: where the runs go, if not here.
        notes: what belongs below the results.
        others: test sets of other kinds, by data set and name.
    """

    table: Table
    title: str
    design: Design
    place: Workplace
    select: str
    hold_out: float
    ray: RayOptions | None = None
    notes: Sequence[str] = ()
    others: Mapping[str, Mapping[str, TestSet]] = field(default_factory=dict)

    def connection(self) -> AbstractContextManager[None]:
        """Return what holds a connection to Ray over several calls of `execute`, if the runs go there."""
        return nullcontext() if self.ray is None else cluster(self.ray)

    def execute(self, runs: Sequence[Run], *, keeps_models: bool = False) -> list[Report]:
        """Return the reports of `runs`, after running those that are not finished."""
        place = replace(self.place, keeps_models=keeps_models)
        return execute(runs, place) if self.ray is None else execute_on_ray(runs, place, self.ray)
