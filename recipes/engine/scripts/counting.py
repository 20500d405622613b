"""Data sets counted as they lie on the disk, beside the paper's counts: the script of table 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from engine.experiment.job import Table
from engine.results.dataset_counts import Counts, count, notes, text_table
from engine.scripts.console import show_table
from engine.scripts.options import named_places
from vitreg.errors import InputError
from vitreg.files import prepare_out
from vitreg.train.basics.console import say
from vitreg.train.basics.distributed import on_main
from vitreg.train.data.archives import is_archive
from vitreg.train.data.folder import data_root, read_folder
from vitreg.train.data.official import LAYOUTS, download_archives, layout_of, unpack_official
from vitreg.train.data.official.voc import VOC, read_voc
from vitreg.wording import listed


@dataclass(frozen=True)
class CountingOptions:
    """What the script that counts data sets is told.

    Attributes:
        data: folders or archives of data sets.
        download: download what is missing into its DIR first.
        out: folder of the table (default: runs/table1).
    """

    data: Sequence[str] = ()
    download: bool = False
    out: Path = Path("runs/table1")


def count_data_sets(table: Table, console: Console, options: CountingOptions, command: str) -> None:
    """Count what `--data` names, and write the table into `--out`."""
    on_main(lambda: _count(table.name, console, options, command))


def _count(name: str, console: Console, chosen: CountingOptions, command: str) -> None:
    tell = partial(say, console)
    cache = chosen.out.resolve().parent / "cache"
    places = named_places(chosen.data)
    folders = {name: data_root(place, cache, say=tell) for name, place in places.items()}
    if not folders:
        for layout in LAYOUTS:
            tell(f"--data {layout.name}=DIR  {layout.advice}")
        raise InputError("no data: give at least one of the above, --data NAME=DIR")
    found = {name: _look(name, place, chosen.download, tell) for name, place in folders.items()}
    rows = [counts for counts in found.values() if isinstance(counts, Counts)]
    unusable = {name: error for name, error in found.items() if isinstance(error, Exception)}
    left_out = [f"{name} is left out: {error}" for name, error in unusable.items()]
    given = {name.lower() for name in folders}
    left_out += [
        f"{layout.name} is not given and left out. {layout.advice}"
        for layout in LAYOUTS
        if layout.name.lower() not in given
    ]
    below = [*notes(rows), *left_out]
    if rows:
        prepare_out(chosen.out)
        title = f"{name}: the data sets as found, beside the paper's counts"
        show_table(console, chosen.out / name, title, text_table(rows), rows, below, command)
        tell(f"written: {chosen.out / name}.md, .csv")
    else:
        tell(*below)
    if unusable:
        raise InputError(f"not usable, as said above: {listed(unusable)}")


def _look(name: str, place: Path, fetch: bool, say: Callable[[str], None]) -> Counts | Exception | None:
    """Return what lies in `place`, or why it cannot be used; None of VOC, which has no classes to count."""
    try:
        layout = layout_of(name)
        if fetch and layout is not None and not is_archive(place) and layout.find(place) is None:
            download_archives(layout, place, say=say)
        if layout is not VOC:
            return count(name, read_folder(place, name=name, say=say))
        pictures = read_voc(unpack_official(place, name, say=say))
        say(f"{name}: {len(pictures)} pictures of {VOC.title} val with masks (for table 4)")
    except (InputError, OSError) as error:
        return error
    return None
