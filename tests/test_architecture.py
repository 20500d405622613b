"""The house: each file of vitreg imports from its own floor or lower ones; read from the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vitreg

PACKAGE = Path(vitreg.__file__).parent
ROOT = PACKAGE.parent
ENGINE = ROOT / "recipes" / "engine"
FILES = sorted(PACKAGE.rglob("*.py"))
ALL = FILES + sorted(ENGINE.rglob("*.py"))

FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "vitreg.errors",
        "vitreg.wording",
        "vitreg.registry",
        "vitreg.types",
        "vitreg.layers",
        "vitreg.grids",
        "vitreg.names",
        "vitreg.copies",
        "vitreg.removable",
    ),
    ("vitreg.functional", "vitreg.hooks", "vitreg.files", "vitreg.pictures", "vitreg.weights"),
    ("vitreg.families",),
    ("vitreg.extractors", "vitreg.penalties", "vitreg.projections", "vitreg.augment", "vitreg.reader"),
    ("vitreg.tracing", "vitreg.sources", "vitreg.parameters"),
    ("vitreg.attachment",),
    ("vitreg.description", "vitreg.linear_probe", "vitreg.measure", "vitreg.views"),
    ("vitreg.__init__",),
    ("vitreg.plot", "vitreg.integrations"),
    ("vitreg.train.basics",),
    ("vitreg.train.data", "vitreg.train.models"),
    ("vitreg.train.training",),
    ("vitreg.train.runs",),
    ("vitreg.train",),
    ("vitreg.cli", "vitreg.__main__"),
    ("engine.data", "engine.demo", "engine"),
    ("engine.experiment",),
    ("engine.results",),
    ("engine.scripts",),
)
"""The rooms of both packages, the lowest floor first: a file imports from its own floor and lower ones."""

NEVER = {
    "vitreg.functional": {"vitreg.families", "vitreg.hooks", "vitreg.registry"},
    "vitreg.penalties": {
        "vitreg.families",
        "vitreg.extractors",
        "vitreg.hooks",
        "vitreg.reader",
        "vitreg.parameters",
    },
    "vitreg.projections": {"vitreg.families", "vitreg.extractors", "vitreg.penalties", "vitreg.hooks"},
    "vitreg.extractors": {
        "vitreg.penalties",
        "vitreg.augment",
        "vitreg.reader",
        "vitreg.hooks",
        "vitreg.families",
    },
    "vitreg.reader": {"vitreg.families", "vitreg.penalties", "vitreg.sources"},
    "vitreg.sources": {"vitreg.penalties", "vitreg.extractors"},
}
"""What a room must not know although it may lie on a lower floor."""

MAX_FILES = 15
"""How many files a folder holds, beside `__init__`."""

LIBRARIES = {
    "timm": {
        "families/timm.py",
        "families/timm_variants.py",
        "families/timm_parts.py",
        "families/timm_class_attention.py",
        "families/timm_hierarchical.py",
        "augment/transmix.py",
        "cli/attention.py",
        "cli/build.py",
        "cli/self_test.py",
        "cli/weights.py",
        "weights/content.py",
    },
    "open_clip": {"families/open_clip.py"},
    "torchvision": {"families/torchvision.py", "cli/build.py"},
    "transformers": {"families/transformers.py", "integrations/transformers.py"},
    "peft": {"families/peft.py"},
    "lightning": {"integrations/lightning.py"},
}
"""Which files import a library of models."""

MAX_LINES = 250


def module(file: Path) -> str:
    """Return a file's dotted name, with `__init__` at the end of a package's."""
    base = ENGINE.parent if file.is_relative_to(ENGINE) else ROOT
    return ".".join(file.relative_to(base).with_suffix("").parts)


def room(dotted: str) -> str:
    """Return the entry of the house that a module is in: the longest of its name's beginnings."""
    if dotted == "vitreg":
        return "vitreg.__init__"
    parts = dotted.split(".")
    known = {entry for floor in FLOORS for entry in floor}
    return next(
        (entry for end in range(len(parts), 0, -1) if (entry := ".".join(parts[:end])) in known), dotted
    )


FLOOR_OF = {entry: floor for floor, entries in enumerate(FLOORS) for entry in entries}
MODULES = {module(file): file for file in ALL}


