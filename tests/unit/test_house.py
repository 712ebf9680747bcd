"""The library's rooms, ground floor first: what may be built on what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2] / "shared" / "nsps"

FLOORS = {
    "rules: pure, no I/O, no clock of their own": (
        *("event", "outcome", "snapshot", "subscriber", "retry", "retry_table", "routing"),
    ),
    "what every function needs from its surroundings": (
        *("trace", "settings", "manifest", "secrets", "redact", "log", "instance", "http"),
        *("identity_token", "probe"),
    ),
    "PortaBilling, ESPF, Pub/Sub, Firestore": (
        *("store", "messages", "push", "receiver", "subscriptions", "audit", "switch"),
        *("portabilling", "espf", "parts", "history", "timeline", "ledger"),
    ),
    "the connector kit, the console, and the flows that main.py calls": (
        *("connector", "console", "flows"),
    ),
}
"""Each room may import from those before it, here and on the floors below."""

ORDER = list(chain.from_iterable(FLOORS.values()))
PURE = next(iter(FLOORS.values()))
WORLD = {"time", "socket", "os", "random", "requests", "google", "flask", "threading", "subprocess"}
"""What a pure rule has no use for (it is given the time)."""


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in HOUSE.iterdir() if path.suffix == ".py" or _is_room(path)}
    assert rooms - {"__init__"} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("room", ORDER)
def test_a_room_is_built_on_those_before_it(room: str) -> None:
    before = set(ORDER[: ORDER.index(room)]) | {room}
    above = sorted({f"{file.name}: {name}" for file, name in _ours(room) if name not in before})
    assert not above, f"nsps.{room} may not import from above: {above}"


@pytest.mark.parametrize("room", PURE)
def test_a_rule_is_pure(room: str) -> None:
    found = {name.split(".")[0] for _, name in _imports(room)} & WORLD
    assert not found, f"nsps.{room} is a rule, and imports {sorted(found)}"


def _is_room(path: Path) -> bool:
    return path.is_dir() and (path / "__init__.py").exists()


def _ours(room: str) -> Iterator[tuple[Path, str]]:
    """(file, room) for each import of the library by a file of the room."""
    for file, name in _imports(room):
        package, _, inner = name.partition(".")
        if package == "nsps":
            yield file, inner.split(".")[0]


def _imports(room: str) -> Iterator[tuple[Path, str]]:
    """(file, dotted name) for each import, also those inside of functions."""
    at = HOUSE / room
    for file in sorted(at.rglob("*.py")) if at.is_dir() else [at.with_suffix(".py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module == "nsps":
                yield from ((file, f"nsps.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file, node.module
