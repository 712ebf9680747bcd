"""Health, and each documented event type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nsps_local.certify import expectations as expect
from nsps_local.certify.case import Case, Level, Request, Target
from nsps_local.certify.samples import Samples, Subscriber

_OF_ACCOUNTS = (
    "SIM/Created",
    "SIM/Updated",
    "SIM/Replaced",
    "SIM/Deleted",
    "Subscriber/Created",
    "Subscriber/Updated",
    "Subscriber/Deleted",
    "Account/New",
    "Account/SIMCardAssignment",
    "Account/ServicePassword/Changed",
    "Account/Password/Changed",
    "Account/ID/Changed",
    "Account/ZeroAvailableFunds",
    "Account/AvailableFundsAppear",
    "Account/Product/Changed",
    "Account/Blocked",
    "Account/Unblocked",
)
_OF_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "Customer/Created": {"i_customer": 6392},
    "Customer/Updated": {"i_customer": 6392},
    "Customer/Deleted": {"i_customer": 6392},
    "Customer/ZeroAvailableFunds": {"i_customer": 6392},
    "Customer/AvailableFundsAppear": {"i_customer": 6392},
    "Customer/Blocked": {"i_customer": 6392},
    "Customer/Unblocked": {"i_customer": 6392},
    "DID/Created": {"number": "99900000001"},
    "DID/Updated": {"number": "99900000001"},
    "DID/Deleted": {"number": "99900000001"},
    "Invoice/Created": {"i_customer": 6392, "i_invoice": 77},
    "Invoice/Updated": {"i_customer": 6392, "i_invoice": 77},
}
DOCUMENTED = (*_OF_ACCOUNTS, *_OF_OTHERS)
"""The groups of the simplified vocabulary, the SIM group, and the vendor's set for an MVNO."""


def health() -> list[Case]:
    return [
        Case(
            name="health",
            level=Level.CONTRACT,
            title="GET /health answers 200",
            why="It is asked before events are sent, and while the connector does not answer. "
            "(contract, endpoints: GET /health -> 200, optional body)",
            mend="Serve GET /health beside the service's path and answer 200 with {}. Somewhere "
            "else? Name it with --health.",
            send=[Request(what="health", method="GET", target=Target.HEALTH)],
            expect=[expect.status(200)],
        )
    ]


def cases(samples: Samples, event_types: Sequence[str]) -> list[Case]:
    return [
        *(_of_account(samples, each) for each in event_types if each not in _OF_OTHERS),
        *_of_others(samples, [each for each in event_types if each in _OF_OTHERS]),
        _unsupported(samples),
        _ids_as_text(samples),
        _without_trace(samples),
    ]


def _of_account(samples: Samples, event_type: str) -> Case:
    who = samples.subscriber()
    document = samples.document(who, event_type)
    blocks = document["pb_data"]
    if event_type in ("SIM/Updated", "SIM/Replaced"):
        document["data"]["variables"]["event_time"] = "2025-05-01 12:00:00"
    if event_type == "SIM/Replaced":
        former = samples.subscriber()
        blocks["prev_sim_info"] = blocks["sim_info"] | {
            "imsi": former.imsi,
            "iccid": former.iccid,
            "i_sim_card": former.i_account,
        }
    if event_type == "Subscriber/Deleted":
        blocks["account_info"] |= {"bill_status": "terminated", "status": "closed"}
    if event_type == "Account/Blocked":
        blocks["account_info"] |= {"blocked": True, "status": "blocked"}
    return Case(
        name=f"event-{event_type}",
        level=Level.CONTRACT,
        title=f"{event_type} with all data is processed",
        why="The handler receives this type; one that the connector has no use for it answers "
        "with 202 'Event ignored', so that the events behind it are not held up. (contract, "
        "event types and responses: 202; --events names the types that the handler receives)",
        mend="Answer 202 to every event type that you carry out, and to those that you ignore.",
        send=[samples.request(event_type, who, document)],
        expect=[expect.processed()],
    )


