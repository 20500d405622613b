"""From the command line to a finished table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from shutil import disk_usage
from typing import Any, TypeVar

from rich.console import Console

from engine.experiment.job import Job, Table
from engine.experiment.search import Choice, choices, describe_choices, keep_chosen, lams_of
from engine.results.course import course_csv, course_table
from engine.results.paper import read_paper_table
from engine.results.plots import draw_methods
from engine.results.rows import Row, notes, rows, text_table
from engine.results.run_lines import describe_machines, machine_differences, runs_csv
from engine.scripts.forecast import Forecast, forecast
from engine.scripts.options import PlannedOptions, read_options
from engine.scripts.prepare import prepare
from vitreg.files import write_atomically
from vitreg.train.basics.console import exit_code, say
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress, duration
from vitreg.train.basics.tables import TextTable, csv_of
from vitreg.train.runs.plan import Design, Run, plan, plan_search
from vitreg.train.runs.predictions import kept_right
from vitreg.train.runs.report import Report
from vitreg.train.runs.workplace import machine
from vitreg.train.training.methods import SOURCE

T = TypeVar("T")

Main = Callable[..., int]
"""A script's `main`: of a command line, or of that of the process without one, to the exit code."""

Drawing = Callable[[Sequence[Row], Sequence[Report], str], bytes]
"""From a table's rows, the reports behind them and its title to a PNG file."""


def script(
    kind: type[T], table: Table, description: str | None, work: Callable[[Table, Console, T, str], None]
) -> Main:
    """Return the `main` of a table's script: `work` gets the table, the console, the options, the command."""

    def main(argv: Sequence[str] | None = None) -> int:
        """Run the script on the command line's options, or `argv`, and return its exit code."""

        def run(console: Console) -> None:
            options = read_options(kind, table.name, description, argv)
            work(table, console, options, command(table.name, argv))

        return exit_code(run)

    return main


def table_script(table: Table, description: str | None, *, draw: Drawing = draw_methods) -> Main:
    """Return the `main` of a table's script, with its picture by `draw`."""
    return script(PlannedOptions, table, description, partial(_make_table, draw=draw))


def _make_table(
    table: Table, console: Console, options: PlannedOptions, command: str, *, draw: Drawing
) -> None:
    with Progress(console) as progress:
        job = prepare(table, options, progress, is_plan=options.plan)
        if options.plan:
            progress.say("measuring a few training steps of each method")
            show_forecast(console, job, forecast(job))
            return
        results = measure(job, job.design)
    on_main(lambda: _show(console, results, draw, command))


def show_forecast(console: Console, job: Job, found: Forecast) -> None:
    """Print what is to be done, in its order, and what that was concluded from."""
    parts, batch = found.parts, job.design.hyper.batch_size
    names = ("stage", "data", "seed", "runs", "steps")
    columns = {name: [str(getattr(part, name)) for part in parts] for name in names}
    columns["takes"] = [duration(part.seconds) for part in parts]
    columns["done after"] = list(map(duration, accumulate(part.seconds for part in parts)))
    console.print(TextTable(columns, words=("stage", "data")).rich())
    runs, steps, seconds = (sum(getattr(p, name) for p in parts) for name in ("runs", "steps", "seconds"))
    before = f", {found.finished} finished before" if found.finished else ""
    several = 2 if len({model for model, _ in found.paces}) > 1 else 1
    named = {kind: " ".join(kind[-several:]) for kind in found.paces}
    measured = {kind: pace for kind, pace in found.paces.items() if kind not in found.unmeasured}
    paces = ", ".join(
        f"{named[kind]} {pace.step:.3g}"
        + (f" (new views {pace.new_step:.3g})" if job.design.hyper.views else "")
        for kind, pace in measured.items()
    )
    counted = sorted({pace.steps for pace in measured.values()} or {0})
    hurried = ", ".join(named[kind] for kind in found.unmeasured)
    left_out = [f"no time was left to measure {hurried}: taken as slow as the slowest of the others"]
    out = job.place.out.absolute()
    place = next(folder for folder in (out, *out.parents) if folder.exists())
    here = machine(job.place.accelerator)
    scaled = [
        "of so few pictures it is scaled up whole, with what takes the same for any batch (the optimiser, "
        "penalties on parameters): the hours are too many rather than too few"
    ]
    stays = f", {found.reading_bytes / 1e9:.2g} GB of readings" if found.reading_bytes else ""
    say(
        console,
        f"in all {runs} runs{before}, {steps} steps, {duration(seconds)} for one run after the other",
        f"seconds a step: {paces}; measured in {duration(found.measured)} by {counted[0]} to {counted[-1]} "
        f"steps each, of {found.pictures} of {batch} pictures on {here['device']}, {here['threads']} "
        "thread(s)",
        *(left_out if hurried else []),
        *(scaled if found.pictures < batch else []),
        f"disk: twice {found.checkpoint_bytes / 1e9:.2g} GB for a checkpoint while a run is trained{stays}; "
        f"{disk_usage(place).free / 1e9:.0f} GB are free",
        *job.notes,
        "nothing was stored",
    )


