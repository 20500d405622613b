"""Memory and time of the paper's step, on paper: ViT-S to ViT-g, batch 768, on 1, 8 and 64 GPUs.

The pieces are counted: parameters of the whole models; operations of a step, and bytes that it saves for its
backward pass, of models of 2 and 4 blocks on the CPU under bfloat16 autocast, from which those of all blocks
follow. What GPUs make of them is assumed, see `ASSUMED`.

    python benchmarks/scale.py --json benchmarks/results/scale-paper.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import vitreg
from report import facts, parser
from vitreg.files import write_atomically

MODELS = {
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/16": "vit_large_patch16_224",
    "ViT-g/14": "vit_giant_patch14_224",
}
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(
        *shapes[:3]
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: (
        sdpa_backward_flop_count(*shapes[:4])
    ),
}
"""The fused attention of the CPU, which torch's counter does not know."""

BATCH, STEPS, GPUS = 768, 3000, (1, 8, 64)
ASSUMED: dict[str, float] = {"teraflops": 200.0, "gigabytes": 80.0, "state_bytes": 16.0, "source_bytes": 4.0}
"""What a GPU computes in a second, and its memory; bytes a parameter of the training (float32 weights, their
gradients, two numbers of AdamW) and of a source."""


def counted(name: str, depth: int, *, guided: bool) -> tuple[float, float]:
    """Return operations and saved bytes of a step with one picture."""
    model = timm.create_model(name, depth=depth, num_classes=100).train()
    reg = vitreg.attach(model) if guided else None
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    pictures = [torch.randn(batch, 3, 224, 224) for batch in (1, 2)]
    bytes_of, flops_of = [], []
    for images in pictures:  # what a second picture adds is a picture's; the rest belongs to the weights
        saved.clear()
        with (
            FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops,
            saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(images).float().square().mean()
            loss = loss if reg is None else loss + reg.penalty()
            bytes_of.append(sum(saved.values()))
            loss.backward()
        flops_of.append(flops.get_total_flops())
    return float(flops_of[1] - flops_of[0]), float(bytes_of[1] - bytes_of[0])


def pieces(name: str) -> dict[str, Any]:
    """Return parameters, blocks, and operations and bytes a picture of all blocks, without and with GTA."""
    with torch.device("meta"):
        whole = timm.create_model(name, num_classes=100)
    blocks = len(whole.blocks)
    heads, patches = whole.blocks[0].attn.num_heads, whole.patch_embed.num_patches
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in whole.parameters()),
        "reading_bytes": 4 * blocks * heads * patches,  # of a view: the class token's logits in float32
    }
    for kind in ("plain", "GTA"):
        few, more = (counted(name, depth, guided=kind == "GTA") for depth in (2, 4))
        flops, saved = (a + (b - a) / 2 * (blocks - 2) for a, b in zip(few, more, strict=True))
        found[kind] = {"flops": flops, "saved_bytes": saved}
    return found


def row(found: dict[str, Any], gpus: int) -> dict[str, float]:
    """Return gigabytes of a GPU and hours of the paper's steps, with the batch shared among `gpus`."""
    pictures = BATCH / gpus
    n = found["parameters"]
    state, source = (n * ASSUMED[kind] / 1e9 for kind in ("state_bytes", "source_bytes"))
    plain, guided = (found[kind]["saved_bytes"] * pictures / 1e9 for kind in ("plain", "GTA"))
    seconds = {k: found[k]["flops"] * pictures / ASSUMED["teraflops"] / 1e12 for k in ("plain", "GTA")}
    room = ASSUMED["gigabytes"] - state - source
    return {
        "gpus": gpus,
        "plain_gb": state + plain,
        "replicated_gb": state + source + guided,
        "sharded_gb": (state + source) / gpus + guided,
        "remembered_gb": state + guided,
        "at_once": min(pictures, max(0.0, room * 1e9 // found["GTA"]["saved_bytes"])),
        "plain_hours": seconds["plain"] * STEPS / 3600,
        "GTA_hours": seconds["GTA"] * STEPS / 3600,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Count, and return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    options = parser(__doc__).parse_args(given)
    rows = {}
    for name, model in MODELS.items():
        found = pieces(model)
        rows[name] = {**found, "on": [row(found, gpus) for gpus in GPUS]}
        print(name, json.dumps(rows[name]))
    if options.json:
        setting = facts("scale", options, given)
        report = {"setting": setting, "assumed": ASSUMED, "rows": rows}
        write_atomically(options.json, f"{json.dumps(report, indent=1)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