def _of_others(samples: Samples, event_types: Sequence[str]) -> list[Case]:
    who = samples.subscriber()
    send = []
    for event_type in event_types:
        document = samples.document(who, event_type)
        i_event = document["data"]["variables"]["i_event"]
        document["data"]["variables"] = {"i_event": i_event, **_OF_OTHERS[event_type]}
        document["pb_data"] = {}
        send.append(samples.request(event_type, who, document))
    if not send:
        return []
    sent = Case(
        name="events-without-account",
        level=Level.CONTRACT,
        title="Events of customers, numbers and invoices are answered",
        why="They come without account and SIM card: what the connector cannot use it ignores "
        "(202) or refuses (422); it does not fail. (contract, pb_data: all optional)",
        mend="Look at event_type first, and treat each block of pb_data as optional.",
        send=send,
        expect=[expect.processed(422), expect.error_bodies()],
    )
    return [
        sent,
        Case(
            name="events-without-account-ignored",
            level=Level.EXEMPLARY,
            title="They are ignored with 202, not refused",
            why="A refused event is sent again, up to 100 times. (contract, responses: the sample "
            "connector answers 202 'Event ignored: ...' so that the pipeline is not blocked)",
            mend="Answer 202 with the message 'Event ignored: unsupported event type'.",
            judges=[sent.name],
            expect=[expect.processed()],
        ),
    ]


def _unsupported(samples: Samples) -> Case:
    who = samples.subscriber()
    return Case(
        name="event-unknown",
        level=Level.CONTRACT,
        title="An unknown event type is ignored",
        why="Types are added with each release, and custom ones exist. (contract, responses: "
        "unsupported event types are answered 202 'Event ignored: ...')",
        mend="Answer 202 to event types that you do not know.",
        send=[
            samples.request("a custom type", who, samples.document(who, "Custom/Acme/CapReached")),
            samples.request("a type of tomorrow", who, samples.document(who, "Robot/Updated")),
        ],
        expect=[expect.processed()],
    )


def _ids_as_text(samples: Samples) -> Case:
    who = samples.subscriber()
    document = samples.document(who)
    variables = document["data"]["variables"]
    document["data"]["variables"] = {name: str(value) for name, value in variables.items()}
    return Case(
        name="ids-as-text",
        level=Level.CONTRACT,
        title="Ids in variables may be numbers or texts",
        why="The vendor's own samples have both. (contract, request shape: accept both)",
        mend="Accept numbers and numeric texts in data.variables; pass on what you do not use.",
        send=[samples.request("i_env, i_event and i_account as texts", who, document)],
        expect=[expect.processed()],
    )


def _without_trace(samples: Samples) -> Case:
    who = samples.subscriber()
    return Case(
        name="without-trace-headers",
        level=Level.CONTRACT,
        title="Without x-b3-traceid and x-request-id it works too",
        why="The connector makes them up when they are absent. (contract, headers)",
        mend="Generate both ids where the headers are missing.",
        send=[samples.request("no x-b3-traceid, no x-request-id", who, headers=NO_TRACE)],
        expect=[expect.processed()],
    )


NO_TRACE: Mapping[str, str] = {"x-b3-traceid": "", "x-request-id": ""}
"""Headers that are empty are not sent."""


def at_the_end(samples: Samples) -> list[Case]:
    who: Subscriber = samples.subscriber()
    return [
        Case(
            name="still-alive",
            level=Level.CONTRACT,
            title="After all of this it still works",
            why="A bad event must not stop the good ones behind it. (contract, practice list: "
            "always answer)",
            mend="Look into the connector's log for what stopped it: memory, threads, or a pool "
            "of connections that are never given back.",
            send=[
                Request(what="health", method="GET", target=Target.HEALTH),
                samples.request("an ordinary event", who),
            ],
            expect=[expect.processed()],
        )
    ]
