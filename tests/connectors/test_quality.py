"""Every claim in a connector's manifest is earned; a false one is named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from nsps_local.described import connectors_in
from nsps_local.manifest import FILE, InvalidManifest
from nsps_local.new_connector import create
from nsps_testing.quality import Collected, collect, unearned

REPOSITORY = Path(__file__).parents[2]
CONNECTORS = connectors_in(REPOSITORY / "functions" / "connectors")

OWN = """

class TestOwn:
    def test_one(self): ...

    @pytest.mark.skip
    def test_never(self): ...

    def not_collected(self): ...
"""
ON_A_DAEMON = """
from functions.connectors.hss_acme import connector


def test_it(): ...
"""
TESTS = "tests/connectors/test_hss_acme.py"
RIGHT = {
    "standard-tests": f"{TESTS}::TestHssAcme",
    "read-back": f"{TESTS}::TestHssAcme::test_every_resource_reads_back_as_created",
    "half-done": f"{TESTS}::TestHssAcme::test_cut_off_anywhere_the_repetition_converges",
    "real-system": "tests/systems/test_on_a_daemon.py::test_it",
}


@pytest.mark.parametrize("file", CONNECTORS.values(), ids=CONNECTORS.keys())
def test_a_connector_has_earned_what_it_claims(file: Path) -> None:
    assert unearned(file) == []


class Repository:
    """The connector that ``nsps new-connector`` writes, with tests; collected once."""

    def __init__(self, root: Path) -> None:
        self.folder = create("hss_acme", root)[0].parent
        self._manifest = yaml.safe_load((self.folder / FILE).read_text())
        with (root / TESTS).open("a") as tests:
            tests.write(OWN)
        (root / "tests" / "systems").mkdir()
        (root / "tests" / "systems" / "test_on_a_daemon.py").write_text(ON_A_DAEMON)
        (root / "tests" / "systems" / "test_other.py").write_text("def test_it(): ...\n")
        files = [str(file.relative_to(root)) for file in root.glob("tests/*/*.py")]
        self._collected = collect(root, files)

    def unearned(self, tests: dict[str, Any] | None = None, tier: str = "gold") -> list[str]:
        """What is not earned of these claims; of those as they were written without."""
        quality = {"tier": tier, "tests": tests} if tests else self._manifest["quality"]
        (self.folder / FILE).write_text(yaml.safe_dump({**self._manifest, "quality": quality}))
        return unearned(self.folder / FILE, self._in_files)

    def _in_files(self, root: Path, files: Iterable[str]) -> list[Collected]:
        return [test for test in self._collected if test.node.partition("::")[0] in files]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("repository"))


def test_what_is_earned_is_taken(repository: Repository) -> None:
    assert repository.unearned(RIGHT) == []
    assert repository.unearned() == [], "what nsps new-connector claims"


@pytest.mark.parametrize(
    ("rule", "node", "why"),
    [
        ("real-system", None, "names no test: write its FILE::TEST under quality.tests"),
        ("real-system", "tests/systems/test_gone.py::test_it", "pytest collects no such test"),
        ("half-done", f"{TESTS}::TestOwn::not_collected", "pytest collects no such test"),
        ("half-done", f"{TESTS}::TestOwn::test_never", "is always skipped"),
        ("half-done", f"{TESTS}::TestOwn::test_one", "does not prove it for a connector of kind"),
        ("read-back", RIGHT["half-done"], "name test_every_resource_reads_back_as_created"),
        ("real-system", f"{TESTS}::TestHssAcme", "starts no real system"),
        (
            "real-system",
            "tests/systems/test_other.py::test_it",
            "is no test of the connector",
        ),
        ("standard-tests", f"{TESTS}::TestOwn::test_one", "is no class of standard tests"),
    ],
)
def test_a_claim_that_is_not_earned_is_named(
    repository: Repository, rule: str, node: str | None, why: str
) -> None:
    tests = {name: test for name, test in {**RIGHT, rule: node}.items() if test}
    found = repository.unearned(tests)
    assert any(why in line for line in found), found
    assert all(line.startswith(f"{rule}: ") for line in found), found


def test_a_lower_tier_needs_less_but_what_it_claims_is_checked(repository: Repository) -> None:
    first = {"standard-tests": RIGHT["standard-tests"]}
    assert repository.unearned(first, tier="bronze") == []
    more = {**first, "real-system": "tests/systems/test_gone.py::test_it"}
    [line] = repository.unearned(more, tier="bronze")
    assert line.startswith("real-system: ")


@pytest.mark.parametrize("tests", [{"fast": "tests/a.py::b"}, {"half-done": "somewhere"}])
def test_a_rule_or_a_place_that_is_none_is_refused(
    repository: Repository, tests: dict[str, str]
) -> None:
    with pytest.raises(InvalidManifest, match=r"quality\.tests"):
        repository.unearned(tests)


def test_what_the_folder_must_show(repository: Repository) -> None:
    readme, code = repository.folder / "README.md", repository.folder / "connector.py"
    before = readme.read_text(), code.read_text()
    readme.write_text("# HSS\n\n## Limits\n\n## Other\n\nText.\n")
    code.write_text(f"{before[1]}\nx = 1  # type: ignore[misc]\n")
    found = repository.unearned(RIGHT)
    readme.write_text(before[0])
    code.write_text(before[1])
    assert found == [
        "limits-documented: README.md has nothing under ## Limits",
        "strict-typing: connector.py has type: ignore",
    ]
