"""Show what a model is and what can be read in it. It is built without weights.

MODEL is one of
  NAME, NAME.TAG           a model of timm
  hf-hub:ORG/NAME          a model of timm on the Hugging Face hub
  local-dir:FOLDER         a model of timm in a folder, with its config.json
  open_clip:NAME           a model of open_clip
  torchvision:NAME         a model of torchvision
  hf:ORG/NAME, hf:FOLDER   a model of transformers, on the hub or in a folder"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from vitreg.cli.command import Command

_EXAMPLE = """For example

  vitreg describe vit_small_patch16_224.dino
  vitreg describe open_clip:ViT-B-16
"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("model", metavar="MODEL", help="name of the model, see above")
    parser.add_argument("--json", action="store_true", help="print the fields of vitreg.Description as JSON")


def run(options: Namespace) -> int:
    """Print the description of the model."""
    from vitreg.cli.build import build  # here, as the help needs no torch
    from vitreg.description import describe

    found = describe(build(options.model))
    print(json.dumps(asdict(found), indent=2, ensure_ascii=False) if options.json else found)
    return 0


COMMAND = Command(__doc__, _EXAMPLE, add_options, run)
