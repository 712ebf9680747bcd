"""200 events for one account in a burst, while PortaBilling goes on changing: the last state
everywhere, few reads, and no external system ever sees an older state after a newer one.

Each change in PortaBilling also counts the subscriber's first name up, so what the external
systems were sent can be put in order without believing anything that NSPS says of itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from nsps.domain.outcome import Outcome

from tests.end_to_end.recorder import Recorder
from tests.end_to_end.whole_stack import DATABASE, WholeStack, configuration, webhook

pytestmark = pytest.mark.timeout(240)

EVENTS = 200
CHANGES = 24
READ_SECONDS = 0.5
KINDS = ("SIM/Updated", "SIM/Replaced", "Account/Blocked", "Account/Unblocked")

WATCH = """
create table writes (seq integer primary key autoincrement, what, i_account, name, imsi, status);
create trigger inserted after insert on subscribers begin
  insert into writes (what, i_account, name, imsi, status)
  values ('insert', new.i_account, new.name, new.imsi, new.status); end;
create trigger updated after update on subscribers begin
  insert into writes (what, i_account, name, imsi, status)
  values ('update', new.i_account, new.name, new.imsi, new.status); end;
create trigger deleted after delete on subscribers begin
  insert into writes (what, i_account) values ('delete', old.i_account); end;
