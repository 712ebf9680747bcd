"""The published NSPS connector contract: what is POSTed, and what the answers mean.

The vendor's own sample reports a time-out of the system behind it as 422, so no 4xx is final
unless the settings say so. (PortaOne docs: connector contract; its error table, and the differences
between its samples.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nsps.connector.base import Enriched
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning

ANSWERS = (
    AnswerRule(
        Meaning.SIGN_IN,
        status="401,403",
        hint="the token is refused: is secret token the connector's?",
    ),
    AnswerRule(
        Meaning.LATER,
        status="404",
        member="type",
        hint="the connector itself says so, the address is right",
    ),
    AnswerRule(
        Meaning.LATER, status="404", hint="nothing is at this address: check the setting url"
    ),
    AnswerRule(
        Meaning.LATER,
        status="405",
        hint="POST is not allowed at this address: check the setting url",
    ),
    AnswerRule(Meaning.LATER, status="408", hint="the connector gave up waiting"),
    AnswerRule(Meaning.LATER, status="429", hint="the connector is asked too often"),
    AnswerRule(
        Meaning.LATER,
        status="503",
        hint="the connector, or the system behind it, is not available",
    ),
    AnswerRule(
        Meaning.LATER,
        status="3xx",
        hint="redirects are not followed: set url to where the connector is",
    ),
    AnswerRule(Meaning.LATER, status="1xx,4xx,5xx"),
)

HEALTH_ANSWERS = (AnswerRule(Meaning.DONE, status="404,405"),)
"""Not every connector has a health page; who says so lives."""


def answers(permanent_codes: Sequence[int]) -> AnswerRules:
    """The rules, with the codes by which this connector says "never"."""
    permanent = [AnswerRule(Meaning.REFUSED, status=str(code)) for code in permanent_codes]
    return AnswerRules(ANSWERS).before(permanent)


def body(event: Enriched, handler: str) -> dict[str, Any]:
    """The event as the contract has it."""
    return {
        "event_id": event.event_id,
        "data": event.event.body(),
        "pb_data": event.pb.to_contract(),
        "handler_id": handler,
        "status": "queued",
        "created_at": event.created_at,
        "updated_at": event.updated_at,
    }
