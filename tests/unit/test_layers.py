"""The library's packages as layers: what may be built on what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "shared" / "nsps"
CONNECTORS = ROOT / "functions" / "connectors"

LAYERS = (
    "domain",  # rules: no I/O, no clock of their own
    "runtime",  # settings, secrets, logs, traces, redaction
    "transport",  # calls that end in time
    "cloud",  # Firestore, Pub/Sub, tokens
    "portabilling",
    "espf",
    "delivery",  # the way of one event to one system
    "connector",  # the kit for those who write connectors
    "console",
    "flows",  # what the functions' main.py call
)
"""Each package may import from those before it."""

IMPURE = {"time", "socket", "os", "random", "requests", "google", "flask", "threading"}
"""What a pure rule has no use for (it is given the time)."""


def test_every_package_is_a_layer_and_nothing_lies_beside_them() -> None:
    there = {path.name for path in LIBRARY.iterdir() if path.name != "__pycache__"}
    assert there == {*LAYERS, "__init__.py", "py.typed"}


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_is_built_on_those_before_it(package: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(package) + 1])
    above = sorted(
        f"{file.name}: {name}" for file, name in _ours(LIBRARY / package) if name not in allowed
    )
    assert not above, f"nsps.{package} may not import from above: {above}"


def test_a_connector_is_built_on_the_kit_and_what_is_below() -> None:
    above = set(LAYERS[LAYERS.index("connector") + 1 :])
    found = _ours(CONNECTORS)
    wrong = sorted(
        f"{file.relative_to(CONNECTORS)}: {name}" for file, name in found if name in above
    )
    assert not wrong, f"a connector may not import from above the kit: {wrong}"


def test_a_rule_is_pure() -> None:
    found = {name.split(".")[0] for _, name in _imports(LIBRARY / "domain")} & IMPURE
    assert not found, f"nsps.domain holds rules, and imports {sorted(found)}"


def _ours(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, package) for each import of the library by a file of the folder."""
    for file, name in _imports(folder):
        library, _, inner = name.partition(".")
        if library == "nsps":
            yield file, inner.split(".")[0]


def _imports(folder: Path) -> Iterator[tuple[Path, str]]:
    """(file, dotted name) for each import, also those inside of functions."""
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module == "nsps":
                yield from ((file, f"nsps.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file, node.module
