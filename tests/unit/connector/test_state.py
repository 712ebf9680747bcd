"""State connectors through the kit: read, compare, write no more than differs, tell ESPF."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.cloud.firestore import FieldFilter
from nsps.cloud.store import Store
from nsps.connector.base import Call, Enriched, State
from nsps.delivery import pipeline
from nsps.delivery.gate import Gate, Held
from nsps.delivery.verdict import Verdict
from nsps.domain.outcome import NoAnswer, Outcome, Terminal, Transient, Unclear
from nsps.runtime.secrets import SecretValue

from tests.unit.connector.systems import (
    IMSI,
    KI,
    OTHER_IMSI,
    Box,
    DarkBox,
    Kit,
    SignallingBox,
    sim_event,
    went,
)

READ_ONLY = ["read"]


def test_a_new_subscriber_is_created_and_espf_hears_ok(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.DELIVERED)
    assert box.holds == {IMSI: {"msisdn": "447700900001", "active": True}}
    assert kit.espf.posted == [(1001, "HSS", "OK", "")]
    kept = kit.delivery(event)
    (result,) = kept["results"]
    assert (result["result"], result["action"]) == ("written", "create")
    assert result["fields"] == {
        "active": went(None, True),
        "msisdn": went(None, "447700900001"),
    }
    assert kept["outcome"] == "delivered" and kept["attempts"] == 1
    assert kit.resource(IMSI)["state"] == {"msisdn": "447700900001", "active": True}


class NotedGate(Gate):
    """Notes what it is asked, among the calls of a system; ``held``: nothing may pass."""

    slow = False

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self.calls = calls
        self.held: Held | None = None

    def admit(self) -> Held | None:
        self.calls.append(("admit",))
        return self.held

    def turn(self) -> None:
        self.calls.append(("turn",))

    def well(self) -> None:
        self.calls.append(("well",))

    def failed(self, owner: str, reason: str, retry_after: float | None) -> None:
        self.calls.append(("failed", owner, retry_after))


def test_the_gate_lets_a_delivery_and_each_of_its_calls_through(store: Store) -> None:
    box = Box()
    gate = NotedGate(box.seen.calls)
    kit = Kit(store, box, gate=gate)
    kit.deliver(sim_event(1))
    assert box.seen.names() == ["admit", "turn", "read", "create", "well"]
    box.seen.calls.clear()
    box.seen.before = [None, Terminal("no"), Transient("busy", 7)]
    assert not kit.deliver(sim_event(2, imsi=OTHER_IMSI)).ack
    assert box.seen.names() == ["admit", "turn", "read", "delete", "well", "turn", "read", "failed"]
    assert box.seen.calls[-1] == ("failed", "account:1001", 7)


def test_what_the_gate_holds_is_not_begun(store: Store) -> None:
    box = Box()
    gate = NotedGate(box.seen.calls)
    gate.held = Held("paused", 60)
    kit, event = Kit(store, box, gate=gate), sim_event()
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.held, verdict.retry_after) == (False, True, 60)
    assert box.seen.names() == ["admit"]
    assert store.read(store.delivery(kit.handler, event.event_id)) is None


def test_a_resource_is_found_by_its_number_however_the_system_writes_it(store: Store) -> None:
    kit = Kit(store, Box())
    kit.deliver(sim_event(msisdn="+447700900001"))
    assert set(kit.resource(IMSI)["find"]) == {IMSI, "+447700900001", "447700900001"}


def test_only_what_differs_is_told_of_as_changed(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    event = sim_event(2, blocked=True)
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert box.seen.calls[-1] == (
        "change",
        IMSI,
        {"msisdn": "447700900001", "active": False},
        {"msisdn": "447700900001", "active": True},
    )
    (result,) = kit.delivery(event)["results"]
    assert result["fields"] == {"active": went(True, False)}


def test_a_state_that_the_ledger_is_sure_of_is_not_even_read(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    calls = len(box.seen.calls)
    event = sim_event(2)
    assert kit.deliver(event).outcome is Outcome.UNCHANGED
    assert len(box.seen.calls) == calls
    assert kit.espf.statuses == ["OK"]  # it has heard that
    assert kit.delivery(event)["results"][0]["result"] == "unchanged"


def test_a_system_that_has_the_state_already_is_read_and_not_written(store: Store) -> None:
    box = Box()
    box.holds[IMSI] = {"msisdn": "447700900001", "active": True, "since": 2020}
    event = sim_event()
    kit = Kit(store, box)
    assert kit.deliver(event).outcome is Outcome.UNCHANGED
    assert box.seen.names() == READ_ONLY
    assert kit.espf.statuses == ["OK"]
    assert kit.delivery(event)["results"][0]["result"] == "already so"


def test_a_secret_that_cannot_be_read_back_is_written_until_the_ledger_is_sure(
    store: Store,
) -> None:
    box = Box(ki=KI)
    kit = Kit(store, box)
    box.holds[IMSI] = {"msisdn": "447700900001", "active": True, "aud": "another"}
    event = sim_event(1)
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert box.seen.names() == ["read", "change"]
    assert kit.delivery(event)["results"][0]["fields"] == {"aud": went(None, "***")}
    assert kit.deliver(sim_event(2)).outcome is Outcome.UNCHANGED
    box.ki = "0" * 32  # another key: the digest differs, so it is written
    assert kit.deliver(sim_event(3)).outcome is Outcome.DELIVERED
    held: Any = box.holds[IMSI]["aud"]
    assert held.reveal() == "0" * 32
    assert KI not in kit.everything() and "0" * 32 not in kit.everything()


def test_a_secret_that_the_system_tells_is_not_told_on(store: Store) -> None:
    class Indiscreet(Box):
        def read(self, key: str, call: Any) -> Any:
            super().read(key, call)
            return {"msisdn": "447700900001", "active": True, "aud": "an-old-key-in-clear"}

    kit = Kit(store, Indiscreet(ki=KI))
    event = sim_event()
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert kit.delivery(event)["results"][0]["fields"] == {"aud": went("***", "***")}
    assert "an-old-key-in-clear" not in kit.everything()


def test_a_system_that_cannot_be_read_is_written_whenever_the_ledger_is_not_sure(
    store: Store,
) -> None:
    box = DarkBox()
    kit = Kit(store, box)
    assert kit.deliver(sim_event(1)).outcome is Outcome.DELIVERED
    assert kit.deliver(sim_event(2)).outcome is Outcome.UNCHANGED
    assert kit.deliver(sim_event(3, blocked=True)).outcome is Outcome.DELIVERED
    assert box.seen.names() == ["create", "create"]
    assert box.holds[IMSI]["active"] is False


def test_a_card_that_was_swapped_is_removed_though_no_event_names_it(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    event = sim_event(2, imsi=OTHER_IMSI)
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert set(box.holds) == {OTHER_IMSI}
    assert [r["result"] for r in kit.delivery(event)["results"]] == ["removed", "written"]
    assert box.writes == ["create", "delete", "create"]


def test_an_account_without_a_sim_is_removed_everywhere(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    assert kit.deliver(sim_event(2, imsi=None)).outcome is Outcome.DELIVERED
    assert box.holds == {}
    assert kit.deliver(sim_event(3, imsi=None)).outcome is Outcome.UNCHANGED
    assert kit.espf.statuses == ["OK"]


def test_a_redelivered_message_does_nothing_more(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    kit.deliver(event)
    calls = list(box.seen.calls)
    again = kit.deliver(event)
    assert (again.ack, again.outcome) == (True, Outcome.DELIVERED)
    assert box.seen.calls == calls
    assert kit.delivery(event)["attempts"] == 1
    assert kit.espf.statuses == ["OK"]


def test_an_older_snapshot_is_superseded_and_espf_hears_nothing_of_it(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    newer, older = sim_event(2, blocked=True), sim_event(1)
    kit.deliver(newer)
    verdict = kit.deliver(older)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.SUPERSEDED)
    assert box.holds[IMSI]["active"] is False
    assert kit.delivery(older)["superseded_by"] == newer.event_id
    assert kit.espf.statuses == ["OK"]


def test_of_events_with_one_snapshot_the_first_to_begin_is_delivered(store: Store) -> None:
    """The others are over at once, and wait for no lease; it is the first one's to try again."""
    box = Box()
    kit = Kit(store, box)
    first = sim_event(1)
    second, third = (replace(sim_event(1), t=first.t) for _ in range(2))
    box.seen.before = [Transient("503 not now")]
    assert kit.deliver(first).outcome is Outcome.RETRYING
    assert kit.deliver(second).outcome is Outcome.SUPERSEDED
    assert kit.delivery(second)["superseded_by"] == first.event_id
    assert kit.deliver(first).outcome is Outcome.DELIVERED
    assert kit.deliver(third).outcome is Outcome.SUPERSEDED
    assert box.seen.names() == ["read", "read", "create"]
    assert kit.deliver(replace(third, run=1)).outcome is Outcome.UNCHANGED
    assert box.seen.names()[3:] == ["read"], "what somebody asked for gives way to nothing"
    assert kit.espf.statuses == ["RETRY", "OK"]


