"""The documentation does what it says: its code runs, its site builds, its commands are those of CI."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from types import ModuleType

import open_clip  # noqa: F401  the pages use it, so its families belong to what is registered
import pytest
import torch

import vitreg
import vitreg.plot
import vitreg.train
from _macros.cards import names_on
from vitreg.extractors import extractors
from vitreg.families import families, towers
from vitreg.families.registries import load
from vitreg.penalties import penalties
from vitreg.projections import projections

ROOT = Path(__file__).parent.parent
API = ROOT / "docs" / "api"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)
"""A block of Python, with what it prints if a block of text follows at once."""

WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text()) and page.name != "gallery.md"]
"""The code of the gallery needs trained models and is run by test_gallery.py."""


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_blocks_are_found() -> None:
    assert {"docs/tour.md", "docs/howto/extend.md"} <= {page_name(page) for page in WITH_CODE}


def make_result() -> None:
    """Write what `vitreg finetune` leaves behind for prediction, into a folder `result`, and a picture."""
    import timm
    from PIL import Image

    from vitreg.train.models.stored import MODEL_FILE, Card, model_file, timm_config

    name, classes = "deit_tiny_patch16_224", ("a", "b", "c")
    card = Card(name, {"img_size": 224}, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), classes)
    model = timm.create_model(name, num_classes=len(classes), img_size=224)
    Image.new("RGB", (300, 200)).save("holiday.jpg")
    Path("result").mkdir()
    Path("result", MODEL_FILE).write_bytes(model_file(model, card))
    Path("result", "config.json").write_text(timm_config(card))


PREPARED = {"use-your-model.md": make_result}
"""What has to lie in the folder in which a page's code runs; the weights of these pages are local files."""


WARN = {"frameworks.md": [pytest.mark.filterwarnings("ignore::FutureWarning")]}
"""Pages that use a library that torch warns of (Lightning)."""


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=WARN.get(page.name, ())) for page in WITH_CODE], ids=page_name
)
def test_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load()  # before the registries are copied, or the page would take the libraries' families with it
    # What a page registers stays on the page.
    for registry in (extractors, families, penalties, projections, towers):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look it up
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    if page.name in PREPARED:
        PREPARED[page.name]()
    for block in BLOCK.finditer(text):
        code = block["code"]
        if page.name not in PREPARED:
            code = code.replace("pretrained=True", "pretrained=False")  # no network in a test
        first_line = text[: block.start("code")].count("\n")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * first_line + code, str(page), "exec"), module.__dict__)
        if block["output"] is not None:
            assert printed.getvalue() == block["output"], f"{page_name(page)}, line {first_line}"


def test_the_loop_of_the_readme_runs_before_and_after() -> None:
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for sign, takes_penalty in (("-", False), ("+", True)):
        lines = [line[1:] for line in diff.splitlines() if not line or line[0] in (" ", sign)]
        code = "\n".join(lines).replace("pretrained=True", "pretrained=False")  # no network in a test
        loader = [(torch.randn(2, 3, 224, 224), torch.tensor([3, 5]))]
        space = {"loader": loader}
        exec(compile(code, "README.md", "exec"), space)
        assert ("reg" in space) == takes_penalty
        assert torch.isfinite(space["loss"])  # type: ignore[arg-type]


def names_shown(file: str) -> list[str]:
    """Return the names that an API page shows, in order."""
    return re.findall(r"`(\w+)`", names_on(file))


def test_every_name_has_one_place_in_the_api() -> None:
    overview = (API / "index.md").read_text()
    pages = re.findall(r'^\| \[.*?\]\((\w+\.md)\) \| \{\{ names_on\("\1"\) \}\} \|$', overview, re.MULTILINE)
    documented = [name for file in pages for name in names_shown(file)]
    assert sorted(documented) == sorted(set(vitreg.__all__) - {"__version__"})
    assert "`vitreg.__version__`" in overview


@pytest.mark.parametrize("module", [vitreg.functional, vitreg.measure, vitreg.plot])
def test_every_function_of_a_module_has_a_place_in_the_api(module: ModuleType) -> None:
    shown = names_shown(f"{module.__name__.split('.')[1]}.md")
    assert sorted(shown) == sorted(module.__all__)
    assert all(getattr(module, name).__doc__ for name in shown)


def test_every_name_of_the_trainer_has_a_place_in_the_api() -> None:
    assert sorted(names_shown("trainer.md")) == sorted(vitreg.train.__all__)


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = re.findall(r'^pip install -e "\.\[\w+\]" && .*$', readme, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert f"run '{command}'" in ci


def test_the_house_has_every_file() -> None:
    drawing = (ROOT / "CONTRIBUTING.md").read_text().partition("## The house")[2].split("```")[1]
    package = Path(vitreg.__file__).parent
    units = {file.relative_to(package).parts[0] for file in package.rglob("*.py")}
    assert {unit for unit in units if not re.search(rf"\b{re.escape(unit)}", drawing)} == set()