"""


@dataclass
class Burst:
    """What was done and what came of it."""

    stack: WholeStack
    recorder: Recorder
    i_account: int
    i_events: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    ended: float = 0.0
    """When the last webhook was answered; Unix seconds."""
    reads: int = 0
    last: int = 0

    def version(self, name: str) -> int:
        return int(name.split(maxsplit=1)[0].removeprefix("v"))


def change(stack: WholeStack, i_account: int, number: int, cards: list[int]) -> None:
    """One more change of the subscriber, each a state of its own."""
    stack.sandbox.do("update_account", i_account=i_account, firstname=f"v{number}")
    if number % 4 == 0:
        stack.sandbox.do("swap_sim", i_account=i_account, i_sim_card=cards[number // 4 % 2])
    elif number % 2:
        stack.sandbox.do("block_account", i_account=i_account)
    else:
        stack.sandbox.do("unblock_account", i_account=i_account)


@pytest.fixture(scope="module")
def burst(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Burst]:
    folder = tmp_path_factory.mktemp("burst")
    with Recorder() as recorder:
        config = configuration(folder, [DATABASE, webhook(recorder.url)])
        with WholeStack(folder / "state", config) as stack:
            cards = [stack.new_card()["i_sim_card"] for _ in range(2)]
            i_account = stack.new_account(cards[0], firstname="v0")
            with closing(sqlite3.connect(stack.state / "subscribers.db", timeout=20)) as database:
                database.executescript(WATCH)
            made = Burst(stack, recorder, i_account)
            play(made, cards)
            yield made


def play(burst: Burst, cards: list[int]) -> None:
    """Send the burst while PortaBilling changes; the last webhook follows the last change."""
    stack = burst.stack
    stack.send_paused(True)  # the changes' own events stay with ESPF: the burst is ours
    stack.portabilling_fault("slow", milliseconds=READ_SECONDS * 1000, methods=["Account/*"])
    before = stack.get("/sandbox/calls?limit=1")["counts"].get("Account/get_account_info", 0)
    burst.i_events = list(range(700001, 700001 + EVENTS))

    def send(i_event: int) -> int:
        kind = KINDS[i_event % len(KINDS)]
        answer = stack.send(kind, i_env=1, i_event=i_event, i_account=burst.i_account)
        return answer.status_code

    def go_on_changing() -> None:
        for number in range(1, CHANGES + 1):
            change(stack, burst.i_account, number, cards)

    began = time.monotonic()
    with ThreadPoolExecutor(17) as pool:
        changing = pool.submit(go_on_changing)
        codes = list(pool.map(send, burst.i_events[:-1]))
        changing.result()
    burst.last = CHANGES
    burst.codes = [*codes, send(burst.i_events[-1])]
    burst.ended = time.time()
    stack.all_finished(burst.i_events)
    burst.seconds = time.monotonic() - began
    after = stack.get("/sandbox/calls?limit=1")["counts"]["Account/get_account_info"]
    burst.reads = after - before
    stack.well()


def test_every_webhook_is_answered_200_and_finished(burst: Burst) -> None:
    assert burst.codes == [200] * EVENTS
    fine = {Outcome.DELIVERED, Outcome.UNCHANGED, Outcome.SUPERSEDED}
    for i_event in burst.i_events:
        histories = burst.stack.histories(i_event)
        assert len(histories) == 1
        assert {each.handler for each in histories[0].deliveries} == {"subscribers", "recorder"}
        assert {Outcome(str(each.outcome)) for each in histories[0].deliveries} <= fine, histories[
            0
        ]


def test_portabilling_is_read_a_handful_of_times(burst: Burst) -> None:
    # One read is in the air at a time, and serves all who came before it began.
    print(f"{burst.reads} reads for {EVENTS} events in {burst.seconds:.1f} s")
    assert 1 <= burst.reads <= burst.seconds / READ_SECONDS + 1, (burst.reads, burst.seconds)


def test_the_database_ends_with_the_last_state_and_never_goes_back(burst: Burst) -> None:
    query = f"select * from writes where i_account = {burst.i_account} order by seq"
    writes = burst.stack.rows("subscribers.db", query)
    versions = [burst.version(write["name"]) for write in writes]
    assert versions == sorted(versions), versions
    assert {write["what"] for write in writes} == {"update"}
    account = burst.stack.accounts()[burst.i_account]
    row = burst.stack.rows("subscribers.db", "select * from subscribers")[0]
    assert burst.version(row["name"]) == burst.last
    assert row["imsi"] == account["sim"]["imsi"]
    assert row["status"] == ("barred" if account["blocked"] == "Y" else "active")
    # rule 6: the same state is not written twice in a row
    states = [(w["name"], w["imsi"], w["status"]) for w in writes]
    assert all(one != other for one, other in pairwise(states)), states


def test_the_other_system_never_hears_an_older_state_after_a_newer_one(burst: Burst) -> None:
    received = burst.recorder.of(burst.i_account)
    versions = [burst.version(each.account["firstname"]) for each in received]
    assert versions == sorted(versions), versions
    assert versions[-1] == burst.last
    assert len(received) == len({each.event_id for each in received})


def test_a_system_is_called_at_most_once_for_each_snapshot(burst: Burst) -> None:
    """The webhook, whose system may heed some types only, once for each snapshot and type."""
    query = f"select * from writes where i_account = {burst.i_account}"
    writes = burst.stack.rows("subscribers.db", query)
    received = burst.recorder.of(burst.i_account)
    last = next(each for each in received if burst.version(each.account["firstname"]) == burst.last)
    print(
        f"{burst.reads} reads, {len(writes)} writes, {len(received)} webhooks; "
        f"the newest state {last.ended - burst.ended:.2f} s after the last event"
    )
    assert len(writes) <= burst.reads
    assert len(received) <= burst.reads * len(KINDS)


def test_what_is_superseded_names_a_newer_event(burst: Burst) -> None:
    histories: dict[str, Any] = {}
    for i_event in burst.i_events:
        history = burst.stack.histories(i_event)[0]
        histories[history.event_id] = history
    for history in histories.values():
        for each in history.deliveries:
            if each.outcome == Outcome.SUPERSEDED:
                assert each.superseded_by in histories, each
                # Of events with one snapshot the first to begin is delivered. An event that was
                # read twice may show the later snapshot: what counts is its receipt.
                newer = histories[str(each.superseded_by)]
                assert newer.snapshot_t.partition("/")[0] >= history.opened_at


def test_portabilling_knows_how_it_ended(burst: Burst) -> None:
    assert burst.stack.statuses(burst.i_account) == {"Database": "OK", "CRM": "OK"}
