"""How events come: again, out of order, at once."""

from __future__ import annotations

from nsps_local.certify import expectations as expect
from nsps_local.certify.case import Case, Level, Way
from nsps_local.certify.samples import Samples

_AT_ONCE = 8
_IN_TURN = 10


def cases(samples: Samples) -> list[Case]:
    return [
        _repeated(samples),
        *_out_of_order(samples),
        _at_once(samples),
        *_in_turn(samples),
    ]


def _repeated(samples: Samples) -> Case:
    who = samples.subscriber()
    document = samples.document(who)
    return Case(
        name="repeated",
        level=Level.CONTRACT,
        title="The same event again is processed again, or known",
        why="Every queue on the way delivers at least once, and an answer may get lost. (ESPF: the "
        "receiver must tolerate the same event many times; event_id stays the same)",
        mend="Write the state that the event describes instead of a change; take 'already exists' "
        "and 'is not there' for success; answer 202 to an event_id that is done already.",
        send=[samples.request(f"time {number}", who, document) for number in (1, 2, 3)],
        expect=[expect.processed()],
    )


def _out_of_order(samples: Samples) -> list[Case]:
    who, former = samples.subscriber(), samples.subscriber()
    newer, older = samples.document(who, age=60), samples.document(who, age=3600)
    older["pb_data"]["account_info"]["id"] = f"{former.msisdn}@msisdn"
    older["pb_data"]["sim_info"]["msisdn"] = former.msisdn
    sent = Case(
        name="out-of-order",
        level=Level.CONTRACT,
        title="An older event after a newer one is answered 2xx",
        why="ESPF sends without waiting and tries again later: order is not guaranteed. What was "
        "overtaken is done with. (technical specification: event timestamps keep chronological "
        "integrity)",
        mend="Answer 202 to an event that a newer one of its account has overtaken.",
        send=[
            samples.request("the newer event (updated_at a minute ago)", who, newer),
            samples.request("the older event (updated_at an hour ago)", who, older),
        ],
        expect=[expect.processed()],
    )
    return [
        sent,
        Case(
            name="older-not-written",
            level=Level.ROBUST,
            title="An older event does not overwrite a newer one's state",
            why="The subscriber would keep the state from before the change until the next event. "
            "(technical specification: event timestamps keep chronological integrity)",
            mend="Keep the updated_at of the last event per account (or per IMSI) where all "
            "instances see it, and write only what is newer.",
            judges=[sent.name],
            needs_system=True,
            needs_state=True,
            expect=[expect.older_not_written(who.msisdn, former.msisdn)],
        ),
    ]


def _at_once(samples: Samples) -> Case:
    who = samples.subscriber()
    return Case(
        name="concurrent",
        level=Level.ROBUST,
        title=f"{_AT_ONCE} events of one account at once",
        why="One change of a customer or product becomes a burst of events. To be busy is no "
        "shame (429, 503: sent again); to fail is. (ESPF: dispatchers; AsyncMode)",
        mend="Let one event of an account be written at a time; share no connection between "
        "threads; answer 429 or 503 with Retry-After when it takes too long.",
        send=[
            samples.request(f"event {number + 1}", who, samples.document(who, age=30 - number))
            for number in range(_AT_ONCE)
        ],
        way=Way.AT_ONCE,
        patience=20,
        expect=[
            expect.status(*range(200, 300), 429, 503),
            expect.at_least_one_processed(),
        ],
    )


def _in_turn(samples: Samples) -> list[Case]:
    people = [samples.subscriber() for _ in range(_IN_TURN)]
    sent = Case(
        name="in-turn",
        level=Level.ROBUST,
        title="Ten events in turn are each answered in time",
        why="NSPS waits for the answer, and holds one event of the account meanwhile; the sample "
        "connector gives its system 30 s. (sample connector; the limit is ours: 10 s)",
        mend="Give every call to the system a time limit, and keep connections open.",
        send=[samples.request(f"event {n}", who) for n, who in enumerate(people, 1)],
        expect=[expect.processed(), expect.within(10)],
    )
    who = samples.subscriber()
    return [
        sent,
        Case(
            name="in-a-second",
            level=Level.EXEMPLARY,
            title="Each is answered within a second",
            why="At 10 events a second, ESPF's own pace, slow answers pile up. (ESPF delivery "
            "settings: TokenRate; the limit is ours: 1 s)",
            mend="Keep connections to the system open; do not log in for each event; do not sleep.",
            judges=[sent.name],
            expect=[expect.within(1)],
        ),
        Case(
            name="keep-alive",
            level=Level.EXEMPLARY,
            title="A connection is kept for the next event",
            why="A new connection, with TLS, costs three round trips an event. (HTTP/1.1, "
            "RFC 9112 9.3)",
            mend="Speak HTTP/1.1, send Content-Length, and do not close after each answer (and "
            "keep idle connections longer than the sender does).",
            send=[samples.request(f"event {number}", who) for number in (1, 2, 3)],
            way=Way.ONE_CONNECTION,
            expect=[expect.stays_open()],
        ),
        Case(
            name="system-connections",
            level=Level.EXEMPLARY,
            title="Connections to the system are used again",
            why="A client per request exhausts ports and the system's sessions in a burst. (our "
            "own experience; some protocols, such as SMTP, are made that way)",
            mend="Make one pooled client when the instance starts, and use it for every event.",
            judges=[sent.name],
            needs_system=True,
            expect=[expect.fewer_connections_than_requests()],
        ),
    ]