def _show(console: Console, results: Results, draw: Drawing, command: str) -> None:
    """Print the table and write it beside its runs."""
    job, reports, labels = results.job, results.reports, results.labels
    body = rows(reports, read_paper_table(job.table.name), labels, partial(kept_right, job.place.out))
    place, kinds, text = job.place.out / job.table.name, ".md, .csv, .png, -runs.csv", text_table(body)
    write_atomically(place.with_name(f"{place.name}-runs.csv"), runs_csv(reports))
    write_atomically(place.with_name(f"{place.name}.png"), draw(body, reports, job.title))
    if job.table.measures:
        text, kinds = course_table(reports, labels), f"{kinds}, -course.csv"
        write_atomically(place.with_name(f"{place.name}-course.csv"), course_csv(reports))
    results.show(console, text, body, notes(body), command, written=f"{kinds} and a folder for each run")


def show_table(
    console: Console,
    place: Path,
    title: str,
    table: TextTable,
    rows: Sequence[Any],
    below: Sequence[str],
    command: str,
    *,
    in_file: Sequence[str] = (),
) -> None:
    """Write a table to `place`.md, with its command, and its rows to .csv, and print it with what is `below`.

    What is said `in_file` alone is not printed.
    """
    text = f"{table.markdown(title, [*below, *in_file])}\n{command}"
    write_atomically(place.with_name(f"{place.name}.md"), text)
    write_atomically(place.with_name(f"{place.name}.csv"), csv_of(list(map(vars, rows))))
    # Nothing that may go wrong on a terminal comes before the files.
    console.print(f"\n{title}", style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table.rich())
    say(console, *below)


def command(name: str, argv: Sequence[str] | None) -> str:
    """Return the command that made a table, as Markdown; the same wherever it was written."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--out" in arguments:
        place = arguments.index("--out")
        del arguments[place : place + 2]
    return f"```sh\n{shlex.join(['python', f'recipes/{name}.py', *arguments])}\n```\n"


@dataclass(frozen=True)
class Results:
    """The finished runs of a job with their reports, each cell at its best λ, and how that was found."""

    job: Job
    runs: Sequence[Run]
    reports: Sequence[Report]
    choices: Sequence[Choice]

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the sources by the fingerprints of their weights."""
        return {start.fingerprint: start.label for start in self.job.design.starts}

    @property
    def trained_runs(self) -> list[tuple[Run, Report]]:
        """The runs with their reports, but for those of the sources."""
        both = zip(self.runs, self.reports, strict=True)
        return [(run, report) for run, report in both if run.configuration.method != SOURCE]

    @property
    def notes(self) -> list[str]:
        """What has to be said of the runs: how λ was found, and whether they were computed alike."""
        by = "held-out training pictures" if self.job.select == "validation" else "the test pictures"
        chosen = describe_choices(self.choices, self.labels, by)
        return [*self.job.notes, *chosen, *machine_differences(self.reports)]

    def show(
        self,
        console: Console,
        table: TextTable,
        rows: Sequence[Any],
        notes: Sequence[str],
        command: str,
        *,
        written: str,
        title: str | None = None,
    ) -> None:
        """Print and write a table of these runs, with `notes` on it, then say what was `written`."""
        place, title = self.job.place.out / self.job.table.name, title or self.job.title
        below, machines = [*notes, *self.notes], describe_machines(self.reports)
        on_main(lambda: show_table(console, place, title, table, rows, below, command, in_file=machines))
        say(console, f"written: {place}{written}")


def measure(
    job: Job, design: Design, *, seeds: Sequence[int] | None = None, keeps_models: bool = False
) -> Results:
    """Return the results of the runs of `design`.

    λ is chosen by all seeds of the design, also where only the runs of some `seeds` are wanted.
    """
    wanted = design if seeds is None else replace(design, seeds=seeds)
    plan(wanted)  # so that what cannot be used is found before the search
    found: list[Choice] = []
    with job.connection():
        if job.select == "validation":
            search = plan_search(design, job.hold_out)
            found = choices(job.execute(search)) if search else []
        runs = plan(wanted, lams_of(found))
        reports = job.execute(runs, keeps_models=keeps_models)
    if job.select == "test":
        found = choices(reports)
        runs, reports = keep_chosen(runs, found), keep_chosen(reports, found)
    return Results(job, runs, reports, found)
