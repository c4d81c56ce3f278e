"""The house rules that can be read off the source: which room may use which, and that everything keeps its size."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.plugin_markers import SQL_ROOMS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tallystick"

ORDER = (
    "kernel",
    "database",
    "ledger",
    "customers",
    "pricing",
    "metering",
    "billing",
    "outbox",
    "notices",
    "gateway",
    "access",
    "operations",
    "jobs",
    "settings",
    "service",
    "web",
    "commands",
    "demo",
    "cli",
)
"""Each part may import itself and what stands before it; nothing else of ours."""

MODULE_LINES = 500
FUNCTION_LINES = 70
README_LINES = 60

MODULES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))


def name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def part_of(module: Path) -> str:
    """``metering/sources/csv.py`` belongs to ``metering``, ``cli.py`` is its own part."""
    return module.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def parse(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), filename=str(module))


def imports(module: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and dotted name of each import, split; those inside functions and ``if TYPE_CHECKING`` too."""
    for node in ast.walk(parse(module)):
        match node:
            case ast.Import(names=names):
                targets = [alias.name for alias in names]
            case ast.ImportFrom(module="tallystick", names=names):
                targets = [f"tallystick.{alias.name}" for alias in names]
            case ast.ImportFrom(module=str(target)):
                targets = [target]
            case _:
                continue
        yield from ((node.lineno, target.split(".")) for target in targets)


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) != "__init__"], ids=name)
def test_imports_point_downwards(module: Path) -> None:
    part = part_of(module)
    assert part in ORDER, f"{part} has no place in the order of the rooms"
    above = set(ORDER[ORDER.index(part) + 1 :])
    wrong = [".".join(path) for _, path in imports(module) if path[0] == "tallystick" and above & set(path[1:2])]
    assert not wrong, f"{name(module)} imports what stands above {part}: {wrong}"


def test_everything_imported_is_locked_for_running() -> None:
    """The development environment has more in it; what runs must not come to need that."""
    lock = (ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    distributions = packages_distributions()
    for module in MODULES:
        for line, (package, *_) in imports(module):
            if package not in sys.stdlib_module_names and package != "tallystick":
                owners = {re.sub(r"[-_.]+", "-", owner).lower() for owner in distributions.get(package, ())}
                assert owners & locked, f"{name(module)}:{line} imports {package}, which runtime.lock lacks"


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_modules_and_functions_stay_small(module: Path) -> None:
    lines = len(module.read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES, f"{name(module)} has {lines} lines"
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(parse(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }
    assert not long, f"{name(module)} has functions that do not fit a screen: {long}"


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_nothing_is_turned_into_a_binary_float(module: Path) -> None:
    calls = [
        node.lineno
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float"
    ]
    assert not calls, f"{name(module)} calls float() in lines {calls}; money and quantities are exact"


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) not in SQL_ROOMS], ids=name)
def test_only_rooms_that_have_sql_run_any(module: Path) -> None:
    """``make test-postgres15`` runs the tests of those rooms alone."""
    calls = [
        node.lineno
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("execute", "executemany")
    ]
    assert not calls, f"{name(module)} runs SQL in lines {calls}"


@pytest.mark.parametrize("room", ROOMS, ids=name)
def test_every_room_says_on_a_page_what_it_owns(room: Path) -> None:
    readme = room / "README.md"
    assert readme.is_file(), f"{name(room)} has no README.md"
    lines = len(readme.read_text(encoding="utf-8").splitlines())
    assert lines <= README_LINES, f"{name(readme)} has {lines} lines, a page has {README_LINES}"


def test_the_map_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    missing = [name(room) for room in ROOMS if f"{name(room)}/" not in text]
    assert not missing, f"ARCHITECTURE.md does not name {missing}"
