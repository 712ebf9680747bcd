"""The checker of histories finds what is wrong: each promise is broken once, and a history in which
everything may happen that may happen has nothing wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.end_to_end.history_checker import (
    Acknowledged,
    Delivery,
    Kill,
    MessageSystem,
    PostedStatus,
    ReceivedMessage,
    Rule,
    Run,
    StateSystem,
    Write,
    violations,
)

ADA = [("v1", False), ("v2", True), ("v3", True)]
BEN = [("w1", False), ("w2", False)]

CRM = StateSystem(
    "crm",
    [
        Write("ada", "ada", ADA[0], 1.0, 1.1, "e1"),
        Write("ben", "ben", BEN[0], 1.05, 1.2, "e2"),  # another resource, at the same time
        Write("ada", "ada", ADA[0], 1.1, 1.2, "e1"),  # the same once more
        Write("ada", "ada", ADA[2], 3.0, 3.1, "e3"),  # one left out
        Write("ben", "ben", BEN[1], 3.0, 3.1, "e4"),
    ],
    has={"ada": ADA[2], "ben": BEN[1]},
    should={"ada": ADA[2], "ben": BEN[1]},
)
SIMS = StateSystem(
    "sims",
    [
        Write("imsi-1", "ada", ADA[0], 1.0, 1.0),
        Write("imsi-1", "ben", BEN[1], 3.0, 3.0),
        Write("imsi-1", "ada", ADA[2], 3.1, 3.1),  # older than the move, and another's
        Write("imsi-1", None, None, 3.2, 3.2),
        Write("imsi-1", "ben", BEN[1], 3.3, 3.3),
    ],
    has={"imsi-1": ("ben", *BEN[1])},
    should={"imsi-1": ("ben", *BEN[1]), "imsi-2": None},
)
MAIL = MessageSystem(
    "mail",
    [
        ReceivedMessage("e1", 1.0, 1.1),
        ReceivedMessage("e2", 1.9, 2.0),
        ReceivedMessage("e2", 2.6, 2.7),  # there was a kill between
        ReceivedMessage("e3", 3.0, 3.1),
        ReceivedMessage("e4", 3.0, 3.1),
    ],
)
EVENTS = ("e1", "e2", "e3", "e4")
OUTCOMES = {"e1": "unchanged", "e2": "superseded", "e3": "delivered", "e4": "delivered"}
OWNERS = {"e1": 1, "e2": 2, "e3": 1, "e4": 2}
DELIVERIES = [
    Delivery(event_id, handler, OUTCOMES[event_id], f"t{n}", OWNERS[event_id], handler.upper())
    for n, event_id in enumerate(EVENTS)
    for handler in ("crm", "sims")
]
GOOD = Run(
    acknowledged=[Acknowledged(event_id, 0.9 + n / 10) for n, event_id in enumerate(EVENTS)],
    kills=[Kill("pubsub", 2.1, 2.5)],
    versions={"ada": ADA, "ben": BEN},
    states=[CRM, SIMS],
    messages=[MAIL],
    handlers=["crm", "sims"],
    deliveries=DELIVERIES,
    posted=[
        PostedStatus(i_account, group, status)
        for i_account in (1, 2)
        for group in ("CRM", "SIMS")
        for status in ("RETRY", "OK")
    ],
)


def found(run: Run) -> list[Rule]:
    return [each.rule for each in violations(run)]


def crm(*more: Write, **changed: object) -> Run:
    """The good run with more writes in the CRM, or other members of it."""
    system = replace(CRM, writes=[*CRM.writes, *more], **changed)  # type: ignore[arg-type]
    return replace(GOOD, states=[system, SIMS])


def mail(*received: ReceivedMessage) -> Run:
    return replace(GOOD, messages=[MessageSystem("mail", received)])


def became(number: int, **changed: object) -> Run:
    """The good run, in which the n-th delivery is another."""
    deliveries = list(DELIVERIES)
    deliveries[number] = replace(deliveries[number], **changed)  # type: ignore[arg-type]
    return replace(GOOD, deliveries=deliveries)


def test_a_good_history_has_nothing_wrong() -> None:
    assert violations(GOOD) == []


def test_an_acknowledged_event_that_nobody_heard_is_lost() -> None:
    run = mail(*MAIL.received[:-1])
    assert found(run) == [Rule.LOST]
    assert "mail never heard e4, acknowledged at 1.200" in violations(run)[0].what


def test_an_event_that_was_never_acknowledged_is_invented() -> None:
    assert found(mail(*MAIL.received, ReceivedMessage("e9", 3.0, 3.1))) == [Rule.INVENTED]
    assert found(crm(Write("ada", "ada", ADA[2], 4.0, 4.1, "e9"))) == [Rule.INVENTED]


def test_a_state_that_portabilling_never_had_is_invented() -> None:
    assert found(crm(Write("ada", "ada", ("v3", False), 4.0, 4.1, "e3"))) == [Rule.INVENTED]
    assert found(crm(Write("ada", "cleo", ADA[2], 4.0, 4.1, "e3"))) == [Rule.INVENTED]


def test_a_wrong_end() -> None:
    assert found(crm(has={"ada": ADA[1], "ben": BEN[1]})) == [Rule.WRONG_END]
    assert found(crm(has={"ada": ADA[2]})) == [Rule.WRONG_END]
    left_over = {**CRM.has, "cleo": ADA[1]}
    assert found(crm(has=left_over)) == [Rule.WRONG_END]


def test_an_older_state_after_a_newer_one() -> None:
    run = crm(Write("ada", "ada", ADA[1], 4.0, 4.1, "e1"))
    assert found(run) == [Rule.OLDER]
    assert "after ('v3', True), by e1" in violations(run)[0].what
    # once more the newest does not hide it, and does not count as a second one
    run = crm(
        Write("ada", "ada", ADA[1], 4.0, 4.1, "e1"), Write("ada", "ada", ADA[2], 5.0, 5.1, "e3")
    )
    assert found(run) == [Rule.OLDER]


def test_two_writers_on_one_resource() -> None:
    assert found(crm(Write("ada", "ada", ADA[2], 3.05, 3.2, "e1"))) == [Rule.OVERLAP]
    inside = crm(Write("ada", "ada", ADA[2], 3.02, 3.03, "e1"))
    assert found(inside) == [Rule.OVERLAP]
    # also beside one that began long before the last
    long_one = Write("ada", "ada", ADA[2], 4.0, 9.0, "e1")
    short = Write("ada", "ada", ADA[2], 5.0, 5.1, "e3"), Write("ada", "ada", ADA[2], 6.0, 6.1, "e1")
    assert found(crm(long_one, *short)) == [Rule.OVERLAP, Rule.OVERLAP]


@pytest.mark.parametrize(
    ("began", "ended"), [(1.0, 1.8), (2.61, 2.7)], ids=["before both", "after both"]
)
def test_heard_twice_without_a_kill_between(began: float, ended: float) -> None:
    assert found(replace(GOOD, kills=[Kill("crm", began, ended)])) == [Rule.TWICE]
    assert found(replace(GOOD, kills=[])) == [Rule.TWICE]


def test_each_repetition_needs_a_kill_of_its_own() -> None:
    thrice = mail(*MAIL.received, ReceivedMessage("e2", 2.8, 2.9))
    assert found(thrice) == [Rule.TWICE]
    again = replace(thrice, kills=[*GOOD.kills, Kill("crm", 2.75, 2.78)])
    assert found(again) == []


@pytest.mark.parametrize("outcome", ["rejected", "expired"])
def test_refused_although_all_systems_are_well(outcome: str) -> None:
    run = became(7, outcome=outcome)
    assert found(run) == [Rule.UNFINISHED, Rule.STATUS]
    assert f"e4 is {outcome} for sims" in violations(run)[0].what


@pytest.mark.parametrize("outcome", ["retrying", "parked", "waiting", "accepted"])
def test_what_is_not_finished(outcome: str) -> None:
    assert found(became(2, outcome=outcome))[0] == Rule.UNFINISHED


def test_what_the_history_does_not_have() -> None:
    assert found(replace(GOOD, deliveries=DELIVERIES[2:])) == [Rule.UNFINISHED] * 2


def test_a_wrong_status() -> None:
    wrong = replace(GOOD, posted=[*GOOD.posted, PostedStatus(1, "CRM", "RETRY")])
    assert found(wrong) == [Rule.STATUS]
    assert "heard RETRY of 1 in CRM, the history says {'OK'}" in violations(wrong)[0].what
    never = replace(GOOD, posted=GOOD.posted[:-2])
    assert found(never) == [Rule.STATUS]
    of_nothing = replace(GOOD, posted=[*GOOD.posted, PostedStatus(3, "CRM", "OK")])
    assert found(of_nothing) == [Rule.STATUS]


def test_the_newest_outcome_decides_the_status() -> None:
    """An older delivery's failure, told before, is no fault; a newer one's that was not told is."""
    older = Delivery("e1", "crm", "rejected", "t0", 1, "CRM")
    assert Rule.STATUS not in found(replace(GOOD, deliveries=[*DELIVERIES[1:], older]))
    newer = replace(older, t="t9")
    assert Rule.STATUS in found(replace(GOOD, deliveries=[*DELIVERIES[1:], newer]))
