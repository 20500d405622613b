"""From a table's command line to its design: data and weights in memory, device, folder, all checked."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.experiment.job import Job, Table
from engine.experiment.ray_executor import RayOptions
from engine.experiment.sources import drawn_sources, lists_name, photographed_starts, photographed_tasks
from engine.results.paper import DATA_SETS
from engine.scripts.options import labelled_weights, named_lists, named_places, parse_lams, parse_shares
from engine.scripts.presets import PAPER, quick
from engine.settings import PHOTOS, Settings
from vitreg.errors import InputError
from vitreg.files import prepare_out
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Task
from vitreg.train.data.subset import Share
from vitreg.train.data.test_sets import TestSet
from vitreg.train.folder_task import input_statistics
from vitreg.train.runs.plan import Design
from vitreg.train.runs.tracking import check_trackers
from vitreg.train.training.device import check_batch, make_accelerator, workers_for
from vitreg.train.training.hyperparameters import Mixing
from vitreg.train.training.methods import METHODS, check_methods, guide_of, is_guided
from vitreg.train.training.plugins import load_plugins
from vitreg.wording import listed

CHOSEN = (
    "steps",
    "batch_size",
    "lr",
    "weight_decay",
    "warmup_epochs",
    "smoothing",
    "drop_path",
    "views",
    "every",
)
"""The options that are a run's hyper-parameters."""

OTHER = ("size", "model", "augment")
SETTLED = "the demo's λ = 100 was chosen on its own test pictures, so that the gains are a little too high."

ONLY_PHOTOS = ("weights", "model", "size", "augment", "drop_path", "normalise", "preset")


def prepare(table: Table, options: Namespace, *, progress: Progress, tests: Sequence[str] = ()) -> Job:
    """Return what the options of a table's script ask for, with data and weights in memory.

    `tests` are splits or folders of test pictures of other kinds, see `photographed_tasks`.

    Raises:
        InputError: Anything that the options name cannot be used.
    """
    load_plugins(options.plugin)
    is_demo = options.data is None and options.preset is None
    settings = settings_of(options, is_demo=is_demo)
    if options.preset == "paper" and not options.quick:
        settings = replace(settings, rates=table.rates)
    if is_demo and not options.quick:
        settings = replace(settings, seeds=table.demo_seeds)
    methods = check_methods(options.methods or table.methods)
    guided = list(filter(is_guided, methods))
    lams = {method: METHODS[method].grid for method in guided}
    known: dict[str, tuple[float, ...] | None] = {}
    if not table.searches:
        known = {method: settings.lams.get(guide_of(method)) for method in guided}
        lams |= {method: tried for method, tried in known.items() if tried}
    if options.quick:
        lams = {method: tried[:2] for method, tried in lams.items()}
    given = parse_lams(options.lam or [], methods)
    notes = [SETTLED] if is_demo and any(known.get(m) and m not in given for m in guided) else []
    unused = [method for method in given if method not in guided]
    if unused:
        progress.say(f"--lam of {listed(unused)} is not used: {table.name} has no such row here")
    lams |= given
    shares = parse_shares(options.rates, options.shots, settings.rates)
    folders = named_places(options.data or [])
    lists = named_lists(options.subset, list(folders)) if options.subset else {}
    if lists:
        shares = [Share(files=lists_name(lists))]
    measured = options.measure_every
    if measured is None:
        measured = math.ceil(settings.hyper.steps / table.measures) if table.measures else 0
    if table.measures and not measured:
        raise InputError(f"--measure-every 0: {table.name} shows what is measured on the way, give 1 or more")
    check_trackers(options.log_with)
    ray = ray_options(options)
    # With Ray it is the nodes that need the device.
    accelerator = make_accelerator("auto" if ray else options.device, options.precision)
    check_batch(settings.hyper, methods)
    say_what_is_missing(options, folders, progress, sources=table.sources)
    kind = "demo" if is_demo else options.preset or "-".join(folders)
    out: Path = options.out or Path("runs") / (f"{kind}-quick" if options.quick else kind)
    on_main(lambda: prepare_out(out))
    if is_demo:
        task, starts = drawn_sources(out, table.sources, progress, is_quick=options.quick)
        read: list[tuple[Task, dict[str, TestSet]]] = [(task, {})]
        title = f"{table.name} in the demo: drawn pictures of a small world, not the paper's data sets"
    else:
        starts = photographed_starts(
            labelled_weights(options.weights, table.sources), settings, say=progress.say
        )
        statistics = input_statistics(
            options.normalise, settings.model or "", settings.size, say=progress.say
        )
        cache = out.resolve().parent / "cache"
        read = photographed_tasks(
            folders, settings, statistics, progress, cache=cache, lists=lists, tests=tests
        )
        length = f"{settings.hyper.steps} steps" if options.epochs is None else f"{options.epochs:g} epochs"
        training = f"{length} of {settings.hyper.batch_size} pictures"
        title = f"{table.name}: {starts[0].name}, {settings.size} px, {training}"
    if options.quick:
        title += " (--quick: the figures mean nothing)"
    progress.say(title)
    design = Design(
        [task for task, _ in read],
        starts,
        methods=methods,
        lams=lams,
        shares=shares,
        seeds=tuple(dict.fromkeys(options.seeds or settings.seeds)),
        hyper=settings.hyper,
        augment=settings.augment,
        precision=options.precision,
        measure_every=measured,
        epochs=options.epochs,
    )
    workers = options.workers
    if workers is None:
        has_gpu = ray.gpus > 0 if ray else accelerator.device.type != "cpu"
        workers = workers_for(has_gpu=has_gpu and not is_demo)
    others = {task.name: found for task, found in read}
    where = (options.log_with, ray, notes, options.plugin)
    return Job(title, design, out, accelerator, workers, *where, others)


