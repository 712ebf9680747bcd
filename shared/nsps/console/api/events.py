"""The history: lists, and one event."""

from __future__ import annotations

from typing import Any

from nsps.console.api.checks import at_cursor, checked
from nsps.console.api.common import events_json, sees, shown, systems_now
from nsps.console.api.context import ConsoleContext, ConsoleRequest, no_event
from nsps.console.by_outcome import ByOutcome
from nsps.console.event_json import event_json
from nsps.console.explanation import explain_event
from nsps.console.requests import EventsQuery
from nsps.delivery.history import unpacked
from nsps.delivery.timeline import EventHistory, Page, Wanted

RELATED = 5
"""Events of the owner that are shown before and after one."""


def events(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    timeline = context.finding.timeline
    query = checked(EventsQuery, request.query)
    if query.plain_list and query.account is not None:
        found = timeline.where("i_account", query.account, query.limit)
    elif query.i_event is not None:
        found = timeline.where("i_event", query.i_event, query.limit)
    else:
        return _page(context, request, query)
    return {"events": events_json(context, request, found)}


def _page(context: ConsoleContext, request: ConsoleRequest, query: EventsQuery) -> dict[str, Any]:
    """The newest events that were asked for, and where the next page begins."""
    if query.handler is not None:
        context.handlers.get(query.handler)
    wanted = Wanted(
        query.account,
        query.since,
        query.until,
        query.event_type,
        query.handler,
        frozenset(query.outcome) if query.outcome else None,
    )
    by_index = ByOutcome.finds(wanted)
    page = at_cursor(lambda: _found(context, wanted, query, by_index=by_index))
    found = {"events": events_json(context, request, page.histories), "next": page.next}
    complete = wanted.everything or by_index
    return found | ({} if complete else {"looked_through": page.looked_through})


def _found(context: ConsoleContext, wanted: Wanted, query: EventsQuery, *, by_index: bool) -> Page:
    timeline = context.finding.timeline
    if not by_index:
        return timeline.page(wanted, query.limit, query.after)
    names = [query.handler] if query.handler else sorted(context.handlers.by_name)
    return ByOutcome(context.store, timeline).page(wanted, names, query.limit, query.after)


def event(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    histories = [
        shown(context, request, event_history) for event_history in _named(context, request)
    ]
    systems = systems_now(context)
    return {
        "events": [event_json(event_history) for event_history in histories],
        "explanations": [
            explain_event(event_history, systems).to_json() for event_history in histories
        ],
    }


def event_details(context: ConsoleContext, request: ConsoleRequest) -> dict[str, Any]:
    """What was read from PortaBilling for an event, and the owner's events around it."""
    event_history = _named(context, request)[-1]
    snapshot = unpacked(event_history.snapshot)
    if snapshot is not None and not sees(context, request):
        snapshot = context.masking.document(snapshot)
    around = context.finding.timeline.around(event_history, RELATED)
    return {"snapshot": snapshot, "related": events_json(context, request, around)}


def _named(context: ConsoleContext, request: ConsoleRequest) -> list[EventHistory]:
    histories = context.finding.timeline.find(request.name)
    if not histories:
        raise no_event(request.name)
    return histories
