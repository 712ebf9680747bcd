"""PortaBilling in trouble: whatever it does, every event arrives once it is well again, and what
ESPF could not be told is told later without provisioning again."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from nsps.domain.outcome import Outcome
from nsps_testing.waiting import wait_for

from tests.end_to_end.whole_stack import DATABASE, ROOT, WholeStack, configuration

pytestmark = pytest.mark.timeout(240)

WATCH = """
create table writes (seq integer primary key autoincrement, i_account);
create trigger inserted after insert on subscribers begin
  insert into writes (i_account) values (new.i_account); end;
create trigger updated after update on subscribers begin
  insert into writes (i_account) values (new.i_account); end;
"""

TROUBLE: dict[str, dict[str, Any]] = {
    "html": {},
    "non_json": {},
    "empty": {},
    "bad_gateway": {},
    "close": {},
    "hang": {"seconds": 60},
    "fail": {"percent": 100},
    "login_refused": {},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeStack]:
    folder = tmp_path_factory.mktemp("trouble")
    portabilling = {"url": "sandbox", "credentials": "portabilling-api", "timeout_seconds": 2}
    config = configuration(folder, [DATABASE], **{"nsps:portabilling": portabilling})
    with WholeStack(folder / "state", config) as made:
        yield made


@pytest.fixture(scope="module")
def i_account(stack: WholeStack) -> int:
    i_account = stack.new_account(stack.new_card()["i_sim_card"])
    with closing(sqlite3.connect(stack.state / "subscribers.db", timeout=20)) as database:
        database.executescript(WATCH)
    return i_account


def status(stack: WholeStack, i_account: int) -> str:
    """What the external system holds."""
    query = f"select status from subscribers where i_account = {i_account}"
    return str(stack.rows("subscribers.db", query)[0]["status"])


def writes(stack: WholeStack) -> int:
    return len(stack.rows("subscribers.db", "select * from writes"))


def turn(stack: WholeStack, i_account: int) -> tuple[list[int], str]:
    """Block or unblock, whichever is a change; the events, and what has to come of it."""
    blocked = stack.accounts()[i_account]["blocked"] == "Y"
    done = stack.sandbox.do("unblock_account" if blocked else "block_account", i_account=i_account)
    return [event["i_event"] for event in done["events"]], "active" if blocked else "barred"


def assert_arrived(stack: WholeStack, i_account: int, i_events: list[int], wanted: str) -> None:
    for history in stack.all_finished(i_events):
        assert [each.outcome for each in history.deliveries] == [Outcome.DELIVERED], history
        assert len(stack.histories(history.i_event)) == 1
    assert status(stack, i_account) == wanted
    assert stack.statuses(i_account) == {"Database": "OK"}


@pytest.mark.parametrize("calls", range(6))
def test_the_token_dies_after_any_number_of_calls(
    stack: WholeStack, i_account: int, calls: int
) -> None:
    """Every token, also the next one: with fewer than the two calls of a read it is a trouble like
    others, that has to end before the event can arrive; with more, nothing waits."""
    stack.portabilling_fault("token_dies_after", calls=calls)
    i_events, wanted = turn(stack, i_account)
    if calls < 2:
        wait_for(lambda: waiting(stack, i_events[0]) or final(stack, i_events), 60)
        stack.well()
    assert_arrived(stack, i_account, i_events, wanted)
    if calls >= 2:
        assert stack.histories(i_events[0])[0].retry is None
    stack.well()


def final(stack: WholeStack, i_events: list[int]) -> bool:
    found = [history for i_event in i_events for history in stack.histories(i_event)]
    return len(found) == len(i_events) and all(history.final for history in found)


def waiting(stack: WholeStack, i_event: int) -> bool:
    """Whether an event says that its enrichment failed and is to be tried again."""
    histories = stack.histories(i_event)
    return bool(histories) and not histories[0].final and histories[0].retry is not None


def test_every_token_is_dead_at_once_refresh_tokens_too(stack: WholeStack, i_account: int) -> None:
    stack.portabilling_fault("kill_tokens", refresh_tokens=True)
    assert_arrived(stack, i_account, *turn(stack, i_account))


@pytest.mark.parametrize("trouble", TROUBLE)
def test_whatever_it_answers_the_event_arrives_once_it_is_well(
    stack: WholeStack, i_account: int, trouble: str
) -> None:
    if trouble == "login_refused":
        stack.portabilling_fault("kill_tokens", refresh_tokens=True)
    stack.portabilling_fault(trouble, **TROUBLE[trouble])
    before = writes(stack)
    i_events, wanted = turn(stack, i_account)

    wait_for(lambda: waiting(stack, i_events[0]), 60, "the event to be visibly waiting")
    history = stack.histories(i_events[0])[0]
    assert not history.final
    assert history.retry is not None
    assert history.retry["error"].strip()
    assert history.deliveries[0].outcome is None, "nothing was sent on without being read"
    assert status(stack, i_account) != wanted
    stack.hurry()  # once more, for nothing
    stack.well()
    assert_arrived(stack, i_account, i_events, wanted)
    assert writes(stack) == before + 1


def test_a_wrong_path_for_sim_cards_is_not_an_account_without_a_card(
    stack: WholeStack, i_account: int
) -> None:
    query = f"select imsi from subscribers where i_account = {i_account}"
    (before,) = stack.rows("subscribers.db", query)
    assert before["imsi"]
    path = {"methods": ["SIMCard/get_card_info"], "faultcode": "Method.not_found"}
    stack.portabilling_fault("fail", percent=100, **path)
    i_events, wanted = turn(stack, i_account)
    wait_for(lambda: waiting(stack, i_events[0]), 60, "the event to be visibly waiting")
    retry = stack.histories(i_events[0])[0].retry
    assert retry is not None
    assert "absence.sim_card_info" in retry["error"]
    assert stack.rows("subscribers.db", query) == [before]
    stack.well()
    stack.hurry()
    assert_arrived(stack, i_account, i_events, wanted)
    assert stack.rows("subscribers.db", query) == [before]


def test_a_bad_byte_in_a_name_keeps_nobody_from_being_barred(
    stack: WholeStack, i_account: int
) -> None:
    stack.portabilling_fault("latin1")
    stack.sandbox.do("update_account", i_account=i_account, lastname="Müller")
    i_events, wanted = turn(stack, i_account)
    assert_arrived(stack, i_account, i_events, wanted)
    stack.well()
    assert stack.histories(i_events[0])[0].damaged == ("account_info",)


def test_a_site_in_standalone_mode_is_read_as_ever(stack: WholeStack, i_account: int) -> None:
    """It knows none of the other site's sessions, and takes no changes; reading needs neither."""
    i_events, wanted = turn(stack, i_account)
    stack.portabilling_fault("standalone_mode")
    assert_arrived(stack, i_account, i_events, wanted)
    stack.well()