def ray_options(options: Namespace) -> RayOptions | None:
    """Return what the options say of Ray, or None where runs are computed here.

    Raises:
        InputError: They speak of Ray, and do not choose it, or they cannot be meant.
    """
    names = {"address": "address", "cpus_per_run": "cpus", "gpus_per_run": "gpus", "retries": "retries"}
    given = {names[name]: value for name in names if (value := getattr(options, name)) is not None}
    if options.executor == "ray":
        ray = RayOptions(precision=options.precision, **given)
        if options.device not in ("auto", "cuda" if ray.gpus else "cpu"):
            raise InputError(f"--device {options.device} does not go with {ray.gpus:g} GPUs a run")
        if ray.gpus > 1 and ray.gpus % 1:
            raise InputError(f"--gpus-per-run {ray.gpus:g}: expected 0, a share below 1 or a whole number")
        if not re.fullmatch(r"auto|[^\s/]+:\d{1,5}", ray.address or "auto"):
            raise InputError(f"--address {ray.address}: expected HOST:PORT or auto")
        return ray
    if given:
        told = listed(f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None)
        raise InputError(f"{told} only with --executor ray")
    return None


def settings_of(options: Namespace, *, is_demo: bool) -> Settings:
    """Return the defaults of the demo, of photographs or of the paper, with what the options change."""
    if is_demo:
        given = [
            f"--{option.replace('_', '-')}" for option in ONLY_PHOTOS if getattr(options, option) is not None
        ]
        if given:
            raise InputError(f"{listed(given)} only with --data: the demo has its own model and pictures")
        from engine.demo.dataset import SETTINGS  # only the demo needs the drawn world

        settings = SETTINGS
    else:
        settings = PAPER if options.preset == "paper" else PHOTOS
    if options.quick:
        settings = quick(settings)
    hyper = {key: value for key in CHOSEN if (value := getattr(options, key)) is not None}
    mixing = Mixing(options.mixup or 0.0, options.cutmix or 0.0)
    other = {key: value for key in OTHER if (value := getattr(options, key)) is not None}
    return replace(settings, hyper=replace(settings.hyper, **hyper, mixing=mixing), **other)


def say_what_is_missing(
    options: Namespace, folders: Mapping[str, object], progress: Progress, *, sources: Sequence[str] = ("",)
) -> None:
    """Raise `InputError` with all that the options leave out, at once."""
    missing = []
    if options.weights is None and (folders or options.preset):
        paper = ": iBOT ViT-S/16 in the paper" if options.preset and len(sources) == 1 else ""
        wanted = "FILE" if len(sources) == 1 else " ".join(f"{source}=FILE" for source in sources)
        missing.append(f"the pre-trained weights (--weights {wanted}{paper})")
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
        raise InputError(f"missing: {'; '.join(missing)}")
