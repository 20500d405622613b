"""From the command line to a finished table; every error is one line and exit code 2."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from rich.console import Console

from engine.data import read_folder
from engine.errors import RecipeError, listed
from engine.methods import check_methods
from engine.options import named_folders, parse_lams, parse_shares, parser
from engine.paper import DATA_SETS, read_paper_table
from engine.photos import photo_task
from engine.plot import draw
from engine.progress import Progress
from engine.runs import prepare_out, write_atomically
from engine.settings import PAPER, PHOTOS, Settings
from engine.study import Run, Start, execute, plan
from engine.table import as_csv, as_markdown, as_rich, notes, rows
from engine.task import IMAGENET_MEAN, IMAGENET_STD, Task
from engine.weights import empty_model, file_hash, load_model, read_weights
from vitreg import VitregError

CHOSEN = ("steps", "batch_size", "lr", "weight_decay", "warmup_epochs", "smoothing", "drop_path")
"""The options that are a run's hyper-parameters."""

OTHER = ("size", "model", "augment")
ONLY_PHOTOS = ("weights", "model", "size", "augment", "preset")


@dataclass(frozen=True)
class Job:
    """What a command line asks for: its runs, planned and checked, and where their folders go."""

    title: str
    runs: list[Run]
    out: Path
    accelerator: Accelerator
    workers: int


def run_table(
    name: str, *, description: str, methods: Sequence[str], argv: Sequence[str] | None = None
) -> int:
    """Run the table script `name`, with the rows `methods` by default, and return the exit code."""

    def table(console: Console) -> None:
        options = parser(name, description).parse_args(argv)
        with Progress(console) as progress:
            job = prepare(name, options, methods, progress=progress)
            reports = execute(
                job.runs, job.out, accelerator=job.accelerator, workers=job.workers, progress=progress
            )
        found = rows(reports, read_paper_table(name))
        console.print(f"\n{job.title}", style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(as_rich(found))
        for note in notes(found):
            console.print(note, markup=False, highlight=False)
        write_atomically(job.out / f"{name}.md", as_markdown(found, job.title))
        write_atomically(job.out / f"{name}.csv", as_csv(found))
        write_atomically(job.out / f"{name}.png", draw(found, job.title))
        written = f"written: {job.out / name}.md, .csv, .png and a folder for each run"
        console.print(written, markup=False, soft_wrap=True)

    return exit_code(table)


def exit_code(script: Callable[[Console], None]) -> int:
    """Run `script` and return 0, or 2 after one line on what was wrong with its input."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no width to fit into
    try:
        script(console)
    except (RecipeError, VitregError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def prepare(name: str, options: Namespace, default_methods: Sequence[str], *, progress: Progress) -> Job:
    """Return the runs that the options of script `name` ask for, with data and weights in memory.

    Raises:
        RecipeError: Anything that the options name cannot be used.
    """
    is_demo = options.data is None and options.preset is None
    settings = settings_of(options, is_demo=is_demo)
    methods = check_methods(options.methods or default_methods)
    lams = {**settings.lams, **parse_lams(options.lam or [], methods)}
    shares = parse_shares(options.rates, options.shots, settings.rates)
    folders = named_folders(options.data or [])
    accelerator = make_accelerator(options)
    say_what_is_missing(options, folders, progress)
    kind = "demo" if is_demo else options.preset or "-".join(folders)
    out: Path = options.out or Path("runs") / f"{name}-{kind}"
    prepare_out(out)
    if is_demo:
        tasks, start = drawn_tasks(out, progress)
        title = f"{name} in the demo: drawn pictures of a small world, not the paper's data sets"
    else:
        tasks, start = photographed_tasks(options, folders, settings, progress)
        training = f"{settings.hyper.steps} steps of {settings.hyper.batch_size} pictures"
        title = f"{name}: {start.name}, {settings.size} px, {training}"
    progress.say(title)
    runs = plan(
        tasks,
        start,
        methods=methods,
        lams=lams,
        shares=shares,
        seeds=tuple(dict.fromkeys(options.seeds or settings.seeds)),
        hyper=settings.hyper,
        augment=settings.augment,
        precision=options.precision,
    )
    workers = options.workers if options.workers is not None else workers_for(accelerator, is_demo=is_demo)
    return Job(title, runs, out, accelerator, workers)


def settings_of(options: Namespace, *, is_demo: bool) -> Settings:
    """Return the defaults of the demo, of photographs or of the paper, with what the options change."""
    if is_demo:
        given = [f"--{option}" for option in ONLY_PHOTOS if getattr(options, option) is not None]
        if given:
            raise RecipeError(f"{listed(given)} only with --data: the demo has its own model and pictures")
        from engine.drawn import SETTINGS  # only the demo needs the drawn world

        settings = SETTINGS
    else:
        settings = PAPER if options.preset == "paper" else PHOTOS
    hyper = {key: value for key in CHOSEN if (value := getattr(options, key)) is not None}
    other = {key: value for key in OTHER if (value := getattr(options, key)) is not None}
    return replace(settings, hyper=replace(settings.hyper, **hyper), **other)


def say_what_is_missing(options: Namespace, folders: dict[str, Path], progress: Progress) -> None:
    """Raise `RecipeError` with all that the options leave out, at once."""
    missing = []
    if options.weights is None and (folders or options.preset):
        paper = ": iBOT ViT-S/16 in the paper" if options.preset else ""
        missing.append(f"the pre-trained weights (--weights FILE{paper})")
    if options.preset == "paper":
        absent = [data for data in DATA_SETS if data.lower() not in map(str.lower, folders)]
        if absent and not folders:
            missing.append(
                f"the data sets {', '.join(absent)} (--data {absent[0]}=DIR ...; "
                "`python recipes/table1.py` says what to put where)"
            )
        elif absent and not missing:
            progress.say(f"the paper's data sets {', '.join(absent)} are not given and left out")
    if missing:
        raise RecipeError(f"missing: {'; '.join(missing)}")


def make_accelerator(options: Namespace) -> Accelerator:
    """Return accelerate's device and precision; torch is made to repeat itself exactly."""
    device = options.device
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device, True):
        raise RecipeError(f"--device {device}: torch finds no such device here")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for matrix products that repeat exactly
    torch.use_deterministic_algorithms(True, warn_only=True)
    return Accelerator(cpu=device == "cpu", mixed_precision=options.precision)


