"""Figure 1: where the class token looks, before training, after fine-tuning, and after GTA.

Without options it shows the demo's drawn pictures, with --data yours. The models are trained afresh, at the
first of --rates or --shots and the first of --seeds; pictures are taken evenly from the test set, in its
order, or by --pictures.

    python recipes/figure1.py
    python recipes/figure1.py --data DIR --weights FILE --model deit_tiny_patch16_224 --pictures 3 14 15
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from engine.cli import exit_code, prepare
from engine.errors import RecipeError
from engine.methods import SOURCE
from engine.options import parser
from engine.overlay import attention_maps, draw_overlays, object_block
from engine.progress import Progress
from engine.runs import write_atomically
from engine.study import Run, trained_model

METHODS = ("fine-tune", "GTA")
TITLES = {SOURCE: "before training", "fine-tune": "fine-tuned", "GTA": "fine-tuned with GTA"}
NUM_PICTURES = 6


def figure1(argv: Sequence[str] | None = None) -> int:
    """Train the models, draw the figure into `--out`, and return the exit code."""
    options = parser("figure1", __doc__ or "")
    options.add_argument("--pictures", nargs="+", type=int, metavar="INDEX", help="of the test set, from 0")
    block_help = "counted from 0; default: where the source looks at the objects most, else the last"
    options.add_argument("--block", type=int, help=block_help)

    def figure(console: Console) -> None:
        chosen = options.parse_args(argv)
        columns = {}
        with Progress(console) as progress:
            job = prepare("figure1", chosen, METHODS, progress=progress)
            runs: dict[str, Run] = {}
            for run in job.runs:  # the first of each method: of the first data set, share and seed
                runs.setdefault(run.configuration.method, run)
            trained = next(run for method, run in runs.items() if method != SOURCE)
            source = replace(trained.configuration, method=SOURCE, lam=None, share=None, hyper=None)
            runs = {SOURCE: replace(trained, configuration=source), **runs}
            task = trained.task
            step = len(task.test) / NUM_PICTURES
            indices = chosen.pictures or [int((place + 0.5) * step) for place in range(NUM_PICTURES)]
            if not all(0 <= index < len(task.test) for index in indices):
                raise RecipeError(f"--pictures lie between 0 and {len(task.test) - 1}, found {indices}")
            block = chosen.block
            for method, run in runs.items():
                with progress.stage(run.title) as update:
                    model, _ = trained_model(
                        run,
                        accelerator=job.accelerator,
                        workers=job.workers,
                        on_step=_counter(update, run),
                    )
                if block is None:
                    block = object_block(model, task, accelerator=job.accelerator)
                title = TITLES.get(method, method)
                columns[title] = attention_maps(model, task, indices, block, accelerator=job.accelerator)
        write_atomically(job.out / "figure1.png", draw_overlays(task.test[indices], columns, block=block))
        console.print(f"written: {job.out / 'figure1.png'}", markup=False, soft_wrap=True)

    return exit_code(figure)


def _counter(update: Callable[[int, int], None], run: Run) -> Callable[[], None]:
    """Return a function that tells `update` how many of the run's steps have been taken."""
    steps = 0 if run.configuration.hyper is None else run.configuration.hyper.steps
    done = itertools.count(1)
    return lambda: update(next(done), steps)


if __name__ == "__main__":
    sys.exit(figure1())
