"""An event of the history as JSON, with what became of it: the same for lists, pages, commands."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsps.delivery.timeline import EventHistory, as_json

URGENCY = (
    "expired",
    "rejected",
    "parked",
    "retrying",
    "waiting",
    "accepted",
    "delivered",
    "unchanged",
    "superseded",
)
"""Outcomes, what is not well first."""


def event_json(history: EventHistory) -> dict[str, Any]:
    """A history's members, and ``outcomes``, ``took_ms``, ``read_by``.

    ``outcomes``: [{handler, run, outcome}], of each handler its newest delivery, what is not well
    first. An event that is not read yet, or that no handler wants, has one without a handler.
    """
    return as_json(history) | {
        "outcomes": outcomes(history),
        "took_ms": _took_ms(history),
        "read_by": history.read_by,
    }


def outcomes(history: EventHistory) -> list[dict[str, Any]]:
    """What became of an event, handler by handler."""
    found: list[dict[str, Any]] = []
    deliveries = history.deliveries
    if history.unread or not deliveries:
        state = "PortaBilling not read" if history.retry else history.state
        found.append({"handler": "", "run": 0, "outcome": state})
        deliveries = tuple(each for each in deliveries if each.begun_at or each.run)
    newest = {each.handler: each for each in deliveries}
    shown = [(each.outcome or "waiting", each) for each in newest.values()]
    shown.sort(key=lambda each: URGENCY.index(each[0]))
    found += [{"handler": d.handler, "run": d.run, "outcome": outcome} for outcome, d in shown]
    return found


def _took_ms(history: EventHistory) -> float | None:
    """From the receipt of the webhook until every delivery was finished."""
    ends = [each.finished_at for each in history.deliveries if each.finished_at]
    if not (history.final and ends and history.received_at):
        return None
    passed = datetime.fromisoformat(max(ends)) - datetime.fromisoformat(history.received_at)
    return passed.total_seconds() * 1000
