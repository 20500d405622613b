"""What a training step costs with vitreg, as a ratio to the plain step, measured side by side.

Every variant takes its step in turn, round after round in one process, so that a machine whose speed
drifts slows all of them alike. Reported are the medians over rounds of each step's time divided by the plain
step's time of the same round, with quartiles.

    python benchmarks/overhead.py                       # ViT-S/16, 224 px, batch 8, on this machine
    python benchmarks/overhead.py --device cuda --amp --batch-size 128 --json overhead.json
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn

import vitreg

VARIANTS: dict[str, Callable[[nn.Module, nn.Module], vitreg.Attachment | None]] = {
    "plain": lambda model, source: None,
    "GTA": lambda model, source: vitreg.attach(model, source, "attn_logits"),
    "MSA-output guide": lambda model, source: vitreg.attach(model, source, "msa_output"),
    "block-output guide": lambda model, source: vitreg.attach(model, source, "block_output"),
    "block-output guide, middle block": lambda model, source: vitreg.attach(
        model, source, "block_output", layers=vitreg.describe(model).num_blocks // 2 - 1
    ),
    "L2-SP": lambda model, source: vitreg.attach(model, source, "l2sp"),
    "BSS": lambda model, source: vitreg.attach(model, source, "bss"),
}


def make_step(
    name: str, source: nn.Module, images: torch.Tensor, labels: torch.Tensor, options: argparse.Namespace
) -> Callable[[], None]:
    """Return a function that takes one whole training step of the variant `name`."""
    model = copy.deepcopy(source).train()
    attachment = VARIANTS[name](model, source)
    run = torch.compile(model) if options.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    device = images.device.type

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=options.amp):
            loss = F.cross_entropy(run(images), labels)
            if attachment is not None:
                loss = loss + attachment.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return seconds and ratios a variant: medians over interleaved rounds, with quartiles."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    source = timm.create_model(options.model, num_classes=100, img_size=options.size).to(device)
    images = torch.randn(options.batch_size, 3, options.size, options.size, device=device)
    labels = torch.randint(100, (options.batch_size,), device=device)
    names = ["plain", *(name for name in options.variants or VARIANTS if name != "plain")]
    steps = {name: make_step(name, source, images, labels, options) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_index in range(options.warmup + options.rounds):
        order = names[round_index % len(names) :] + names[: round_index % len(names)]
        for name in order:
            start = time.perf_counter()
            steps[name]()
            if round_index >= options.warmup:
                seconds[name].append(time.perf_counter() - start)
    rows = {}
    for name in names:
        ratios = [ours / plain for ours, plain in zip(seconds[name], seconds["plain"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        rows[name] = {
            "seconds": statistics.median(seconds[name]),
            "ratio": middle,
            "ratio_first_quartile": low,
            "ratio_third_quartile": high,
        }
    return rows


def main() -> None:
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="NAME", help="default: all")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    rows = measure(options)
    cuda = options.device.startswith("cuda")
    where = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads"
    print(
        f"{options.model}, {options.size} px, batch {options.batch_size}, {options.rounds} rounds, {where}, "
        f"torch {torch.__version__}, timm {timm.__version__}, {date.today()}"
    )
    print(f"{'step':34} {'seconds':>9} {'ratio':>7}  quartiles")
    for name, row in rows.items():
        quartiles = f"{row['ratio_first_quartile']:.3f} – {row['ratio_third_quartile']:.3f}"
        print(f"{name:34} {row['seconds']:9.4f} {row['ratio']:7.3f}  {quartiles}")
    if options.json:
        facts = {key: str(value) for key, value in vars(options).items()}
        facts |= {"where": where, "torch": torch.__version__, "timm": timm.__version__}
        facts |= {"python": platform.python_version(), "date": str(date.today())}
        options.json.write_text(json.dumps({"setting": facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
