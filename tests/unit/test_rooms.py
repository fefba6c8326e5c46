# SPDX-License-Identifier: GPL-2.0-only
"""Who may import whom, and what nobody may do: read off the syntax tree of every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import wgtrace
from wgtrace.loader.source import bpf_directory

PACKAGE: Final = Path(wgtrace.__file__).parent
MODULES: Final = sorted(PACKAGE.rglob("*.py"))
# Where a foreign library may be imported: folders end in a slash.
FENCES: Final = {
    "bcc": ("loader/compiler.py",),
    "pyroute2": ("state/", "lab/topology.py"),
    "rich": ("outputs/",),
    "click": ("cli.py", "commands/", "lab/demo.py"),
}
# What of ours a room may import: rooms, and modules beside them.
ALLOWED: Final = {
    "events": {"events", "errors"},
    "probes": {"probes", "events", "errors"},
    "state": {"state", "events", "errors"},
    "loader": {"loader", "probes", "events", "errors"},
    "diagnosis": {"diagnosis", "events", "probes", "state", "report"},
    "recording": {
        "recording",
        "events",
        "probes",
        "state",
        "diagnosis",
        "source",
        "pipeline",
        "report",
        "errors",
    },
    "evidence": {
        "evidence",
        "recording",
        "events",
        "probes",
        "state",
        "diagnosis",
        "outputs",
        "source",
        "pipeline",
        "report",
        "errors",
    },
    "merge": {"merge", "recording", "events", "state", "diagnosis", "errors"},
    "outputs": {"outputs", "merge", "events", "probes", "state", "diagnosis", "report", "errors"},
    "selftest": {"selftest", "lab", "loader", "probes", "events", "errors", "report", "__version__"},
}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            yield from (".".join(filter(None, (*package, node.module, alias.name))) for alias in node.names)


def place(path: Path) -> str:
    """A module's path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


def room(path: Path) -> str:
    """The room that a module is in, or its own name if it is in none."""
    return place(path).split("/")[0].removesuffix(".py")


def is_in(path: Path, places: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or in a folder of these."""
    return any(place(path).startswith(p) if p.endswith("/") else place(path) == p for p in places)


@pytest.mark.parametrize("library", FENCES)
def test_a_library_stays_in_its_room(library: str) -> None:
    """BCC is known by the compiler only, pyroute2 by state, rich by outputs, click by the commands."""
    importers = [p for p in MODULES if any(name.split(".")[0] == library for name in imports(p))]

    assert [place(path) for path in importers if not is_in(path, FENCES[library])] == []


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_knows_only_the_rooms_below(name: str) -> None:
    """Each room imports of ours what it may; events, the lowest, nothing but itself and the errors."""
    modules = [path for path in MODULES if room(path) == name]
    ours = {
        (place(path), imported.split(".")[1])
        for path in modules
        for imported in imports(path)
        if imported.startswith("wgtrace.")
    }

    assert modules
    assert {(path, target) for path, target in ours if target not in ALLOWED[name]} == set()


@pytest.mark.parametrize("name", ["events", "probes", "diagnosis"])
def test_a_pure_room_imports_no_more_than_python_has(name: str) -> None:
    """Events, probes and rules need no library: they can be read and tested anywhere."""
    foreign = {
        imported.split(".")[0] for path in MODULES if room(path) == name for imported in imports(path)
    } & {"bcc", "pyroute2", "rich", "click"}

    assert foreign == set()


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_no_module_asks_for_the_kernels_version(path: Path) -> None:
    """The kernel is asked what it has; its release is printed, and compared nowhere."""
    compared = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and re.search(r"\b(uname|release|kernel_version|LINUX_VERSION_CODE)\b", ast.unparse(node))
    ]

    assert compared == []


@pytest.mark.parametrize("path", sorted(bpf_directory().glob("*.[ch]")), ids=lambda path: path.name)
def test_no_program_asks_for_the_kernels_version(path: Path) -> None:
    """Nothing in bpf/ is compiled in or out by a version number."""
    assert not re.search(r"LINUX_VERSION_CODE|KERNEL_VERSION", path.read_text())


@pytest.mark.parametrize("path", [*MODULES, *sorted(bpf_directory().glob("*.[ch]"))], ids=lambda p: p.name)
def test_every_file_names_its_licence(path: Path) -> None:
    """The first line of each file is its SPDX line."""
    with path.open() as file:
        assert re.fullmatch(r"(#|//|/\*) SPDX-License-Identifier: GPL-2.0-only( \*/)?\n", file.readline())
