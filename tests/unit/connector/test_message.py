"""Message connectors through the kit: each event counts once, or the newest does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nsps.outcome import NoAnswer, Outcome, Terminal, Transient
from nsps.store import Store

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
    assert kit.espf.told == [(1001, "Mail", "OK", "")]


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


def test_with_newest_wins_an_older_message_gives_way(store: Store) -> None:
    letters = Letters(newest=True)
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


def test_with_newest_wins_every_newer_message_goes_out(store: Store) -> None:
    letters = Letters(newest=True)
    kit = Kit(store, letters)
    for second in (1, 2, 3):
        assert kit.deliver(sim_event(second, email=MAIL)).outcome is Outcome.DELIVERED
    assert letters.seen.names() == ["send"] * 3


def test_with_newest_wins_one_goes_out_at_a_time(store: Store) -> None:
    letters = Letters(newest=True)
    kit = Kit(store, letters)
    first = sim_event(1, email=MAIL)
    letters.seen.after = [NoAnswer("no answer")]
    kit.deliver(first)
    kit.free("message/account:1001")
    second = sim_event(2, email=MAIL)
    assert kit.deliver(second).outcome is Outcome.DELIVERED
    assert kit.deliver(first).outcome is Outcome.SUPERSEDED  # what it said may be out of date
    assert letters.seen.names() == ["send", "send"]


def test_nothing_to_send_is_recorded_and_espf_is_not_told(store: Store) -> None:
    letters = Letters()
    kit = Kit(store, letters)
    event = sim_event(email=None)
    verdict = kit.deliver(event)
    assert (verdict.ack, verdict.outcome) == (True, Outcome.UNCHANGED)
    assert kit.delivery(event)["summary"] == "nothing to send"
    assert letters.seen.calls == [] and kit.espf.told == []
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
    assert kit.espf.told == [(1001, "HSS", "FAILED", "the address is none, token=***")]
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


def test_what_the_system_says_is_kept_without_secrets(store: Store) -> None:
    said = '202 {"message": "ok", "Authorization": "Bearer s3cret-t0ken", "ki": "0011"}'
    letters = Letters(answer=said)
    kit = Kit(store, letters)
    event = sim_event(email=MAIL)
    kit.deliver(event)
    told = kit.delivery(event)["results"][0]["answer"]
    assert told.startswith("202") and "ok" in told
    assert "s3cret-t0ken" not in kit.everything() and "0011" not in told
