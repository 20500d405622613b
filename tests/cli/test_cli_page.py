"""The page on the command line has every command, and what it shows is what is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from _macros import command_line
from vitreg.cli.parser import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cli.md").read_text(encoding="utf-8")


def test_every_command_has_a_section_and_its_help() -> None:
    for name in COMMANDS:
        assert f"\n## {name}\n" in PAGE
        assert f'{{{{ command_help("{name}") }}}}' in PAGE
        text = command_line.command_help(name)
        assert text.startswith(f"``` {{.text .drawing}}\nusage: vitreg {name}")
        assert max(map(len, text.splitlines())) <= command_line.WIDTH
    assert command_line.command_help("vitreg").startswith("``` {.text .drawing}\nusage: vitreg [-h]")


def test_every_output_can_be_made() -> None:
    shown = re.findall(r'{{ command_output\("(.*?)"\) }}', PAGE)
    assert shown
    for line in shown:
        assert command_line.command_output(line).startswith(
            f"```sh\nvitreg {line}\n```\n\n``` {{.text .drawing}}\n"
        )


def test_a_command_that_fails_has_no_output() -> None:
    with pytest.raises(RuntimeError, match="ended with 2"):
        command_line.command_output("describe resnet18")