STATUS_TROUBLE: dict[str, dict[str, Any]] = {
    "status_api_down": {"status": 503},
    "hang": {"seconds": 60, "methods": ["espf/status"]},
    "close": {"methods": ["espf/status"]},
    "html": {"methods": ["espf/status"]},
}


@pytest.mark.parametrize("trouble", STATUS_TROUBLE)
def test_a_status_that_cannot_be_told_is_told_later_without_provisioning_again(
    stack: WholeStack, i_account: int, trouble: str
) -> None:
    stack.portabilling_fault(trouble, **STATUS_TROUBLE[trouble])
    before = writes(stack)
    card = stack.new_card()["i_sim_card"]
    done = stack.add_account(card)
    i_events, other = [event["i_event"] for event in done["events"]], done["i_account"]

    wait_for(lambda: final(stack, i_events), 60, "the external system to be written")
    wait_for(lambda: stack.backlog() == 0, 30, "the posts to be given up")
    assert status(stack, other) == "active"
    assert writes(stack) == before + 1
    report = stack.histories(i_events[-1])[0].deliveries[0].espf
    assert report is not None
    assert (report["status"], report["sent"]) == ("OK", False)
    assert stack.tick()  # for nothing: it is still in trouble
    assert stack.statuses(other) == {}
    stack.well()
    stack.advance("firestore", 60)  # the lease of a post without an answer runs out
    wait_for(lambda: stack.tick()["statuses"] > 0, 30, "the tick to post it")
    stack.all_finished(i_events)
    assert stack.statuses(other) == {"Database": "OK"}
    assert writes(stack) == before + 1, "provisioned again for a status"
    assert stack.tick()["statuses"] == 0, "it is told once"
    posted = stack.get(f"/sandbox/statuses?i_account={other}")["statuses"]
    assert {each["status"] for each in posted} == {"OK"}
    assert len(posted) == 1 or trouble == "hang", posted  # a call that hung may land all the same


def nsps(stack: WholeStack, *arguments: str) -> str:
    command = [sys.executable, "-m", "nsps_local.cli", *arguments, "--state", str(stack.state)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    return done.stdout


def calls(stack: WholeStack) -> int:
    return sum(stack.get("/sandbox/calls")["counts"].values())


def test_a_portabilling_that_is_down_is_left_alone_and_comes_back_slowly(stack: WholeStack) -> None:
    accounts = [stack.new_account(stack.new_card()["i_sim_card"]) for _ in range(10)]
    stack.portabilling_fault("bad_gateway")
    before = calls(stack)
    i_events = [
        event["i_event"]
        for operation in ("block_account", "unblock_account", "block_account")
        for i_account in accounts
        for event in stack.sandbox.do(operation, i_account=i_account)["events"]
    ]
    assert len(i_events) >= 30

    def down() -> bool:
        stack.hurry()
        return "PortaBilling cannot be read since" in nsps(stack, "handlers")

    wait_for(down, 60, "the breaker to open")
    opened = calls(stack)
    assert opened - before <= 150, "calls until it opened"
    ends = time.monotonic() + 8
    while time.monotonic() < ends:  # the backlog comes again and again
        stack.hurry()
        time.sleep(0.1)
    assert calls(stack) - opened <= 12, "calls while it is open: a probe, and what was on its way"
    assert "PortaBilling is not asked now" in nsps(stack, "explain", str(i_events[-1]))

    stack.well()
    stack.advance("firestore", 60)  # the next probe is due
    stack.all_finished(i_events, 150)
    for i_account in accounts:
        assert status(stack, i_account) == "barred"
    stack.advance("firestore", 60)  # at the full rate; the next event closes it
    stack.all_finished(turn(stack, accounts[0])[0])
    wait_for(lambda: "PortaBilling" not in nsps(stack, "handlers"), 30, "the breaker to close")
