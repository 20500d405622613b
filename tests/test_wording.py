"""Names where they are written: a terminal, a spreadsheet, Markdown."""

from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from vitreg.train.basics.console import HarmlessConsole
from vitreg.train.basics.tables import TextTable, csv_of
from vitreg.wording import cell, first_line, in_markdown, plain

EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egpj\nerror: none"


def test_a_name_is_shown_and_not_obeyed() -> None:
    shown = plain(EVIL)
    assert shown == r"\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egpj\nerror: none"
    assert plain("naïve λ ×") == "naïve λ ×"
    assert plain(b"caf\xe9".decode(errors="surrogateescape")) == r"caf\xe9"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1"])
def test_a_cell_is_no_formula(name: str) -> None:
    assert not cell(name).lstrip().startswith(("=", "+", "-", "@"))


def test_tables_have_harmless_cells_and_their_numbers() -> None:
    lines = [{"name": name, "gain": gain, "nothing": None} for name, gain in (("=x", -1.5), (EVIL, 2.0))]
    found = list(csv.reader(io.StringIO(csv_of(lines))))
    assert found[1] == ["'=x", "-1.5", ""]
    assert len(found) == 3


def test_markdown_has_no_links_pictures_or_html_of_a_name() -> None:
    name = "[a](javascript:x) ![b](c) <script>|`*_"
    shown = in_markdown(name)
    assert shown == r"\[a\](javascript:x) !\[b\](c) &lt;script&gt;\|\`\*\_"
    assert in_markdown("vit_small GTA+TransMix 15 %") == "vit_small GTA+TransMix 15 %"
    table = TextTable({"data": [name], "gain": ["+1.0"]}, {"data"}).markdown(f"of {name}", [name])
    assert table.splitlines()[4] == f"| {shown} | +1.0 |"
    assert "](" not in table.replace(r"](", "](", 0).replace(r"]\(", "").replace(r"\](", "")
    assert "<script" not in table


def test_what_another_library_advises_is_not_passed_on() -> None:
    assert first_line(ValueError("set weights_only=False")) == "ValueError"
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_read_enough_ends_nothing() -> None:
    console = HarmlessConsole(file=Closed())
    console.print("one")
    console.print("two")
    assert console.quiet
    with pytest.raises(SystemExit):
        Console(file=Closed()).print("as rich does")


def test_the_console_shows_names() -> None:
    file = io.StringIO()
    HarmlessConsole(file=file, width=200).print(EVIL, markup=False, highlight=False)
    assert (
        file.getvalue()
        == EVIL.split("\n")[0].translate({0x1B: r"\x1b", 0x07: r"\x07", 0x9B: r"\x9b", 0x202E: r"\u202e"})
        + "\nerror: none\n"
    )
