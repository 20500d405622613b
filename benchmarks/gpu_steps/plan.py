"""The steps in the order of their worth: what each measures, in earnest and in the rehearsal."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gpu_steps.options import Options
from gpu_steps.step import Step

EXPANDABLE = (("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),)
"""So that variants of the step that nearly fill the memory do not fragment it for each other."""

FULL_BATCH = ("plain", "GTA", "GTA, remembered source", "block-output guide", "L2-SP")
COMPILED = (
    *("plain", "GTA", "GTA, remembered source", "reading alone", "block-output guide, middle block", "L2-SP"),
    *("BSS", "CutMix", "TransMix", "GTA, unfused attention"),
)
MANY_TOKENS = (
    *("plain", "GTA", "GTA, remembered source", "block-output guide", "L2-SP", "GTA, unfused attention"),
    *("transformers", "transformers, attention guide", "transformers, output_attentions"),
)
LARGE = ("plain", "GTA", "GTA, remembered source", "L2-SP", "GTA, unfused attention")
REHEARSED = ("plain", "GTA")
TINY = ("--model", "test_vit", "--size", "32")


def planned_steps(options: Options, work: Path) -> list[Step]:
    """Return every step for these options, in the order of worth; results go to `work`."""
    results = work / "results"
    device = ("--device", options.device)
    kept = ("--keep-going", "--seconds", "{seconds}")
    rounds = ("--rounds", "1", "--warmup", "1") if options.quick else ()

    def measured(
        name: str, seconds: float, *arguments: str, kind: str = "", needs: tuple[str, ...] = ()
    ) -> Step:
        """Return a step of a benchmark whose result is `NAME-gpu-KIND.json`, or `-cpu-` in a rehearsal."""
        ending = f"-{kind}" if kind else ""
        words = (f"benchmarks/{name.partition('-')[0]}.py", *arguments, *device, *rounds, *kept)
        where = results / f"{name}-{options.column}{ending}.json"
        return Step(name + ending, seconds, (*words, "--json", str(where)), needs, environment=EXPANDABLE)

    def overhead(
        name: str, seconds: float, *arguments: str, variants: tuple[str, ...] = (), kind: str = ""
    ) -> Step:
        if options.quick:
            arguments = (*TINY, "--batch-size", "full" if "full" in arguments else "2")
            variants = REHEARSED if variants else ()
        chosen = ("--variants", *variants) if variants else ()
        how = ("--compile", "aot_eager" if options.quick else "inductor") if kind == "compiled" else ()
        return measured(f"overhead-{name}", seconds, *arguments, *chosen, *how, "--amp", kind=kind)

    # open_clip's tower where it is installed; timm's class of the same architecture is measured elsewhere.
    has_open_clip = importlib.util.find_spec("open_clip") is not None
    clip = "clip:ViT-B-16" if has_open_clip else "vit_base_patch16_clip_224"
    facts = ("-m", "gpu_steps.facts", *device, *_quick(options), "--json", str(results / "facts.json"))
    tests = ("-m", "gpu_steps.gpu_tests", *device, "--json", str(results / "tests.json"))
    many = ("--batch-size", "64")
    loop = (*(SMALL_LOOP if options.quick else LARGE_LOOP), "--amp")
    return [
        Step("facts", 20, facts),
        Step("tests", 70, tests, needs=("pytest",)),
        overhead("vit_small-224", 45, *many),
        overhead("vit_small-224", 90, *many, variants=COMPILED, kind="compiled"),
        overhead("vit_small-224", 45, "--batch-size", "full", variants=FULL_BATCH, kind="full"),
        overhead("vit_small-512", 30, "--size", "512", "--batch-size", "32", variants=MANY_TOKENS),
        overhead("clip_vit_b-224", 30, "--model", clip, *many, variants=LARGE),
        overhead("vit_large-224", 30, "--model", "vit_large_patch14_clip_224", *many, variants=LARGE),
        measured("scaling", 35, *(SMALL_SCALING if options.quick else LARGE_SCALING), "--amp"),
        measured("penalties", 30, *(SMALL_PENALTIES if options.quick else ())),
        measured("loop", 25, *loop, needs=TRAINER),
        measured("loop", 25, *loop, *VIEWS, kind="views", needs=TRAINER),
        runs_step(options, work),
    ]


TRAINER = ("accelerate", "torchmetrics", "safetensors", "rich")
"""The packages that the recipes' loop needs."""

VIEWS = ("--views", "4")
"""Few enough for one round before the first that counts to compute nearly all of them."""

SMALL_PENALTIES = (
    *(*TINY, "--batch-size", "2", "--blocks", "2", "--heads", "2", "--grid", "4"),
    *("--features", "24", "12"),
)
SMALL_SCALING = (*TINY, "--batch-size", "2", "--batch-sizes", "1", "--sizes", "32", "--depths", "1")
LARGE_SCALING = (
    *("--batch-size", "64", "--batch-sizes", "16", "64", "256", "--sizes", "112", "224", "384"),
    *("--rounds", "8"),
)
SMALL_LOOP = (*TINY, "--batch-size", "4", "--steps", "1")
# More steps than batches that its processes prepare ahead.
LARGE_LOOP = ("--batch-size", "128", "--workers", "14", "--rounds", "2", "--warmup", "1", "--steps", "40")


def runs_step(options: Options, work: Path) -> Step:
    """Return the step that fills a table with runs on pictures, with all the time that is left."""
    without = "" if options.data and options.weights else "no pictures: give --data DIR and --weights FILE"
    words = [
        "-m",
        "gpu_steps.runs",
        "--device",
        options.device,
        "--out",
        str(work / "runs"),
        *_quick(options),
    ]
    words += ["--data", str(options.data), "--weights", str(options.weights), "--model", options.model]
    words += ["--size", str(options.size), "--until", "{until}"]
    return Step("runs", None, tuple(words), TRAINER, skip=without)


def _quick(options: Options) -> tuple[str, ...]:
    return ("--quick",) if options.quick else ()
