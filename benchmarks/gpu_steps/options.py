"""The command line of `benchmarks/gpu.py`, checked before anything starts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = """
packages
  needed          torch, torchvision, timm
  gpu tests       pytest
  runs            accelerate, torchmetrics, safetensors, rich; einops where it is there
  rivals          transformers 5.18 or newer; an older one whose models cannot be read is left out and said
  CLIP            open_clip (with ftfy); without it timm's class of the same architecture is measured

Nothing is fetched: the command needs no network. vitreg itself need not be installed.

examples
  python benchmarks/gpu.py --pack pack --data photographs --weights FILE          # 50 MiB to take along
  python benchmarks/gpu.py --minutes 8 --data pack --weights pack/weights.safetensors --out result
  python benchmarks/gpu.py --minutes 4 --data pack --weights pack/weights.safetensors --out result  # goes on
  python benchmarks/gpu.py --collect result/gpu.tar.gz                            # into the pages
  python benchmarks/gpu.py --device cpu --quick --out rehearsal                   # without a GPU
"""


@dataclass(frozen=True)
class Options:
    """What the command is asked for."""

    minutes: float
    out: Path
    data: Path | None
    weights: Path | None
    device: str
    quick: bool
    have: tuple[Path, ...]
    again: tuple[str, ...]
    only: tuple[str, ...]
    model: str
    size: int
    pack: Path | None
    collect: Path | None

    @property
    def column(self) -> str:
        """The end of the results' names: the column of the page's tables."""
        return "cpu" if self.device == "cpu" else "gpu"


def read_options(argv: Sequence[str] | None, description: str | None) -> Options:
    """Return the options of the command line; what cannot be meant ends the program with a sentence."""
    line = argparse.ArgumentParser(
        description=description, epilog=PACKAGES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    line.add_argument("--minutes", type=_minutes, default=8.0, help="the whole call never takes longer (8)")
    line.add_argument("--data", type=_folder, metavar="DIR", help="holds cub36, cars98, grocery60, pets3")
    line.add_argument("--weights", type=_file, metavar="FILE", help="of DeiT-Tiny, for the runs")
    line.add_argument("--out", type=Path, metavar="DIR", help="gets gpu.tar.gz; one that lies there goes on")
    have = "results of earlier calls, archives or folders: what they have done is not done again"
    line.add_argument("--have", nargs="+", type=_existing, default=[], metavar="FILE", help=have)
    line.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    line.add_argument("--quick", action="store_true", help="rehearse everything, tiny; figures mean nothing")
    line.add_argument("--only", nargs="+", default=[], metavar="STEP", help="take these steps alone")
    line.add_argument("--again", nargs="+", default=[], metavar="STEP", help="take these again, also if done")
    line.add_argument("--model", default="deit_tiny_patch16_224", metavar="NAME", help="of the runs, by timm")
    line.add_argument("--size", type=int, default=224, help="of the runs' pictures, pixels a side")
    line.add_argument("--pack", type=Path, metavar="DIR", help="write the runs' pictures, small, and end")
    line.add_argument("--collect", type=_existing, metavar="FILE", help="put results into the pages, and end")
    found = line.parse_args(argv)
    if found.pack is None and found.collect is None and found.out is None:
        line.error("expected --out DIR for the results (or --pack DIR, or --collect ARCHIVE), found none")
    if found.pack is not None and not (found.data and found.weights):
        line.error("--pack needs --data DIR and --weights FILE, of which it packs what the runs use")
    if found.quick and found.device != "cpu":
        line.error("--quick is the rehearsal on a CPU: give --device cpu, or leave it out")
    found.have, found.again, found.only = tuple(found.have), tuple(found.again), tuple(found.only)
    found.out = found.out or Path()
    return Options(**vars(found))


def _minutes(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"expected minutes above 0, found {text}")
    return value


def _folder(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, found no {text}")
    return path


def _file(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"expected a file, found no {text}")
    return path


def _existing(text: str) -> Path:
    path = Path(text).resolve()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"expected an archive or a folder, found no {text}")
    return path
