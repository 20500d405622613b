"""A small setting of the benchmarks."""

from __future__ import annotations

import argparse

import torch

from training import Setting, make_setting

CPU = torch.device("cpu")


def options(**changed: object) -> argparse.Namespace:
    usual = {"device": CPU, "amp": False, "compile": None, "seconds": None, "keep_going": False}
    return argparse.Namespace(**{**usual, **changed})


def setting(
    name: str = "test_vit", *, size: int = 32, batch_size: int = 4, depth: int = 2, **changed: object
) -> Setting:
    return make_setting(name, size=size, batch_size=batch_size, depth=depth, options=options(**changed))
