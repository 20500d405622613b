"""The house: each file of vitreg imports from its own floor or lower ones; read from the source."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vitreg

PACKAGE = Path(vitreg.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "errors": 0,
    "registry": 0,
    "types": 0,
    "layers": 0,
    "grids": 0,
    "functional": 1,
    "hooks": 1,
    "families": 2,
    "extractors": 3,
    "penalties": 3,
    "augment": 3,
    "reader": 3,
    "parameters": 3,
    "sources": 3,
    "tracing": 3,
    "attachment": 4,
    "__init__": 5,
}
LEAVES = {"description", "measure", "views"}
"""Beside the tower: they look at the floors up to 3, and only the package itself imports them."""

GUESTS = {"integrations", "plot", "cli", "__main__"}
"""Beside the tower, for other people's training loops, pictures and the command line: they look at all floors
and the leaves, `cli` at `plot` too, and no floor imports them."""

NEVER = {
    "functional": {"families", "hooks", "registry"},
    "penalties": {"families", "extractors", "hooks", "reader", "sources", "parameters"},
    "extractors": {"penalties", "augment", "reader", "hooks", "families"},
    "reader": {"families", "penalties", "sources"},
    "sources": {"penalties", "extractors"},
}
"""What a file must not know although a floor may lie in between."""

LIBRARIES = {
    "timm": {
        "families/timm.py",
        "families/timm_variants.py",
        "families/timm_parts.py",
        "families/timm_class_attention.py",
        "families/timm_hierarchical.py",
        "augment/transmix.py",
        "cli/build.py",
        "cli/pictures.py",
        "cli/self_test.py",
        "cli/weights.py",
    },
    "open_clip": {"families/open_clip.py"},
    "torchvision": {"families/torchvision.py", "cli/build.py"},
    "transformers": {"families/transformers.py", "integrations/transformers.py"},
    "peft": {"families/peft.py"},
    "lightning": {"integrations/lightning.py"},
}
"""Which files import a library of models."""

MAX_LINES = 250


def unit(file: Path) -> str:
    """Return a file's entry in the house: its own name, or its folder's."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> list[str]:
    """Return the dotted names of all modules that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            assert node.module is not None
            if node.module == "vitreg":
                found += [f"vitreg.{alias.name}" for alias in node.names]
            else:
                found.append(node.module)
    return found


def units(file: Path) -> set[str]:
    """Return the entries of the house that a file imports."""
    return {name.split(".")[1] for name in imports(file) if name.startswith("vitreg.")}


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


by_file = pytest.mark.parametrize("file", FILES, ids=name)


def test_there_are_files() -> None:
    assert len(FILES) > 20
    assert any(units(file) for file in FILES)


def test_every_file_has_its_floor() -> None:
    found = {unit(file) for file in FILES}
    assert found <= FLOORS.keys() | LEAVES | GUESTS
    assert found >= FLOORS.keys()


@by_file
def test_imports_come_from_lower_floors(file: Path) -> None:
    own = unit(file)
    for imported in units(file):
        if own in LEAVES:
            assert imported == own or FLOORS.get(imported, 9) <= 3, f"{name(file)} imports {imported}"
        elif own in GUESTS:
            assert imported in FLOORS.keys() | LEAVES | GUESTS
        elif own == "__init__":
            assert imported in FLOORS.keys() | LEAVES
        else:
            assert imported in FLOORS, f"{name(file)} imports the leaf {imported}"
            assert FLOORS[imported] <= FLOORS[own], f"{name(file)} imports {imported}, of a higher floor"
            assert imported not in NEVER.get(own, set()), f"{name(file)} must not know {imported}"


@by_file
def test_libraries_stay_in_their_files(file: Path) -> None:
    for imported in imports(file):
        library = imported.split(".")[0]
        assert name(file) in LIBRARIES.get(library, {name(file)}), f"{name(file)} imports {imported}"


def test_the_package_imports_nothing_in_circles() -> None:
    edges = {unit(file): set() for file in FILES}
    for file in FILES:
        edges[unit(file)] |= units(file) - {unit(file)}

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            following = todo.pop()
            if following not in seen:
                seen.add(following)
                todo += edges.get(following, set())
        return seen

    assert not [own for own in edges if own in reachable(own)]


@by_file
def test_only_one_file_registers_hooks(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if name(file) == "hooks.py":
        assert "register_forward_hook" in text
        assert "register_forward_pre_hook" in text
    else:
        assert "register_forward" not in text
        assert "register_full_backward" not in text
        assert "register_module_" not in text


@by_file
def test_no_forward_is_replaced(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            assert not (isinstance(target, ast.Attribute) and target.attr in ("forward", "__class__"))


@by_file
def test_a_file_is_short_and_says_what_it_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "no docstring"


def test_every_public_name_has_a_docstring() -> None:
    assert vitreg.__all__
    assert sorted(set(vitreg.__all__)) == sorted(vitreg.__all__)
    for public in vitreg.__all__:
        if public == "__version__":
            continue
        thing = getattr(vitreg, public)
        assert thing.__doc__, public
        assert not thing.__doc__.startswith(f"{public}("), f"{public} has only a dataclass's own docstring"
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                described = value.fget if isinstance(value, property) else value
                written = inspect.isfunction(described) and described.__qualname__.startswith(public)
                if written and not member.startswith("_"):
                    assert described.__doc__, f"{public}.{member}"


def test_public_names_are_all_that_is_public() -> None:
    found = {n for n, v in vars(vitreg).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert found == set(vitreg.__all__) - {"__version__"}


def test_every_formula_names_its_source() -> None:
    for file in (*(PACKAGE / "penalties").glob("*.py"), PACKAGE / "augment" / "transmix.py"):
        if file.stem not in ("__init__", "base"):
            assert "Source:" in file.read_text(encoding="utf-8"), name(file)


def test_each_file_has_its_test() -> None:
    tests = {file.relative_to(ROOT / "tests").as_posix() for file in (ROOT / "tests").rglob("test_*.py")}
    for folder in ("functional", "penalties", "extractors", "augment"):
        for file in (PACKAGE / folder).glob("*.py"):
            if file.stem not in ("__init__", "base"):
                assert f"{folder}/test_{file.stem}.py" in tests


def test_no_path_of_somebodys_machine() -> None:
    endings = {".py", ".md", ".toml", ".yml", ".yaml", ".cfg", ".txt", ".ipynb", ".sh", ".ini", ".csv"}
    folders = ("vitreg", "recipes", "benchmarks", "docs", "tests", ".ci", ".github")
    files = [f for folder in folders for f in (ROOT / folder).rglob("*") if f.is_file()]
    files += [f for f in ROOT.iterdir() if f.is_file()]
    read = [f for f in files if f.suffix in endings or f.parent.name == ".ci"]
    assert len(read) > 30
    absolute = re.compile(r"(?<![\w.])/(?:home|root|work|Users|mnt)/")
    assert not [
        f.relative_to(ROOT).as_posix() for f in read if absolute.search(f.read_text(encoding="utf-8"))
    ]


@pytest.mark.slow
def test_libraries_that_nobody_imported_stay_out() -> None:
    program = "import sys, vitreg; vitreg.list_families(); sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
