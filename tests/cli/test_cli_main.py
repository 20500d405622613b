"""The command line as a whole: help, version, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import vitreg
from vitreg.cli import main, make_parser
from vitreg.cli.parser import COMMANDS, load_command


def test_alone_it_prints_the_help(run) -> None:
    ended = run("")
    assert ended.code == 0
    assert ended.out == make_parser().format_help()
    assert COMMANDS
    for name, purpose in COMMANDS.items():
        assert f" {name} " in ended.out
        assert purpose in ended.out


def test_version(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"vitreg {vitreg.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_and_an_example_that_is_parsed(name, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "86")
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"vitreg {name}" in printed.partition("For example")[2]
    assert max(map(len, printed.splitlines())) <= 84
    lines = load_command(name).example.replace("\\\n", " ").splitlines()
    examples = [line.split(">")[0].replace("'", "").split()[1:] for line in lines if "  vitreg " in line]
    assert examples
    for words in examples:
        assert make_parser().parse_args(words).command == name


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bogus", "invalid choice: 'bogus'"),
        ("describe", "required: MODEL"),
        ("describe test_vit --nothing", "unrecognized arguments: --nothing"),
        ("models --library nobody", "invalid choice: 'nobody'"),
        ("attention test_vit a.png", "required: -o"),
    ],
)
def test_a_wrong_line_is_one_message(line, said, refused) -> None:
    message = refused(line)
    assert said in message
    assert "--help`" in message
    assert message.count("\n") == 1


def test_a_mistake_in_vitreg_keeps_its_traceback(monkeypatch) -> None:
    def broken() -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr("vitreg.cli.models.support_rows", broken)
    with pytest.raises(KeyError, match="a mistake"):
        main(["models"])


def test_stopped_by_the_keyboard(run, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitreg.cli.build.build", stop)
    assert run("describe test_vit") == (130, "", "stopped\n")


@pytest.mark.slow
def test_as_a_module_into_a_pipe_that_closes() -> None:
    program = [sys.executable, "-m", "vitreg", "models"]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert ended.returncode == 1
    assert ended.stderr == ""
