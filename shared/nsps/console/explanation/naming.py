"""Events, owners and values as sentences name them."""

from __future__ import annotations

from typing import Any

from nsps.delivery.timeline import EventHistory
from nsps.domain.event import RECONCILE


def event_name(history: EventHistory) -> str:
    """Which event: its type, and PortaBilling's number of it."""
    if history.event_type == RECONCILE:
        return f"a reconcile's repair ({history.event_id})"
    return f"{history.event_type} ({event_number(history)})"


def event_number(history: EventHistory) -> str:
    """PortaBilling's number, or our id of an event that has none."""
    return f"event {history.i_event}" if history.i_event else history.event_id


def owner_name(text: str) -> str:
    """An owner (``account:277001``) in words."""
    kind, _, ident = text.partition(":")
    return {"sim": "SIM card", "did": "number"}.get(kind, kind) + f" {ident}"


def value_words(value: Any) -> str:
    """A value of a field for people: yes, no and none instead of Python's words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(value_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