def test_where_calls_wait_for_their_turn_who_gives_way_takes_none(store: Store) -> None:
    box = Box()
    gate = NotedGate(box.seen.calls)
    gate.slow = True
    kit = Kit(store, box, gate=gate)
    newest = sim_event(2)
    assert kit.deliver(newest).outcome is Outcome.DELIVERED
    assert box.seen.names() == ["admit", "turn", "read", "create", "well"]
    for late in (sim_event(1), replace(sim_event(2), t=newest.t)):
        assert kit.deliver(late).outcome is Outcome.SUPERSEDED
        assert kit.delivery(late)["superseded_by"] == newest.event_id
    assert kit.deliver(newest).outcome is Outcome.DELIVERED  # its message, brought once more
    assert box.seen.names()[5:] == []
    gate.slow = False
    kit.deliver(sim_event(1))
    assert box.seen.names()[5:] == ["admit"]


def test_a_card_that_moved_is_not_undone_by_its_former_owner(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1, i_account=1))
    kit.deliver(sim_event(3, i_account=2))
    gave_it_up = sim_event(2, i_account=1, imsi=None)
    assert kit.deliver(gave_it_up).outcome is Outcome.UNCHANGED
    assert set(box.holds) == {IMSI}
    assert kit.deliver(sim_event(2, i_account=1)).outcome is Outcome.SUPERSEDED
    assert kit.resource(IMSI)["owner"] == "account:2"


