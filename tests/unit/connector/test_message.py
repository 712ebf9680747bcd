"""Message connectors through the kit: each event counts once, or the newest does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from nsps.cloud.store import Store
from nsps.connector.base import Ordering
from nsps.delivery.ledger.documents import MOST_MEANINGS
from nsps.delivery.ledger.protocol import MOST_READ_AGAIN
from nsps.domain.outcome import NoAnswer, Outcome, Terminal, Transient

from tests.unit.connector.systems import Kit, Letters, sim_event

MAIL = "ann@example.net"


class Crash(BaseException):
    """The instance is killed: nothing after it runs."""


def crash() -> None:
    raise Crash


def test_a_message_is_sent_once_however_often_it_is_brought(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters, group="Mail")
    event = sim_event(email=MAIL)
    verdicts = [kit.deliver(event) for _ in range(4)]
    assert [(v.ack, v.outcome) for v in verdicts] == [(True, Outcome.DELIVERED)] * 4
    assert letters.seen.names() == ["send"]
    kept = kit.delivery(event)
    assert kept["summary"] == "letter about SIM/Updated"
    assert kept["results"][0]["answer"] == "250 queued"
    assert kit.espf.posted == [(1001, "Mail", "OK", "")]


def test_a_crash_before_the_sending_costs_nothing(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    event = sim_event(email=MAIL)
    letters.seen.before = [crash]
    with pytest.raises(Crash):
        kit.deliver(event)
    kit.free(f"message/event:{event.event_id}")
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send", "send"]


def test_a_crash_between_sending_and_record_is_the_one_way_to_a_second_copy(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    event = sim_event(email=MAIL)
    letters.seen.after = [crash]
    with pytest.raises(Crash):
        kit.deliver(event)
    kit.free(f"message/event:{event.event_id}")
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    assert kit.deliver(event).outcome is Outcome.DELIVERED
    sent = letters.seen.calls
    assert len(sent) == 2
    assert sent[0][2] == sent[1][2]  # under the same reference, so that it can be recognised


def test_each_event_counts_whatever_their_order(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    for second in (3, 1, 2):
        assert kit.deliver(sim_event(second, email=MAIL)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send"] * 3


ORDERED = [Ordering.NEWEST, Ordering.STATE]
BLOCKED = "Account/Blocked"


@pytest.mark.parametrize("ordering", ORDERED)
def test_an_older_message_gives_way_to_a_newer_one_that_says_the_same(
    store: Store, ordering: Ordering
) -> None:
    letters = Letters(ordering)
    kit = Kit(store, letters, group="CRM")
    newer, older = sim_event(2, email=MAIL), sim_event(1, email=MAIL)
    assert kit.deliver(newer).outcome is Outcome.DELIVERED
    verdict = kit.deliver(older)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.SUPERSEDED)
    assert kit.delivery(older)["superseded_by"] == newer.event_id
    assert letters.seen.names() == ["send"]
    assert kit.espf.statuses == ["OK"]
    other_owner = sim_event(1, email=MAIL, i_account=1002)
    assert kit.deliver(other_owner).outcome is Outcome.DELIVERED


@pytest.mark.parametrize("ordering", ORDERED)
def test_of_events_with_one_snapshot_that_say_the_same_one_goes_out(
    store: Store, ordering: Ordering
) -> None:
    letters = Letters(ordering)
    kit = Kit(store, letters)
    first = sim_event(1, email=MAIL)
    same = replace(sim_event(1, email=MAIL), t=first.t)
    other = replace(sim_event(1, email=MAIL, event_type=BLOCKED), t=first.t)
    assert kit.deliver(first).outcome is Outcome.DELIVERED
    assert kit.deliver(same).outcome is Outcome.SUPERSEDED
    counts = ordering is Ordering.NEWEST  # perhaps the system heeds only this type
    expected = Outcome.DELIVERED if counts else Outcome.SUPERSEDED
    assert kit.deliver(other).outcome is expected
    assert kit.deliver(replace(same, run=1)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send"] * (3 if counts else 2)


def test_every_newer_message_goes_out(store: Store) -> None:
    letters = Letters(Ordering.NEWEST)
    kit = Kit(store, letters)
    for second in (1, 2, 3):
        assert kit.deliver(sim_event(second, email=MAIL)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send"] * 3


def test_equal_content_is_not_sent_again_to_a_system_that_looks_at_the_data_alone(
    store: Store,
) -> None:
    letters = Letters(Ordering.STATE)
    kit = Kit(store, letters, group="CRM")
    changes = [MAIL, MAIL, "bob@example.net", MAIL]
    for second, email in enumerate(changes, start=1):
        event = sim_event(second, email=email)
        assert kit.deliver(event).outcome in (Outcome.DELIVERED, Outcome.UNCHANGED)
    assert letters.seen.names() == ["send"] * 3
    assert kit.espf.statuses[-1] == "OK"
    assert kit.deliver(replace(event, run=1)).outcome is Outcome.DELIVERED  # somebody asks for it
    assert letters.seen.names() == ["send"] * 4


def test_after_a_refusal_equal_content_is_sent_again(store: Store) -> None:
    """What was refused may have taken effect in part."""
    letters = Letters(Ordering.STATE)
    kit = Kit(store, letters)
    kit.deliver(sim_event(1, email=MAIL))
    letters.seen.after = [Terminal("no")]
    assert kit.deliver(sim_event(2, email="bob@example.net")).outcome is Outcome.REJECTED
    assert kit.deliver(sim_event(3, email=MAIL)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send"] * 3


@pytest.mark.parametrize("ordering", ORDERED)
def test_one_message_of_an_owner_goes_out_at_a_time(store: Store, ordering: Ordering) -> None:
    letters = Letters(ordering)
    kit = Kit(store, letters)
    first = sim_event(1, email=MAIL)
    letters.seen.after = [NoAnswer("no answer")]
    kit.deliver(first)
    kit.free("message/account:1001")
    second = sim_event(2, email=MAIL)
    assert kit.deliver(second).outcome is Outcome.DELIVERED
    assert kit.deliver(first).outcome is Outcome.SUPERSEDED  # what it said may be out of date
    assert letters.seen.names() == ["send", "send"]


def test_a_newer_event_of_another_type_never_takes_an_events_place(store: Store) -> None:
    """Perhaps the system ignores the other type: only the event itself can be relied on."""
    letters = Letters(Ordering.NEWEST)
    kit = Kit(store, letters)
    updated = sim_event(1, email=MAIL)
    blocked = sim_event(2, email=MAIL, event_type=BLOCKED)
    assert kit.deliver(blocked).outcome is Outcome.DELIVERED
    verdict = kit.deliver(updated)
    assert (verdict.ack, verdict.read_again, verdict.outcome) == (False, True, Outcome.WAITING)
    kept = kit.delivery(updated)
    assert kept["outcome"] is None
    assert kept["waits_for"] == "newer data: another event of the owner went first"
    assert letters.seen.names() == ["send"]  # its own data would undo what was sent
    assert kit.deliver(kit.read_again(updated, 3)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send", "send"]
    kept = kit.delivery(updated)
    assert (kept["outcome"], kept["waits_for"], kept["read_again"]) == ("delivered", None, 1)
    late = kit.deliver(updated)  # its first message, brought once more
    assert (late.ack, late.read_again) == (True, False)


@pytest.mark.parametrize(
    ("says", "superseded"),
    [
        ({"event_time": "2026-11-21 02:10:02"}, True),
        ({"prev_i_sim_card": 7}, False),
        ({"prev_status": "active", "curr_status": "used"}, False),
    ],
)
def test_an_event_that_says_something_else_is_not_superseded(
    store: Store, says: dict[str, Any], superseded: bool
) -> None:
    """Of two swaps in a row each names another previous SIM card."""
    kit = Kit(store, Letters(Ordering.NEWEST))
    assert kit.deliver(sim_event(2, email=MAIL)).outcome is Outcome.DELIVERED
    verdict = kit.deliver(sim_event(1, email=MAIL, says=says))
    assert (verdict.outcome is Outcome.SUPERSEDED, verdict.read_again) == (
        superseded,
        not superseded,
    )


def test_where_only_the_data_counts_any_newer_event_takes_over(store: Store) -> None:
    letters = Letters(Ordering.STATE)
    kit = Kit(store, letters)
    newer = sim_event(2, email=MAIL, event_type=BLOCKED)
    assert kit.deliver(newer).outcome is Outcome.DELIVERED
    older = sim_event(1, email=MAIL)
    assert kit.deliver(older).outcome is Outcome.SUPERSEDED
    assert kit.delivery(older)["superseded_by"] == newer.event_id


def test_a_message_that_failed_is_not_sent_over_a_newer_one(store: Store) -> None:
    """Its call had begun before the newer one came: the same as if it had not."""
    letters = Letters(Ordering.NEWEST)
    kit = Kit(store, letters)
    updated = sim_event(1, email=MAIL)
    letters.seen.before = [Transient("422 Timed out")]
    assert kit.deliver(updated).outcome is Outcome.RETRYING
    blocked = sim_event(2, email=MAIL, event_type=BLOCKED)
    assert kit.deliver(blocked).outcome is Outcome.DELIVERED
    assert kit.deliver(updated).read_again
    assert kit.deliver(kit.read_again(updated, 3)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send"] * 3


def test_two_messages_that_fail_do_not_overtake_each_other_for_ever(store: Store) -> None:
    """Each time they would come as new messages, with all attempts before them; never parked."""
    letters = Letters(Ordering.NEWEST)
    kit = Kit(store, letters)
    letters.seen.before = [Transient("422 Timed out")] * 99
    events = [sim_event(1, email=MAIL), sim_event(2, email=MAIL, event_type=BLOCKED)]
    copies, second, read = list(events), 2, 0
    for turn in range(20):
        mine = turn % 2
        if kit.deliver(copies[mine]).read_again:
            second, read = second + 1, read + 1
            copies[mine] = kit.read_again(copies[mine], second)
    assert read == 2 * MOST_READ_AGAIN
    letters.seen.before = []
    newer, older = sorted(copies, key=lambda copy: copy.t, reverse=True)
    assert kit.deliver(older).reason.endswith("has not got through")
    assert kit.deliver(newer).outcome is Outcome.DELIVERED
    assert kit.deliver(older).read_again  # nothing keeps it from its turn any more
    assert kit.deliver(kit.read_again(older, second + 1)).outcome is Outcome.DELIVERED


def test_nobody_waits_for_a_message_that_was_refused(store: Store) -> None:
    letters = Letters(Ordering.NEWEST)
    kit = Kit(store, letters)
    older, newer = sim_event(1, email=MAIL), sim_event(9, email=MAIL, event_type=BLOCKED)
    letters.seen.before = [Terminal("422 no such subscriber")]
    assert kit.deliver(newer).outcome is Outcome.REJECTED
    for _ in range(2 * MOST_READ_AGAIN):  # the same message: each time it was cut off before ack
        assert kit.deliver(older).read_again
    assert kit.deliver(kit.read_again(older, 10)).outcome is Outcome.DELIVERED


def test_an_owner_keeps_the_marks_of_the_newest_meanings(store: Store) -> None:
    """What says something else each time does not fill the owner's document."""
    kit = Kit(store, Letters(Ordering.NEWEST))
    for number in range(MOST_MEANINGS + 5):
        event = sim_event(number, email=MAIL, says={"amount": number})
        assert kit.deliver(event).outcome is Outcome.DELIVERED
    kept = store.read(store.owner("hss", "account:1001")) or {}
    assert len(kept["meanings"]) == MOST_MEANINGS
    assert kit.deliver(sim_event(1, email=MAIL, says={"amount": 2})).read_again  # not lost
    newest = MOST_MEANINGS + 4
    again = sim_event(newest - 1, email=MAIL, says={"amount": newest})
    assert kit.deliver(again).outcome is Outcome.SUPERSEDED


