"""From a table's command line to its design: data and weights in memory, device, folder, all checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from engine.experiment.job import Job, Table
from engine.experiment.ray_executor import RayOptions
from engine.experiment.sources import drawn_sources, lists_name, photographed_starts, photographed_tasks
from engine.presets import PAPER, PHOTOS, Settings, quick
from engine.results.paper import DATA_SETS
from engine.scripts.options import TableOptions, labels_of, named_places, one_for_each, parse_lams
from engine.scripts.stand_ins import stand_in_starts, stand_in_tasks
from vitreg.errors import InputError
from vitreg.files import prepare_out
from vitreg.train.basics.distributed import on_main
from vitreg.train.basics.progress import Progress
from vitreg.train.data.dataset import Statistics, Task
from vitreg.train.data.subset import Share
from vitreg.train.data.test_sets import TestSet
from vitreg.train.models.start import input_statistics
from vitreg.train.runs.plan import Design
from vitreg.train.runs.tracking import check_trackers
from vitreg.train.runs.workplace import Workplace
from vitreg.train.training.device import check_batch, make_accelerator, workers_for
from vitreg.train.training.hyperparameters import Hyperparameters, Mixing
from vitreg.train.training.methods import METHODS, check_methods, guide_of, is_guided
from vitreg.train.training.plugins import load_plugins
from vitreg.train.training.state import LOG
from vitreg.wording import listed

SETTLED = "the demo's λ = 100 was chosen on its own test pictures, so that the gains are a little too high."

ONLY_PHOTOS = ("weights", "model", "size", "augment", "drop_path", "normalise", "subset")


def prepare(
    table: Table,
    options: TableOptions,
    progress: Progress,
    *,
    tests: Sequence[str] = (),
    is_plan: bool = False,
) -> Job:
    """Return what the options of a table's script ask for, with data and weights in memory.

    `tests` are splits or folders of test pictures of other kinds, see `photographed_tasks`. For a plan, what
    is missing has stand-ins, and nothing is written.

    Raises:
        InputError: Anything that the options name cannot be used.
    """
    load_plugins(options.plugins)
    settings = settings_of(table, options)
    methods = check_methods(options.methods or table.methods)
    lams, notes = _lams(table, options, settings, methods, progress)
    folders = named_places(options.data or ())
    files = one_for_each("--subset", options.subset, list(folders)) if options.subset else {}
    lists = {name: Path(file) for name, file in files.items()}
    measured = _measure_every(options.measure_every, table, settings.hyper.steps)
    check_trackers(options.log_with)
    ray = ray_options(options)
    # With Ray it is the nodes that need the device.
    device = ("auto" if ray.gpus else "cpu") if ray else options.device
    accelerator = make_accelerator(device, options.precision)
    ray = ray and replace(ray, precision=accelerator.mixed_precision)
    check_batch(settings.hyper, methods)
    missing = _missing(table, options, folders, progress)
    if missing and not is_plan:
        raise InputError(f"missing: {'; '.join(missing)}")
    notes += [f"missing, with stand-ins here: {what}" for what in missing]
    kind = "demo" if options.is_demo else options.preset or "-".join(folders)
    out = options.out or Path("runs") / (f"{kind}-quick" if options.quick else kind)
    if not is_plan:
        on_main(lambda: prepare_out(out))
    if options.is_demo:
        task, starts = drawn_sources(out, table.sources, progress, is_quick=options.quick)
        read: list[tuple[Task, dict[str, TestSet]]] = [(task, {})]
        title = f"{table.name} in the demo: drawn pictures of a small world, not the paper's data sets"
    else:
        labels = labels_of(options.weights or (), table.sources)
        models = dict.fromkeys(labels, settings.model)
        if options.model and len(options.model) > 1:
            models = one_for_each("--model", options.model, labels)
        if options.weights is None:
            starts = stand_in_starts(models, settings.size)
        else:
            weights = one_for_each("--weights", options.weights, labels)
            starts = photographed_starts(weights, models, settings.size, say=progress.say)
        statistics = _statistics(options, models, settings.size, progress)
        cache = out.resolve().parent / "cache"
        read = photographed_tasks(
            folders, settings, statistics, progress, cache=cache, lists=lists, tests=tests
        ) or [(task, {}) for task in stand_in_tasks(settings)]
        length = f"{settings.hyper.steps} steps" if options.epochs is None else f"{options.epochs:g} epochs"
        training = f"{length} of {settings.hyper.batch_size} pictures"
        names = listed(dict.fromkeys(models.values()))
        title = f"{table.name}: {names}, {settings.size} px, {training}"
    if options.quick:
        title += " (--quick: the figures mean nothing)"
    progress.say(title)
    design = Design(
        [task for task, _ in read],
        starts,
        methods=methods,
        lams=lams,
        shares=_shares(options, settings, lists),
        seeds=tuple(dict.fromkeys(options.seeds or settings.seeds)),
        hyper=settings.hyper,
        augment=settings.augment,
        precision=accelerator.mixed_precision,
        fused_attention=options.fused_attention == "yes",
        measure_every=measured,
        epochs=options.epochs,
    )
    has_gpu = ray.gpus > 0 if ray else accelerator.device.type != "cpu"
    workers = workers_for(options.workers, has_gpu=has_gpu and not options.is_demo)
    place = Workplace(out, accelerator, workers, progress, trackers=options.log_with)
    others = {task.name: found for task, found in read}
    select = options.select or table.select
    return Job(table, title, design, place, select, options.hold_out, ray, notes, others)


def _measure_every(given: str | None, table: Table, steps: int) -> int | str:
    """Return after how many steps each a run is measured, or that it is at ever longer distances."""
    if given is None:
        return math.ceil(steps / table.measures) if table.measures else 0
    if given != LOG and not given.isdecimal():
        raise InputError(f"--measure-every {given}: expected a whole number of at least 0, or {LOG}")
    if table.measures and given == "0":
        raise InputError(f"--measure-every 0: {table.name} shows what is measured on the way, give 1 or more")
    return given if given == LOG else int(given)


def _statistics(
    options: TableOptions, models: Mapping[str, str], size: int, progress: Progress
) -> Statistics:
    """Return the one mean and deviation of the input of all sources.

    Raises:
        InputError: Each is wanted to have its model's own, and these differ.
    """
    names = tuple(dict.fromkeys(models.values()))
    found = {name: input_statistics(options.normalise, name, size, say=progress.say) for name in names}
    if len(set(found.values())) > 1:
        raise InputError(
            f"--normalise model: expected one mean and deviation, found several, of {listed(names)}; give "
            "sources of the others a command of their own"
        )
    return found[names[0]]


def settings_of(table: Table, options: TableOptions) -> Settings:
    """Return the defaults of the demo, of photographs or of the paper, with what the options change."""
    if options.is_demo:
        if given := [f"--{o.replace('_', '-')}" for o in ONLY_PHOTOS if getattr(options, o) is not None]:
            raise InputError(f"{listed(given)} only with --data: the demo has its own model and pictures")
        from engine.demo.dataset import SETTINGS  # only the demo needs the drawn world

        settings = replace(SETTINGS, seeds=table.demo_seeds)
    else:
        settings = replace(PAPER, rates=table.rates) if options.preset == "paper" else PHOTOS
    if options.quick:
        settings = quick(settings)
    hyper, other = (
        {name: value for name in names if (value := getattr(options, name, None)) is not None}
        for names in ([field.name for field in fields(Hyperparameters)], ("size", "augment"))
    )
    if options.model and len(options.model) == 1:
        other["model"] = options.model[0]
    mixing = Mixing(options.mixup, options.cutmix)
    return replace(settings, hyper=replace(settings.hyper, **hyper, mixing=mixing), **other)


def _shares(options: TableOptions, settings: Settings, lists: Mapping[str, Path]) -> list[Share]:
    """Return what of the training pictures is trained on, each share once."""
    if lists:
        return [Share(files=lists_name(lists))]
    if options.shots is not None:
        return [Share(shots=number) for number in dict.fromkeys(options.shots)]
    return [Share(rate=rate) for rate in dict.fromkeys(options.rates or settings.rates)]


def _lams(
    table: Table, options: TableOptions, settings: Settings, methods: Sequence[str], progress: Progress
) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """Return the λ that are tried of each guided method, and what has to be said of them below the table."""
    guided = list(filter(is_guided, methods))
    settled = {} if table.searches else settings.lams
    known = {method: settled[guide_of(method)] for method in guided if guide_of(method) in settled}
    lams = {method: known.get(method, METHODS[method].grid) for method in guided}
    if options.quick:
        lams = {method: tried[:2] for method, tried in lams.items()}
    given = parse_lams(options.lam, methods)
    if unused := [method for method in given if method not in guided]:
        progress.say(f"--lam of {listed(unused)} is not used: {table.name} has no such row here")
    is_settled = options.is_demo and any(method not in given for method in known)
    return lams | given, [SETTLED] if is_settled else []


def ray_options(options: TableOptions) -> RayOptions | None:
    """Return what the options say of Ray, or None where runs are computed here.

    Raises:
        InputError: They speak of Ray, and do not choose it, or they cannot be meant.
    """
    names = {"address": "address", "cpus_per_run": "cpus", "gpus_per_run": "gpus", "retries": "retries"}
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.executor == "ray":
        plugins = [path.resolve() for path in options.plugins]
        used = {names[name]: value for name, value in given.items()}
        ray = RayOptions(plugins=plugins, **used)
        if options.device not in ("auto", "cuda" if ray.gpus else "cpu"):
            raise InputError(f"--device {options.device} does not go with {ray.gpus:g} GPUs a run")
        if ray.gpus > 1 and ray.gpus % 1:
            raise InputError(f"--gpus-per-run {ray.gpus:g}: expected 0, a share below 1 or a whole number")
        if not re.fullmatch(r"auto|[^\s/]+:\d{1,5}", ray.address or "auto"):
            raise InputError(f"--address {ray.address}: expected HOST:PORT or auto")
        return ray
    if given:
        told = listed(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{told} only with --executor ray")
    return None


def _missing(
    table: Table, options: TableOptions, folders: Mapping[str, str], progress: Progress
) -> list[str]:
    """Return all that the options leave out."""
    missing = []
    if options.weights is None and not options.is_demo:
        paper = ": iBOT ViT-S/16 in the paper" if options.preset and len(table.sources) == 1 else ""
        wanted = " ".join(f"{source}=FILE" if source else "FILE" for source in table.sources)
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
    return missing