def imports(file: Path) -> list[str]:
    """Return the dotted names of all modules that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [
                name if name in MODULES or f"{name}.__init__" in MODULES else node.module for name in names
            ]
    return found


def own_imports(file: Path) -> set[str]:
    """Return what a file imports of the two packages."""
    return {name for name in imports(file) if name.split(".")[0] in ("vitreg", "engine")}


def name(file: Path) -> str:
    return file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else ENGINE.parent).as_posix()


by_file = pytest.mark.parametrize("file", FILES, ids=name)
in_both = pytest.mark.parametrize("file", ALL, ids=name)


def test_there_are_files() -> None:
    assert len(FILES) > 20
    assert len(ALL) > len(FILES) + 20
    assert all(any(own_imports(file) for file in files) for files in (FILES, ALL[len(FILES) :]))


def test_every_file_has_its_floor() -> None:
    assert {room(dotted) for dotted in MODULES} == FLOOR_OF.keys()


@in_both
def test_imports_come_from_lower_floors(file: Path) -> None:
    own = room(module(file))
    for imported in sorted(own_imports(file)):
        entry = room(imported)
        assert FLOOR_OF[entry] <= FLOOR_OF[own], f"{name(file)} imports {imported}, of a higher floor"
        assert entry not in NEVER.get(own, set()), f"{name(file)} must not know {imported}"


@pytest.mark.parametrize("package", [PACKAGE, ENGINE], ids=["vitreg", "engine"])
def test_a_folder_holds_few_files(package: Path) -> None:
    folders = {file.parent for file in package.rglob("*.py")}
    counts = {folder: len([f for f in folder.glob("*.py") if f.name != "__init__.py"]) for folder in folders}
    assert counts
    assert not {folder: count for folder, count in counts.items() if count > MAX_FILES}


@by_file
def test_libraries_stay_in_their_files(file: Path) -> None:
    for imported in imports(file):
        library = imported.split(".")[0]
        is_free = file.relative_to(PACKAGE).parts[0] == "train"
        assert is_free or name(file) in LIBRARIES.get(library, {name(file)}), (
            f"{name(file)} imports {imported}"
        )


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Return the nodes from which one comes back to themselves."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            following = todo.pop()
            if following not in seen:
                seen.add(following)
                todo += edges.get(following, set())
        return seen

    return [own for own in edges if own in reachable(own)]


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def test_no_file_imports_itself_by_way_of_others() -> None:
    packages = {file.parent for file in ALL}
    assert packages
    names = {dotted: dotted.removesuffix(".__init__") for dotted in MODULES}
    edges = {names[module(file)]: own_imports(file) - {names[module(file)]} for file in ALL}
    assert not circles(edges)


def test_no_room_imports_itself_by_way_of_others() -> None:
    edges: dict[str, set[str]] = {entry: set() for entry in FLOOR_OF}
    for dotted, file in MODULES.items():
        edges[room(dotted)] |= {room(imported) for imported in own_imports(file)} - {room(dotted)}
    assert not circles(edges)


def test_the_core_needs_no_trainer() -> None:
    core = [
        file for file in FILES if file.relative_to(PACKAGE).parts[0] not in ("train", "cli", "__main__.py")
    ]
    assert len(core) > 50
    for file in core:
        above = [
            imported for imported in imports(file) if imported.startswith(("vitreg.train", "vitreg.cli"))
        ]
        assert not above, name(file)


@by_file
def test_only_one_file_registers_hooks(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if name(file) == "hooks.py":
        assert "register_forward_hook" in text
        assert "register_forward_pre_hook" in text
    else:
        assert "register_forward" not in text
        assert "register_step" not in text
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


def test_every_formula_names_its_source() -> None:
    folders = (PACKAGE / "penalties", PACKAGE / "projections")
    files = [file for folder in folders for file in folder.glob("*.py")]
    for file in (*files, PACKAGE / "augment" / "transmix.py"):
        if file.stem not in ("__init__", "base"):
            assert "Source:" in file.read_text(encoding="utf-8"), name(file)


def test_each_file_has_its_test() -> None:
    tests = {file.relative_to(ROOT / "tests").as_posix() for file in (ROOT / "tests").rglob("test_*.py")}
    for folder in ("functional", "penalties", "projections", "extractors", "augment"):
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
    program = (
        "import sys, vitreg; vitreg.attach, vitreg.project; assert 'torch._dynamo' not in sys.modules\n"
        "vitreg.list_families(); assert 'open_clip' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
