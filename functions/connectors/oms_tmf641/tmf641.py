"""How orders are written and their answers read: by TM Forum's TMF641 v4, and in the plain form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nsps.connector.base import Action, AnswerState, CallbackInvalid, Order
from nsps.domain.outcome import Terminal, Transient
from nsps.transport.answers import AnswerRule, Meaning
from nsps.transport.rest import RestAnswer

from .notifications import States, message_of, state_of, text

if TYPE_CHECKING:
    from .settings import Settings

ANSWERS = (
    AnswerRule(
        Meaning.SIGN_IN,
        status="401,403",
        hint="are the secret credentials and the setting authentication right?",
    ),
)
"""Of any request; the kit's defaults say the rest."""

ORDER_ANSWERS = (
    AnswerRule(Meaning.EXISTS, status="409"),
    AnswerRule(Meaning.EXISTS, status="400,422", text=("externalId", "exist")),
    AnswerRule(Meaning.REFUSED, status="400,413,415,422"),
    *ANSWERS,
    AnswerRule(
        Meaning.LATER, status="404,410", hint="nothing is at this address: check the setting url"
    ),
    AnswerRule(
        Meaning.LATER, status="405", hint="this address takes no orders: check the setting url"
    ),
    AnswerRule(Meaning.LATER, status="4xx"),
    AnswerRule(Meaning.UNCLEAR, status="500,502,504", hint="it may have taken the order"),
)
"""Of the address of the orders, to which they are POSTed."""

SEARCH_ANSWERS = (AnswerRule(Meaning.ABSENT, status="400,404,405,501"),)
"""Not every manager can search."""

PLAIN_CHECK_ANSWERS = (AnswerRule(Meaning.DONE, status="400,404,405,501"),)
"""The plain form has nothing to read: who says so lives."""


# --- orders --------------------------------------------------------------------------------------


def standard_order(order: Order, settings: Settings) -> dict[str, Any]:
    """The order as TMF641 writes it: one item, whose service has our key as its id."""
    service: dict[str, Any] = {
        "id": order.key,
        "serviceCharacteristic": [
            {"name": name, "valueType": _value_type(value), "value": value}
            for name, value in _characteristics(order).items()
        ],
    }
    if settings.service_type:
        service["serviceType"] = settings.service_type
    if settings.service_specification:
        service["serviceSpecification"] = {"id": settings.service_specification}
    document: dict[str, Any] = {
        "externalId": order.reference,
        "serviceOrderItem": [{"id": "1", "action": order.action.value, "service": service}],
    }
    optional = {
        "category": settings.category,
        "priority": settings.priority,
        "description": order.group,
    }
    return document | {name: value for name, value in optional.items() if value}


def plain_order(order: Order, settings: Settings) -> dict[str, Any]:
    """The order in a form that any system can be taught; answered by its ``order``."""
    document = {
        "order": order.reference,
        "action": order.action.value,
        "service": order.key,
        "characteristics": _characteristics(order),
        "category": settings.category,
        "group": order.group,
    }
    return {name: value for name, value in document.items() if value is not None}


def _characteristics(order: Order) -> dict[str, Any]:
    """What an order says of the service: a change says what is empty now, too."""
    kind, _, ident = order.key.partition(":")
    known = {"imsi": ident} if kind == "imsi" else {"i_account": ident}
    values = {**known, **order.state}
    if order.action is Action.MODIFY:
        return values
    return {name: value for name, value in values.items() if value is not None}


def _value_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "array" if isinstance(value, list) else "string"


# --- answers -------------------------------------------------------------------------------------


def standard_id(response: RestAnswer, states: States) -> str:
    """The manager's id of the order, empty if it gives none. Raises Unclear, Terminal."""
    document = response.written()
    refuse_failed(document, document.get("state"), states)
    return text(document.get("id"))


def plain_id(response: RestAnswer, states: States) -> str:
    """The name that the system gives the order, empty if it gives none. Raises Terminal."""
    try:
        document = json.loads(response.answer.body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    refuse_failed(document, document.get("status", document.get("state")), states)
    return text(document.get("order")) or text(document.get("id"))


def refuse_failed(document: Mapping[str, Any], word: object, states: States) -> None:
    """Read the state in the order's own answer as a notification's. Raises Terminal if it failed.

    An unknown word says nothing yet: the order was taken, and its answer is waited for.
    """
    try:
        state = state_of(word, states)
    except CallbackInvalid:
        return
    if state is AnswerState.FAILED:
        raise Terminal(f"the order manager rejected the order: {message_of(document)}".rstrip(": "))


def find(response: RestAnswer, reference: str) -> Mapping[str, Any] | None:
    """The order with our reference, which has an id. Raises Transient if it is no list of orders.

    A manager that does not know the filter answers with other orders.
    """
    found = response.document()
    if not isinstance(found, list):
        raise Transient(f"GET {response.answer.url}: the answer is no list of orders")
    ours = [each for each in found if isinstance(each, dict)]
    ours = [each for each in ours if each.get("externalId") == reference]
    return ours[0] if ours and text(ours[0].get("id")) else None
