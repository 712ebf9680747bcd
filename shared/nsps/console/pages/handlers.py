"""The handlers: as they are deployed, their retries by the clock, and their switches."""

from __future__ import annotations

from datetime import UTC, datetime

from nsps.console.pages import forms
from nsps.console.pages.site import Shown, Visit, moved
from nsps.domain.retry_table import note, rows
from nsps.runtime.settings import RetrySettings


def handlers(visit: Visit) -> Shown:
    """All of them."""
    return visit.page("handlers.html", handlers=visit.get("handlers")["handlers"])


def handler(visit: Visit) -> Shown:
    """One of them."""
    found = visit.get(f"handlers/{visit.name}")
    schedule = RetrySettings.model_validate(found["retries"], strict=False).schedule
    asked = visit.query.get("ask") == "now" and visit.operates
    health = visit.get(f"handlers/{visit.name}/health") if asked else None
    return visit.page(
        "handler.html",
        handler=found,
        health=health,
        schedule=rows(schedule, datetime.now(UTC)),
        note=note(schedule),
    )


def pause(visit: Visit) -> Shown:
    """Stop a handler."""
    visit.post(f"handlers/{visit.name}/pause", forms.document(visit.form))
    return moved(f"/handlers/{visit.name}?done=paused")


def resume(visit: Visit) -> Shown:
    """Let a handler go on."""
    visit.post(f"handlers/{visit.name}/resume", forms.document(visit.form))
    return moved(f"/handlers/{visit.name}?done=resumed")
