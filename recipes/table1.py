"""Table 1: the data sets as they lie on the disk, beside the paper's counts.

    python recipes/table1.py                                      (says what to put where)
    python recipes/table1.py --data CUB=DIR Cars=DIR Pet=DIR      (official layouts, or your own)
    python recipes/table1.py --data CUB=CUB_200_2011.tgz          (unpacked beside the archive, once)
    python recipes/table1.py --data Pet=DIR --download            (into DIR: CUB, Aircraft, Pet, VOC)

Pictures are counted, not opened. PASCAL VOC, which table 4 needs, is looked at, but is no row.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from engine.results.dataset_counts import Counts, as_csv, as_markdown, as_rich, count, notes
from engine.scripts.options import named_places
from vitreg.errors import InputError
from vitreg.files import prepare_out, write_atomically
from vitreg.train.basics.console import exit_code
from vitreg.train.basics.distributed import on_main
from vitreg.train.data.archives import is_archive
from vitreg.train.data.folder import read_folder
from vitreg.train.data.official import LAYOUTS, layout_of, unpacked
from vitreg.train.data.official.download import download_archives
from vitreg.train.data.official.voc import VOC, read_voc
from vitreg.train.folder_task import data_root
from vitreg.wording import listed


def main(argv: Sequence[str] | None = None) -> int:
    """Count what `--data` names, write the table into `--out`, and return the exit code."""
    options = argparse.ArgumentParser(
        "table1", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", nargs="+", metavar="NAME=DIR", default=[], help="folders or archives")
    options.add_argument("--download", action="store_true", help="first fetch what is missing into its DIR")
    options.add_argument("--out", type=Path, default=Path("runs/table1"), help="folder of the table")
    chosen = options.parse_args(argv)

    def table(console: Console) -> None:
        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        cache = chosen.out.resolve().parent / "cache"
        places = named_places(chosen.data)
        folders = {name: data_root(place, cache, say=say) for name, place in places.items()}
        if not folders:
            for layout in LAYOUTS:
                say(f"--data {layout.name}=DIR  {layout.advice}")
            raise InputError("no data: give at least one of the above, --data NAME=DIR")
        found = {name: look(name, place, chosen.download, say) for name, place in folders.items()}
        rows = [counts for counts in found.values() if isinstance(counts, Counts)]
        unusable = {name: error for name, error in found.items() if isinstance(error, Exception)}
        left_out = [f"{name} is left out: {error}" for name, error in unusable.items()]
        given = {name.lower() for name in folders}
        left_out += [
            f"{layout.name} is not given and left out. {layout.advice}"
            for layout in LAYOUTS
            if layout.name.lower() not in given
        ]
        if rows:
            prepare_out(chosen.out)
            write_atomically(chosen.out / "table1.md", as_markdown(rows, left_out))
            write_atomically(chosen.out / "table1.csv", as_csv(rows))
            console.print(as_rich(rows))
        for text in (*notes(rows), *left_out):
            say(text)
        if rows:
            say(f"written: {chosen.out / 'table1'}.md, .csv")
        if unusable:
            raise InputError(f"not usable, as said above: {listed(unusable)}")

    return exit_code(lambda console: on_main(lambda: table(console)))


def look(name: str, place: Path, fetch: bool, say: Callable[[str], None]) -> Counts | Exception | None:
    """Return what lies in `place`, or why it cannot be used; None of VOC, which has no classes to count."""
    try:
        layout = layout_of(name)
        if fetch and layout is not None and not is_archive(place) and layout.find(place) is None:
            download_archives(layout, place, say=say)
        if layout is not VOC:
            return count(name, read_folder(place, name=name, say=say))
        pictures = read_voc(unpacked(place, name, say=say))
        say(f"{name}: {len(pictures)} pictures of {VOC.title} val with masks (for table 4)")
    except (InputError, OSError) as error:
        return error
    return None


if __name__ == "__main__":
    sys.exit(main())