@pytest.mark.parametrize("group", [None, "HSS"])
def test_espf_hears_of_a_group_alone(store: Store, group: str | None) -> None:
    kit = Kit(store, Box(), group=group)
    assert kit.deliver(sim_event()).outcome is Outcome.DELIVERED
    assert kit.espf.statuses == (["OK"] if group else [])


def test_espf_hears_nothing_of_an_event_about_no_account(store: Store) -> None:
    kit = Kit(store, Box())
    event = sim_event()
    event = replace(event, owner=type(event.owner)("customer", "77"))
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert kit.espf.posted == []


# ---- failures -------------------------------------------------------------------------------


def test_an_answer_that_is_unclear_ends_the_call_and_its_lease(store: Store) -> None:
    """What was answered is over: the redelivery need not wait until the lease has run out."""
    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    box.seen.after = [Unclear("500: it may have taken effect")]
    assert kit.deliver(event).outcome is Outcome.RETRYING
    kept = kit.resource(IMSI)
    assert kept["lease"] is None and kept["dirty"]
    assert kit.deliver(event).outcome is Outcome.UNCHANGED
    assert box.seen.names() == ["read", "create", "read"]
    assert kit.delivery(event)["attempts"] == 2


def test_to_wait_for_a_lease_is_no_attempt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults: Any = pipeline.Pipeline.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "patience", 0.3)
    box = Box()
    kit = Kit(store, box)
    first, second = sim_event(1), sim_event(2, blocked=True)
    box.seen.before = [None, NoAnswer("lost")]
    kit.deliver(first)
    assert kit.deliver(second).outcome is Outcome.WAITING
    assert kit.delivery(second).get("attempts", 0) == 0
    assert kit.delivery(second)["event_type"] == "SIM/Updated", "it is seen all the same"
    kit.free(IMSI)
    assert kit.deliver(second).outcome is Outcome.DELIVERED
    assert kit.delivery(second)["attempts"] == 1


