"""What the answers about events and subscribers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nsps.cloud import audit
from nsps.console.api.context import ConsoleContext, ConsoleRequest
from nsps.console.event_json import event_json
from nsps.console.explanation import Systems
from nsps.delivery.timeline import EventHistory

LOOK_UP = "look up"


def events_json(
    context: ConsoleContext, request: ConsoleRequest, histories: Iterable[EventHistory]
) -> list[dict[str, Any]]:
    return [event_json(shown(context, request, event_history)) for event_history in histories]


def shown(
    context: ConsoleContext, request: ConsoleRequest, event_history: EventHistory
) -> EventHistory:
    return event_history if sees(context, request) else context.masking.event_history(event_history)


def sees(context: ConsoleContext, request: ConsoleRequest) -> bool:
    """Whether subscribers' numbers and names are shown to who asks."""
    return request.person.role >= context.sees_subscribers


def note_look_up(
    context: ConsoleContext, request: ConsoleRequest, target: str, by: str = ""
) -> None:
    """Who looked at a subscriber is written down before it is shown. Raises Transient."""
    person, details = request.person, {"by": by} if by else {}
    audit.note_alone(
        context.store, person.email, person.role.name, LOOK_UP, target, details=details
    )


def systems_now(context: ConsoleContext) -> Systems:
    handlers = context.handlers.by_name
    return Systems(context.switches.read_all(handlers)[0], handlers)
