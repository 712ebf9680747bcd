"""Whether a connector's manifest may claim its tier: each rule is checked, none is believed.

Some rules are proved by a test, which the manifest names (``quality.tests``): it must be collected
by pytest, not be skipped for good, and be a test of this connector. The others are looked up in the
connector's folder. This module is also the pytest plugin that says what is collected.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import pytest
from nsps_local.described import load_connector_file
from nsps_local.manifest import Manifest

RULES = {
    "bronze": ("standard-tests",),
    "silver": ("read-back", "half-done", "limits-documented"),
    "gold": ("real-system", "strict-typing"),
}
"""The rules of each tier; a tier holds those below it too."""

BY_TEST = ("standard-tests", "read-back", "half-done", "real-system")

STANDARD = "nsps_testing.standard"
OF_STATES = {
    "read-back": "test_every_resource_reads_back_as_created",
    "half-done": "test_cut_off_anywhere_the_repetition_converges",
}
"""The standard tests that prove a rule for a connector of kind state."""

REAL_SYSTEMS = "tests/systems/"
"""Where the tests are that start the real daemons."""

_RESULT = "NSPS_COLLECTED"


@dataclass(frozen=True, slots=True)
class Collected:
    """A test as pytest collects it. ``connectors``: those that its module imports.

    ``standard``: it is one of the standard tests; ``skipped``: whatever the machine has.
    """

    node: str
    name: str
    connectors: Sequence[str]
    standard: bool
    skipped: bool


def collect(root: Path, files: Iterable[str]) -> list[Collected]:
    """The tests in those of the files that there are."""
    there = sorted(file for file in files if (root / file).is_file())
    if not there:
        return []
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "collected.json"
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", __name__]
        command += ["-p", "no:cacheprovider", "--import-mode=importlib", *there]
        path = os.pathsep.join([str(root), *filter(None, sys.path)])
        done = subprocess.run(  # noqa: S603
            command, cwd=root, env={**os.environ, "PYTHONPATH": path, _RESULT: str(result)},
            capture_output=True, text=True, timeout=100, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"pytest cannot collect {', '.join(there)}:\n{done.stdout[-2000:]}")
        return [Collected(**test) for test in json.loads(result.read_text(encoding="utf-8"))]


Collect = Callable[[Path, Iterable[str]], Sequence[Collected]]


def unearned(file: Path, collect: Collect = collect) -> list[str]:
    """What a connector's manifest claims and has not earned. Raises InvalidManifest.

    ``file``: below ROOT/functions/connectors.
    """
    manifest = load_connector_file(file)
    root = next(each.parent for each in file.parents if each.name == "functions")
    folder = root / "functions" / "connectors" / manifest.folder
    named = manifest.quality.tests
    collected = collect(root, {node.partition("::")[0] for node in named.values()})
    missing = [
        f"{rule}: names no test: write its FILE::TEST under quality.tests"
        for rule in _needed(manifest)
        if rule in BY_TEST and rule not in named
    ]
    wrong = [
        f"{rule}: {node}: {why}"
        for rule, node in named.items()
        for why in _disproved(rule, node, manifest, collected)
    ]
    return [*missing, *wrong, *_of_the_folder(folder, _needed(manifest))]


def _needed(manifest: Manifest) -> list[str]:
    tiers = list(RULES)
    own = tiers.index(manifest.quality.tier)
    return [rule for tier in tiers[: own + 1] for rule in RULES[tier]]


def _disproved(
    rule: str, node: str, manifest: Manifest, collected: Iterable[Collected]
) -> Iterator[str]:
    tests = [test for test in collected if _is_or_holds(node, test.node)]
    if not tests:
        yield "pytest collects no such test"
        return
    if all(test.skipped for test in tests):
        yield "is always skipped"
    if not all(manifest.folder in test.connectors for test in tests):
        yield f"is no test of the connector {manifest.folder}"
    if rule == "standard-tests" and not any(test.standard for test in tests):
        yield "is no class of standard tests: inherit one of nsps_testing.standard"
    if rule == "real-system" and not node.startswith(REAL_SYSTEMS):
        yield f"starts no real system: those that do are in {REAL_SYSTEMS}"
    wanted = OF_STATES.get(rule)
    proved = all(test.standard and test.name == wanted for test in tests)
    if wanted and manifest.kind == ("state",) and not proved:
        yield f"does not prove it for a connector of kind state: name {wanted} of its class"


def _is_or_holds(node: str, test: str) -> bool:
    return test == node or test.startswith((f"{node}::", f"{node}["))


def _of_the_folder(folder: Path, needed: Sequence[str]) -> Iterator[str]:
    if "limits-documented" in needed:
        text = (folder / "README.md").read_text(encoding="utf-8")
        _, heading, limits = text.partition("\n## Limits\n")
        if not heading or not limits.partition("\n## ")[0].strip():
            yield "limits-documented: README.md has nothing under ## Limits"
    if "strict-typing" in needed:
        for file in sorted(folder.glob("*.py")):
            if "type: ignore" in file.read_text(encoding="utf-8"):
                yield f"strict-typing: {file.name} has type: ignore"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write what was collected, where it is asked for."""
    result = os.environ.get(_RESULT)
    if result:
        tests = [_seen(item) for item in session.items if isinstance(item, pytest.Function)]
        Path(result).write_text(json.dumps([asdict(test) for test in tests]), encoding="utf-8")


def _seen(item: pytest.Function) -> Collected:
    return Collected(
        node=item.nodeid,
        name=item.originalname,
        connectors=sorted(_connectors_in(item.module)),
        standard=item.function.__module__ == STANDARD,
        skipped=item.get_closest_marker("skip") is not None,
    )


def _connectors_in(module: ModuleType) -> set[str]:
    """The connectors whose modules, classes or functions a module imports."""
    origins = [
        getattr(value, attribute, "")
        for value in vars(module).values()
        for attribute in ("__module__", "__name__")
    ]
    paths = [origin.split(".") for origin in origins if isinstance(origin, str)]
    return {path[2] for path in paths if path[:2] == ["functions", "connectors"] and path[2:]}