def test_transient_the_lease_is_given_back_and_espf_hears_retry_once(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    box.seen.before = [None, Transient("busy, password=hunter2", retry_after=7.0)]
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome, verdict.retry_after) == (False, Outcome.RETRYING, 7.0)
    assert "hunter2" not in verdict.reason
    assert kit.resource(IMSI)["lease"] is None and kit.resource(IMSI)["dirty"]
    kept = kit.delivery(event)
    assert kept["outcome"] is None and kept["retry"]["error"] == "busy, password=***"
    box.seen.before = [Transient("busy, password=hunter2")]
    early, calls = kit.deliver(event), len(box.seen.calls)
    assert (early.ack, early.outcome) == (False, Outcome.WAITING)
    assert early.retry_after is not None and 0 < early.retry_after <= 7
    assert len(box.seen.calls) == calls and kit.delivery(event)["attempts"] == 1
    kit.waited(event)
    kit.deliver(event)
    assert kit.espf.statuses == ["RETRY"]
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    kept = kit.delivery(event)
    assert (kept["retry"], kept["attempts"]) == (None, 3)
    failures = [(each["error"], each["times"]) for each in kept["failures"]]
    assert failures == [("busy, password=***", 2)]
    assert kit.espf.statuses == ["RETRY", "OK"]
    assert "hunter2" not in kit.everything() + repr(kit.espf.posted)


def test_nothing_was_changed_is_not_believed_after_a_part_was_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box()

    def create(key: str, state: State, call: Call) -> None:
        call.wrote = True  # a transport carried out the first of two requests
        raise Transient("busy", retry_after=7.0)

    monkeypatch.setattr(box, "create", create)
    kit = Kit(store, box)
    verdict = kit.deliver(sim_event())
    assert verdict.reason == "a part was written before this: busy"
    assert isinstance(verdict.error, Unclear) and verdict.retry_after == 7.0
    assert kit.resource(IMSI)["lease"] is None and kit.resource(IMSI)["dirty"]


def test_no_answer_the_lease_is_held_until_it_runs_out(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    box.seen.after = [NoAnswer("sent, no answer")]
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (False, Outcome.RETRYING)
    held = kit.resource(IMSI)
    assert held["lease"] is not None and held["lease_until"] > held["changed_at"]
    kit.free(IMSI)
    assert kit.deliver(event).outcome is Outcome.UNCHANGED  # it had taken effect after all
    assert box.writes == ["create"]
    assert kit.espf.statuses == ["RETRY", "OK"]


@pytest.mark.parametrize("error", [RuntimeError("ki=465B5CE8"), KeyError("boom"), OSError(5)])
def test_an_error_that_nobody_named_counts_as_no_answer(store: Store, error: Exception) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    box.seen.before = [None, error]
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (False, Outcome.RETRYING)
    assert kit.resource(IMSI)["lease"] is not None
    failure = kit.delivery(event)["retry"]["error"]
    assert type(error).__name__ in failure and "465B5CE8" not in failure


def test_terminal_is_rejected_and_told_as_failed(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    box.seen.before = [None, Terminal("IMSI unknown, token=abcdefghij")]
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.REJECTED)
    assert verdict.reason == "IMSI unknown, token=***"
    assert kit.espf.posted == [(1001, "HSS", "FAILED", "IMSI unknown, token=***")]
    assert kit.resource(IMSI)["lease"] is None
    assert kit.delivery(event)["errors"] == ["IMSI unknown, token=***"]
    # the same state may be asked for again by a newer event, and is then tried
    assert kit.deliver(sim_event(2)).outcome is Outcome.DELIVERED
    assert kit.espf.statuses == ["FAILED", "OK"]


def test_terminal_for_a_card_that_another_account_had_removes_what_is_left(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1, i_account=1))
    box.seen.before = [None, Terminal("not for this customer")]
    moved = sim_event(2, i_account=2, blocked=True)
    assert kit.deliver(moved).outcome is Outcome.REJECTED
    assert box.holds == {} and box.writes == ["create", "change", "delete"]
    assert kit.resource(IMSI)["owner"] is None
    assert kit.delivery(moved)["results"][-1]["result"] == "removed"