def workers_for(accelerator: Accelerator, *, is_demo: bool) -> int:
    """On the CPU, readers would take the cores from the training."""
    return 0 if is_demo or accelerator.device.type == "cpu" else min(8, os.cpu_count() or 1)


def drawn_tasks(out: Path, progress: Progress) -> tuple[list[Task], Start]:
    """Return the demo's task and its source, which is pre-trained once."""
    from engine.drawn import drawn_start, drawn_task

    cache = out.resolve().parent / "cache"  # shared by all tables whose folders stand side by side
    prepare_out(cache)
    with progress.stage("pre-training the demo's source (once)") as update:
        start = drawn_start(cache, on_step=update)
    return [drawn_task()], start


def photographed_tasks(
    options: Namespace, folders: dict[str, Path], settings: Settings, progress: Progress
) -> tuple[list[Task], Start]:
    """Return a task for each folder of pictures, and the weights to start from."""
    name = settings.model or ""
    size = settings.size
    model = empty_model(name, num_classes=2, size=size)
    state = read_weights(options.weights)
    load_model(name, state, num_classes=2, size=size)
    fixed = timm.data.resolve_model_data_config(model)
    mean, std = (
        (IMAGENET_MEAN, IMAGENET_STD) if options.normalise == "imagenet" else (fixed["mean"], fixed["std"])
    )
    described = {data: read_folder(folder, name=data, say=progress.say) for data, folder in folders.items()}
    tasks = []
    for data, folder in described.items():
        with progress.stage(f"reading the pictures of {data}") as update:
            tasks.append(
                photo_task(
                    folder,
                    name=data,
                    size=size,
                    augment=settings.augment,
                    mean=mean,
                    std=std,
                    on_picture=update,
                )
            )

    def create(num_classes: int, drop_path: float) -> torch.nn.Module:
        return load_model(name, state, num_classes=num_classes, size=size, drop_path=drop_path)

    return tasks, Start(name, file_hash(options.weights), create)
