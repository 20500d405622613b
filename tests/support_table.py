"""The support table of the docs: every model, attached to and compared with what enters its own softmax.

    python tests/support_table.py              # measures every model of vitreg/support.csv again
    python tests/support_table.py --only dino  # those whose names hold a word
    python tests/support_table.py --check      # fails if a model reads less, or less truly, than it says

Models are built without weights and cut to a few blocks and small pictures where their constructor allows it.
Every parameter is shaken, so that a bias that starts at zero is seen. `tests/softmax_recorder.py` shares no
code with the library.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import re
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

import vitreg
from small_init import small_init
from softmax_recorder import SoftmaxRecorder
from support_models import build, picture_of, whole_open_clip
from support_refused import refusals
from vitreg.cli.build import build as build_whole
from vitreg.cli.support import OUTPUTS
from vitreg.families import find_tower
from vitreg.types import Block, Query, Tower

TABLE = Path(vitreg.__file__).parent / "support.csv"
PAGE = Path(__file__).parent.parent / "docs" / "_tables" / "support.md"
TOLERANCE = 1e-4


@dataclass
class Row:
    """One model's line in the table."""

    library: str
    name: str
    family: str = ""
    attention: str = ""
    class_token: str = ""
    params: str = ""
    size: str = ""
    queries: str = ""
    outputs: str = ""
    error: str = ""
    note: str = ""

    @property
    def millions(self) -> str:
        """The parameters in millions."""
        return f"{int(self.params) / 1e6:.1f} M" if self.params else ""

    @property
    def not_read(self) -> str:
        """The outputs that cannot be read."""
        return ", ".join(name for name in OUTPUTS if name not in self.outputs.split(", "))

    @property
    def measured(self) -> float:
        """The largest difference of a logit from what enters the model's softmax."""
        return float(self.error or 0)


def measure(library: str, name: str) -> Row:
    """Return the line of one model."""
    return dataclasses.replace(_measure(library, name), **whole(library, name))


def whole(library: str, name: str) -> dict[str, str]:
    """Return the number of parameters and the picture's side of a model by name, uncut, on the meta device.

    Rows that are classes, of which a configuration makes models of any size, have neither.
    """
    if library not in ("timm", "open_clip", "torchvision"):
        return {}
    if library == "open_clip":
        model = whole_open_clip(name)
    else:
        model = build_whole(name if library == "timm" else f"{library}:{name}")
    size = model.pretrained_cfg["input_size"][1] if library == "timm" else model.image_size
    size = size[0] if isinstance(size, tuple) else size
    return {"params": str(sum(p.numel() for p in model.parameters())), "size": str(size)}


def _measure(library: str, name: str) -> Row:
    if library == "transformers" and name in refusals():
        return Row(library, name, note=refusals()[name])
    torch.manual_seed(0)
    with small_init():
        model = build(library, name).eval()
    try:
        found = vitreg.describe(model)
    except vitreg.UnsupportedModelError as refusal:
        return Row(library, name, note=_reason(str(refusal)))
    tower = find_tower(model)
    row = Row(library, name, found.model, ", ".join(found.attention), _class_token(tower))
    row.queries = "; ".join(
        _query_in_words(q, blocks, found) for q, blocks in found.queries.items() if blocks
    )
    outputs = [name for name in OUTPUTS if not found.extractors[name] and _arrives(model, tower, name)]
    row.outputs = ", ".join(outputs)
    row.note = "" if row.queries else _reason(found.extractors["attn_logits"])
    try:
        row.error = _error(model, tower, found, outputs)
    except vitreg.UnsupportedModelError as refusal:  # seen only while it runs
        row.queries, row.note = "", f"found while it runs: {str(refusal).partition('. ')[0]}."
        row.error = _error(model, tower, dataclasses.replace(found, queries={}), outputs)
    return row


def _arrives(model: nn.Module, tower: Tower, name: str) -> bool:
    """Return whether what is read is what it should be, of those whose shape only a run tells."""
    if name != "features":
        return True
    try:
        with torch.no_grad(), vitreg.trace(model, name):
            tower.module(picture_of(model))
    except vitreg.UnsupportedModelError:
        return False
    return True


def _error(model: nn.Module, tower: Tower, found: vitreg.Description, outputs: list[str]) -> str:
    """Run the model once; return the largest difference of the logits, as text, or "" if none are read."""
    images = picture_of(model)
    queries = [query for query, blocks in found.queries.items() if blocks]
    with torch.no_grad(), ExitStack() as stack:
        recorder = stack.enter_context(SoftmaxRecorder())
        spans = _spans(tower, recorder)
        traces = {query: stack.enter_context(_trace_of(model, query, found)) for query in queries}
        traces |= {name: stack.enter_context(vitreg.trace(model, name)) for name in outputs}
        tower.module(images)
    for name in outputs:
        for value in traces[name][name]:
            assert value.shape[0] == images.shape[0], f"{name}: images do not come first: {value.shape}"
            assert value.is_meta or bool(value.isfinite().all()), f"{name} is not finite"
    differences = []
    for query in queries:
        blocks = [tower.pool] if query == "pool" else [tower.blocks[i] for i in found.queries[query]]
        for value, block in zip(traces[query]["attn_logits"], blocks, strict=True):
            start, end = spans[block.name]
            differences.append(_difference(value, recorder.logits[start:end], block, query))
    return f"{max(differences):.1e}" if differences else ""


def _trace_of(
    model: nn.Module, query: Query, found: vitreg.Description
) -> AbstractContextManager[vitreg.Trace]:
    layers = "all" if query == "pool" else found.queries[query]
    return vitreg.trace(model, "attn_logits", query=query, layers=layers)


