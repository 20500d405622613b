"""The public names of vitreg: documented, no others, and where type checkers see them."""

import ast
import inspect
from pathlib import Path

import vitreg

PACKAGE = Path(vitreg.__file__).parent


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
    found = {n for n in dir(vitreg) if not inspect.ismodule(getattr(vitreg, n))}
    assert found == set(vitreg.__all__)


def test_public_names_are_where_type_checkers_see_them() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (seen,) = (node for node in tree.body if isinstance(node, ast.If))  # if TYPE_CHECKING
    places = {
        alias.name: node.module
        for node in seen.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module != "vitreg"
    }
    assert places == {name: module for module, names in vitreg._PLACES.items() for name in names}
    assert {*places, "__version__"} == set(vitreg.__all__)
