"""The runbook holds: each of its situations is brought about, and each of its commands prints what
the page says. One stack for all, in the page's order.

To write the page's outputs anew from what the commands print: NSPS_WRITE_RUNBOOK=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from nsps_local.pubsub.oidc import TokenIssuer

from tests.end_to_end.runbook_page import PAGE, Section, same, sections, written
from tests.end_to_end.runbook_site import Site, site
from tests.end_to_end.runbook_situations import SITUATIONS

pytestmark = pytest.mark.timeout(300)

WRITE = bool(os.environ.get("NSPS_WRITE_RUNBOOK"))
SECTIONS = sections(PAGE.read_text(encoding="utf-8"))
left_open: list[str] = []
"""The situation that is being gone through, or broke off."""
printed: dict[str, list[list[str]]] = {}


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("runbook")) as made:
        yield made
    if WRITE:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), printed), encoding="utf-8")


def test_each_section_has_its_situation_and_no_other() -> None:
    assert [section.title for section in SECTIONS] == list(SITUATIONS)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
def test_the_page_says_what_the_commands_print(operator: Site, section: Section) -> None:
    """A situation yields before each block of its section: what it is brought into by then."""
    if left_open:
        pytest.skip(f"{left_open[0]!r} was not left well")
    left_open.append(section.title)
    situation = SITUATIONS[section.title](operator)
    wrong = []
    for block in section.blocks:
        assert next(situation, "over") is None, "the page has more blocks than the situation"
        outputs = [operator.run(command.line) for command in block]
        printed.setdefault(section.title, []).append(outputs)
        for command, output in zip(block, outputs, strict=True):
            if not same(command.output, output):
                said = "\n".join(command.output)
                wrong.append(f"$ {command.line}\n--- the page:\n{said}\n--- printed:\n{output}")
    assert next(situation, "over") == "over", "the page has fewer blocks than the situation"
    left_open.clear()
    assert WRITE or not wrong, "\n".join(wrong)


def test_the_same_commands_by_a_consoles_address_and_a_token(operator: Site) -> None:
    """As of a deployed NSPS: nothing of this machine's stack is looked at."""
    console = operator.stack.description["console"]
    issuer = TokenIssuer(operator.stack.state / "pubsub")
    where = f"--state /nowhere --console {console['url']}"
    for command, who, said in (
        ("events --limit 1", "viewer", "received"),
        ("events --outcome rejected", "viewer", "rejected"),
        ("explain account:277001", "viewer", "subscribers holds 277001"),
        ("explain imsi:001010000000001", "viewer", "is account 277001's"),
        ("handlers", "viewer", "in service"),
        ("retries list", "viewer", "Nothing is parked."),
        ("retries explain hss", "viewer", "the schedule of hss"),
        ("jobs", "viewer", "reconcile handler=subscribers"),
        ("audit", "viewer", "for the vendor"),
        ("doctor", "viewer", "All is well."),
        ("pause hss --reason tests", "viewer", "viewer@localhost is viewer: this needs operator"),
        ("pause hss --reason tests", "operator", "hss is paused"),
        ("resume hss", "operator", "hss is resumed"),
        ("reconcile subscribers --account 277001", "operator", "1 same"),
        ("replay 7601 --handler subscribers --dry-run", "operator", "nothing was written"),
        ("jobs show last", "operator", "nothing was written"),
        ("erase --account 277001", "operator", "Nothing was deleted"),
        ("erase --account 1 --yes", "operator", "this needs admin"),
    ):
        token = issuer.token(f"{who}@localhost", console["audience"])
        printed = operator.run(f"nsps {command} {where} --token {token}")
        assert said in printed, f"nsps {command}: {printed}"
    printed = operator.run(f"nsps events {where} --token nonsense")
    assert "show a Google ID token" in printed
    printed = operator.run(f"nsps events {where}")
    assert "NSPS_TOKEN" in printed