def _spans(tower: Tower, recorder: SoftmaxRecorder) -> dict[str, tuple[int, int]]:
    """Return, filled while the model runs, which recorded softmaxes belong to which block."""
    spans: dict[str, tuple[int, int]] = {}
    for block in (*tower.blocks, *([tower.pool] if tower.pool else [])):

        def enter(*_: object, name: str = block.name) -> None:
            spans[name] = (len(recorder.logits), -1)

        def leave(*_: object, name: str = block.name) -> None:
            spans[name] = (spans[name][0], len(recorder.logits))

        is_called = not isinstance(block.module, nn.ModuleList)
        place = block.module if is_called or block.attention is None else block.attention
        place.register_forward_pre_hook(enter)
        place.register_forward_hook(leave)
    return spans


def _difference(ours: Tensor, recorded: list[Tensor], block: Block, query: Query) -> float:
    """Return how far `ours` is from the query's row in the nearest of the block's own softmaxes."""
    candidates = list(recorded)
    for one, two in itertools.pairwise(recorded):
        if one.shape == two.shape:  # two maps a head, or two attentions a block
            candidates += [torch.cat([one, two], 1), torch.stack([one, two], 2).flatten(1, 2)]
    prefix = block.num_prefix_tokens
    best = float("inf")
    for whole in candidates:
        row = whole[:, :, prefix:].mean(2) if query == "mean" else whole[:, :, 0]
        row = row[..., prefix:]
        if row.shape == ours.shape:
            best = min(best, float((row - ours).abs().max()))
    return best


def _class_token(tower: Tower) -> str:
    having = [i for i, block in enumerate(tower.blocks) if block.has_class_token]
    if not having:
        return "no"
    return "yes" if len(having) == len(tower.blocks) else "last blocks"


def _query_in_words(query: Query, blocks: tuple[int, ...], found: vitreg.Description) -> str:
    if query == "pool" or len(blocks) == found.num_blocks:
        return query
    return f"{query} (some blocks)"


def _reason(message: str) -> str:
    """Return the part of an error's message that names what was found."""
    found = re.search(r"found .*?\.(?= |$)", message)
    return found[0] if found else message


def read_table() -> list[Row]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Row(**line) for line in csv.DictReader(file)]


def write_table(rows: list[Row]) -> None:
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    PAGE.write_text(f"{summary(rows)}\n{page(rows)}", encoding="utf-8")


def page(rows: list[Row]) -> str:
    """Return the tables of the docs, a section a library: a pure function of the rows."""
    lines: list[str] = []
    for library in dict.fromkeys(row.library for row in rows):
        ours = [row for row in rows if row.library == library]
        read = [row for row in ours if row.queries]
        outputs = [row for row in ours if row.outputs and not row.queries]
        refused = [row for row in ours if not row.outputs]
        lines += ["", f"## {library}", ""]
        lines += ["| model | parameters | pixels | class token | whose attention | error | not read |"]
        lines += ["|---|--:|--:|---|---|--:|---|"]
        for r in read:
            cells = (f"`{r.name}`", r.millions, r.size, r.class_token, r.queries, r.error, r.not_read)
            lines.append(f"| {' | '.join(cells)} |")
        if outputs:
            lines += ["", f"### {library}: outputs only", ""]
            lines += ["| model | class | attention logits | not read |", "|---|---|---|---|"]
            lines += [f"| `{r.name}` | {r.family} | {r.note} | {r.not_read} |" for r in outputs]
        if refused:
            lines += ["", f"### {library}: refused", "", "| model | why |", "|---|---|"]
            lines += [f"| `{r.name}` | {r.note} |" for r in refused]
    return "\n".join(lines).strip() + "\n"


def summary(rows: list[Row]) -> str:
    """Return a table of how many models of each library can be read."""
    lines = ["| library | models | attention | outputs | largest error |", "|---|--:|--:|--:|--:|"]
    for library in dict.fromkeys(row.library for row in rows):
        ours = [row for row in rows if row.library == library]
        attention, outputs = sum(bool(r.queries) for r in ours), sum(bool(r.outputs) for r in ours)
        worst = max(r.measured for r in ours)
        lines.append(f"| {library} | {len(ours)} | {attention} | {outputs} | {worst:.1e} |")
    return "\n".join(lines) + "\n"


def regressions(before: Row, now: Row) -> Iterator[str]:
    """Yield what a model reads less, or less truly, than before."""
    for column in ("family", "class_token", "queries", "outputs"):
        if getattr(before, column) != getattr(now, column):
            yield f"{now.name}: {column} was {getattr(before, column)!r}, is {getattr(now, column)!r}"
    if not now.measured < TOLERANCE:
        yield f"{now.name}: differs by {now.error} from what enters its softmax"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--check", action="store_true", help="compare with the table and leave it as it is")
    options = parser.parse_args()
    rows, problems = read_table(), []
    for index, before in enumerate(rows):
        if options.only not in f"{before.library} {before.name}":
            continue
        start = time.perf_counter()
        try:
            now = measure(before.library, before.name)
        except Exception as error:  # go on with the others; the end says what failed
            problems.append(f"{before.name}: {type(error).__name__}: {error}")
            continue
        problems += regressions(before, now) if options.check else []
        rows[index] = now
        print(f"{time.perf_counter() - start:5.1f} s  {now}", flush=True)
    if not options.check:
        write_table(rows)
    print("\n".join(problems), file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