def test_nothing_to_send_is_recorded_and_espf_is_not_told(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    event = sim_event(email=None)
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.UNCHANGED)
    assert kit.delivery(event)["summary"] == "nothing to send"
    assert letters.seen.calls == [] and kit.espf.posted == []
    assert kit.deliver(event).ack


def test_a_replay_sends_again(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    event = sim_event(1, email=MAIL)
    kit.deliver(event)
    for run in (1, 2, 2):
        assert kit.deliver(replace(event, run=run)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send"] * 3
    assert len({call[2] for call in letters.seen.calls}) == 3


def test_a_message_that_can_never_be_sent_is_rejected(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    verdict = kit.deliver(sim_event(email="no address"))
    assert (verdict.ack, verdict.outcome) == (True, Outcome.REJECTED)
    assert kit.espf.posted == [(1001, "HSS", "FAILED", "the address is none, token=***")]
    assert "abcdef0123" not in verdict.reason + kit.everything()
    assert letters.seen.calls == []


@pytest.mark.parametrize(
    ("error", "ack", "outcome", "status"),
    [
        (Transient("451 later", retry_after=30), False, Outcome.RETRYING, "RETRY"),
        (NoAnswer("lost"), False, Outcome.RETRYING, "RETRY"),
        (Terminal("550 no such user"), True, Outcome.REJECTED, "FAILED"),
        (ValueError("?"), False, Outcome.RETRYING, "RETRY"),
    ],
)
def test_what_each_failure_means(
    store: Store, error: Exception, ack: bool, outcome: Outcome, status: str
) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    letters.seen.before = [error]
    verdict = kit.deliver(sim_event(email=MAIL))
    assert (verdict.ack, verdict.outcome) == (ack, outcome)
    assert verdict.retry_after == getattr(error, "retry_after", None)
    assert kit.espf.statuses == [status]


def test_a_connector_that_fails_on_an_event_is_recorded_and_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        raise RecursionError("hunter2")

    letters = Letters()
    kit = Kit(store, letters)
    event = sim_event(email=MAIL)
    with monkeypatch.context() as patched:
        patched.setattr(letters, "message", broken)
        verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (False, Outcome.RETRYING)
    failure = kit.delivery(event)["retry"]["error"]
    assert failure.startswith("the connector failed unexpectedly (RecursionError)")
    assert kit.deliver(event).outcome is Outcome.DELIVERED


def test_what_the_system_says_is_kept_without_secrets(store: Store) -> None:
    said = '202 {"message": "ok", "Authorization": "Bearer s3cret-t0ken", "ki": "0011"}'
    letters = Letters(answer=said)
    kit = Kit(store, letters)
    event = sim_event(email=MAIL)
    kit.deliver(event)
    kept = kit.delivery(event)["results"][0]["answer"]
    assert kept.startswith("202") and "ok" in kept
    assert "s3cret-t0ken" not in kit.everything() and "0011" not in kept