def test_data_that_can_never_work_is_rejected_before_anything_is_touched(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event(imsi="unknown")
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.REJECTED)
    assert "hunter2" not in verdict.reason + kit.everything() + repr(kit.espf.posted)
    assert box.seen.calls == []
    assert kit.espf.statuses == ["FAILED"]
    assert store.read(store.owner("hss", "account:1001")) is None  # the watermark has not moved
    # so an older one that works is not superseded by it
    assert kit.deliver(sim_event(0)).outcome is Outcome.DELIVERED


def test_one_of_two_resources_is_refused_and_the_other_done(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    event = sim_event(2, imsi=OTHER_IMSI)
    box.seen.before = [Terminal("cannot delete")]
    assert kit.deliver(event).outcome is Outcome.REJECTED
    assert [r["result"] for r in kit.delivery(event)["results"]] == ["refused", "written"]
    assert kit.espf.statuses == ["OK", "FAILED"]


def test_after_a_crash_between_write_and_record_the_state_is_read_and_found(store: Store) -> None:
    class Crash(BaseException):
        """The instance is killed: nothing after it runs."""

    def crash() -> None:
        raise Crash

    box = Box()
    kit = Kit(store, box)
    event = sim_event()
    box.seen.after = [crash]
    with pytest.raises(Crash):
        kit.deliver(event)
    kit.free(IMSI)
    assert kit.deliver(event).outcome is Outcome.UNCHANGED
    assert box.writes == ["create"]
    assert kit.espf.statuses == ["OK"]


# ---- one writer at a time ---------------------------------------------------------------------


def test_another_attempt_is_waited_for(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    entered, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        entered.set()
        assert go_on.wait(10)

    box.seen.after = [slowly]
    first, second = sim_event(1), sim_event(2, blocked=True)
    verdicts: dict[str, Verdict] = {}
    threads = [
        threading.Thread(target=lambda: verdicts.update(first=kit.deliver(first))),
        threading.Thread(target=lambda: verdicts.update(second=kit.deliver(second))),
    ]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    threads[1].join(0.4)
    assert box.writes == ["create"]  # the second waits
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert verdicts["second"].outcome is Outcome.DELIVERED
    assert verdicts["first"].ack
    assert box.holds[IMSI]["active"] is False
    assert box.writes == ["create", "change"]


def test_what_an_older_copy_of_the_delivery_wrote_is_told(store: Store) -> None:
    """It may not decide the delivery, but it is what was written for it."""
    box = Box()
    kit = Kit(store, box)
    event = sim_event(1)
    newer = replace(event, t=sim_event(2).t)
    entered, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        entered.set()
        assert go_on.wait(10)

    box.seen.after = [slowly]
    threads = [threading.Thread(target=kit.deliver, args=(copy,)) for copy in (event, newer)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    while kit.delivery(event)["t"] != newer.t:
        threads[1].join(0.02)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert box.writes == ["create"]
    document = kit.delivery(event)
    assert document["outcome"] == "delivered"
    assert [each["result"] for each in document["results"]] == ["written", "unchanged"]


def test_what_was_done_before_a_failure_is_told_in_the_end(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    assert kit.deliver(sim_event(1)).ack
    swapped = sim_event(2, imsi=OTHER_IMSI)
    box.seen.before = [None, None, Transient("not now")]  # delete, read, create
    assert not kit.deliver(swapped).ack
    assert [each["result"] for each in kit.delivery(swapped)["results"]] == ["removed"]
    assert kit.deliver(swapped).outcome is Outcome.DELIVERED
    results = [(each["key"], each["result"]) for each in kit.delivery(swapped)["results"]]
    assert results == [(IMSI, "removed"), (OTHER_IMSI, "written")]


def test_who_waits_too_long_gives_the_message_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    clock = iter(range(1000))
    defaults: Any = pipeline.Pipeline.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "clock", lambda: float(next(clock)))
    monkeypatch.setitem(defaults, "sleep", naps.append)
    box = Box()
    kit = Kit(store, box)
    box.seen.after = [NoAnswer("no answer")]
    kit.deliver(sim_event(1))
    waiting = sim_event(2, blocked=True)
    verdict = kit.deliver(waiting)
    assert (verdict.ack, verdict.outcome) == (False, Outcome.WAITING)
    assert 1 <= len(naps) <= pipeline.PATIENCE_SECONDS
    assert box.writes == ["create"]
    assert kit.delivery(waiting)["outcome"] is None


def test_two_instances_at_once_write_once(store: Store) -> None:
    box = Box()
    one, two = Kit(store, box), Kit(store, box)
    event = sim_event()
    gate = threading.Barrier(2)
    verdicts: list[Verdict] = []

    def deliver(kit: Kit) -> None:
        gate.wait(10)
        verdicts.append(kit.deliver(event))

    threads = [threading.Thread(target=deliver, args=(kit,)) for kit in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert all(verdict.ack for verdict in verdicts)
    assert box.writes == ["create"]
    assert one.espf.statuses + two.espf.statuses == ["OK"]


# ---- replays -----------------------------------------------------------------------------------


def test_a_replay_is_a_delivery_of_its_own(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    event = sim_event(1)
    kit.deliver(event)
    box.holds.clear()  # somebody removed it by hand
    replay = replace(event, run=1, t=sim_event(5).t)
    verdict = kit.deliver(replay)
    assert verdict.ack
    assert kit.delivery(replay)["run"] == 1
    assert kit.delivery(event)["run"] == 0
    assert kit.delivery(event)["attempts"] == 1


# ---- Firestore and ESPF are away ---------------------------------------------------------------


def test_a_status_that_could_not_be_posted_stays_due(store: Store) -> None:
    kit = Kit(store, Box())
    kit.espf.faults = [Transient("ESPF is away")]
    assert kit.deliver(sim_event()).outcome is Outcome.DELIVERED
    assert kit.espf.posted == []
    kit.poster.send_due()
    assert kit.espf.statuses == ["OK"]
    assert kit.poster.send_due() == 0


@pytest.mark.parametrize(
    ("raised", "recorded"),
    [
        (
            Transient("secret auc cannot be read: password=hunter2"),
            "secret auc cannot be read",
        ),
        (KeyError("hunter2"), "the connector failed unexpectedly (KeyError)"),
    ],
)
def test_a_connector_that_fails_on_an_event_is_recorded_and_tried_again(
    store: Store, raised: Exception, recorded: str
) -> None:
    class Broken(Box):
        broken = True

        def desired(self, event: Enriched) -> Mapping[str, State]:
            if self.broken:
                raise raised
            return super().desired(event)

    box = Broken()
    kit = Kit(store, box)
    event = sim_event()
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (False, Outcome.RETRYING)
    kept = kit.delivery(event)
    assert kept["retry"]["error"].startswith(recorded)
    assert "hunter2" not in str(kept) + verdict.reason
    assert kit.espf.statuses == ["RETRY"]
    deliveries = store.client.collection("handlers", kit.handler, "deliveries")
    open_ones = deliveries.where(filter=FieldFilter("outcome", "==", None)).order_by("begun_at")
    assert [each.id for each in open_ones.stream()] == [event.delivery_id], "lists find it"
    box.broken = False
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert kit.delivery(event)["begun_at"] == kept["begun_at"], "its first attempt"
    assert kit.espf.statuses == ["RETRY", "OK"]


class AnyShape(Box):
    """A box whose states hold what Firestore does not: a connector may write it all the same."""

    def desired(self, event: Enriched) -> Mapping[str, State]:
        return {
            key: {
                **state,
                "lists": [[1, [event.t]], []],
                "": "no name",
                "__name__": {"": [[]]},
                "x" * 1600: 1,
                "big": 10**30,
                "cards": [{"ki": SecretValue(KI)}, ["deep", [SecretValue(KI)]]],
                "deep": json.loads("[" * 30 + "1" + "]" * 30),
            }
            for key, state in super().desired(event).items()
        }


def test_a_state_of_any_shape_is_kept_and_shown(store: Store) -> None:
    kit = Kit(store, AnyShape())
    first, second = sim_event(1), sim_event(2)
    assert kit.deliver(first).outcome is Outcome.DELIVERED
    assert kit.deliver(second).outcome is Outcome.DELIVERED
    (result,) = kit.delivery(second)["results"]
    assert result["fields"] == {"lists": went([[1, [first.t]], []], [[1, [second.t]], []])}
    held = kit.resource(IMSI)["state"]
    assert held["lists"] == [[1, [second.t]], []] and held["big"] == 10**30
    assert held["cards"] == [{"ki": "***"}, ["deep", ["***"]]]
    assert KI not in kit.everything()


# ---- what was there ------------------------------------------------------------------------------


def test_delete_gets_what_was_there_with_the_systems_own_ids(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    box.holds[IMSI]["subscriber_id"] = 4711
    kit.deliver(sim_event(2, imsi=None))
    assert box.seen.calls[-2:] == [
        ("read", IMSI),
        ("delete", IMSI, {"msisdn": "447700900001", "active": True, "subscriber_id": 4711}),
    ]


def test_what_is_not_there_any_more_is_removed_without_a_call(store: Store) -> None:
    box = Box()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    box.holds.clear()
    event = sim_event(2, imsi=None)
    assert kit.deliver(event).outcome is Outcome.UNCHANGED
    assert box.writes == ["create"]
    assert kit.delivery(event)["results"][0]["result"] == "already so"
    assert kit.resource(IMSI)["owner"] is None


def test_a_system_that_cannot_be_read_is_told_to_delete(store: Store) -> None:
    box = DarkBox()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    assert kit.deliver(sim_event(2, imsi=None)).outcome is Outcome.DELIVERED
    assert box.seen.calls[-1] == ("delete", IMSI, None)


# ---- what has to follow a write ------------------------------------------------------------------

ACTIVE = {"msisdn": "447700900001", "active": True}
BARRED = {"msisdn": "447700900001", "active": False}


def test_what_follows_a_write_is_done_after_each_write_and_only_then(store: Store) -> None:
    box = SignallingBox()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    kit.deliver(sim_event(2))
    kit.deliver(sim_event(3, blocked=True))
    kit.deliver(sim_event(4, imsi=OTHER_IMSI, blocked=True))
    assert box.signals == [
        (IMSI, ACTIVE, None),
        (IMSI, BARRED, ACTIVE),
        (IMSI, None, BARRED),
        (OTHER_IMSI, BARRED, None),
    ]
    assert not kit.resource(IMSI)["owed"]


@pytest.mark.parametrize(
    "fault", [Transient("busy"), Unclear("500"), NoAnswer("gone"), Terminal("no"), KeyError("x")]
)
def test_what_follows_a_write_is_repeated_although_the_state_is_equal(
    store: Store, fault: Exception
) -> None:
    box = SignallingBox()
    kit = Kit(store, box)
    box.faults = [fault]
    event = sim_event(1)
    verdict = kit.deliver(event)
    assert verdict.outcome is not Outcome.DELIVERED
    assert "OK" not in kit.espf.statuses
    assert kit.resource(IMSI)["owed"] and kit.resource(IMSI)["dirty"]
    kit.free(IMSI)
    again = sim_event(2) if isinstance(fault, Terminal) else event
    assert kit.deliver(again).ack
    assert box.writes == ["create"]
    assert box.signals == [(IMSI, ACTIVE, None)] * 2
    assert not kit.resource(IMSI)["owed"] and not kit.resource(IMSI)["dirty"]
    assert kit.espf.statuses[-1] == "OK"
    assert kit.deliver(sim_event(3)).outcome is Outcome.UNCHANGED
    assert len(box.signals) == 2


def test_the_error_says_that_the_state_is_written_and_its_effect_owed(store: Store) -> None:
    box = SignallingBox()
    box.faults = [Transient("the NAS is busy")]
    verdict = Kit(store, box).deliver(sim_event(1))
    assert verdict.reason == (
        "the state is written, and what has to follow it is owed: the NAS is busy"
    )


def test_what_is_owed_follows_the_newest_state(store: Store) -> None:
    box = SignallingBox()
    kit = Kit(store, box)
    box.faults = [Transient("busy")]
    first = sim_event(1)
    kit.deliver(first)
    kit.deliver(sim_event(2, blocked=True))
    assert box.signals[-1] == (IMSI, BARRED, ACTIVE)
    assert not kit.resource(IMSI)["owed"]
    assert kit.deliver(first).outcome is Outcome.SUPERSEDED
    assert len(box.signals) == 2


def test_what_follows_a_removal_is_owed_too(store: Store) -> None:
    box = SignallingBox()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    box.faults = [Transient("busy")]
    event = sim_event(2, imsi=OTHER_IMSI)
    assert not kit.deliver(event).ack
    assert box.holds == {} and kit.resource(IMSI)["owed"]
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert [signal for signal in box.signals if signal[1] is None] == [
        (IMSI, None, ACTIVE),
        (IMSI, None, None),
    ]


@pytest.mark.parametrize("fault", [Transient("busy"), Terminal("not this one")])
def test_what_was_not_written_owes_nothing(store: Store, fault: Exception) -> None:
    box = SignallingBox()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    box.seen.before = [None, fault]
    kit.deliver(sim_event(2, blocked=True))
    assert kit.resource(IMSI)["dirty"] and not kit.resource(IMSI)["owed"]
    kit.deliver(sim_event(3))
    assert len(box.signals) == 1 and box.writes == ["create", "change"]


def test_a_write_without_an_answer_owes_what_follows_it(store: Store) -> None:
    box = SignallingBox()
    kit = Kit(store, box)
    box.seen.after = [NoAnswer("the answer is lost")]
    event = sim_event(1)
    kit.deliver(event)
    kit.free(IMSI)
    assert kit.deliver(event).ack
    assert box.writes == ["create"] and box.signals == [(IMSI, ACTIVE, None)]


def test_a_former_owners_state_is_not_removed_because_an_effect_was_refused(store: Store) -> None:
    box = SignallingBox()
    kit = Kit(store, box)
    kit.deliver(sim_event(1))
    box.faults = [Terminal("no such session")]
    taken = sim_event(2, i_account=1002, blocked=True)
    assert kit.deliver(taken).outcome is Outcome.REJECTED
    assert box.holds == {IMSI: BARRED}
    assert kit.resource(IMSI)["owed"] and not box.writes.count("delete")
