"""The handlers: as they are deployed, their retries by the clock, and their switches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nsps.console.pages import forms
from nsps.console.pages.site import Refused, Shown, Visit, moved
from nsps.domain.retry_table import note, rows
from nsps.runtime.settings import RetrySettings


def handlers(visit: Visit) -> Shown:
    """All of them."""
    return visit.page("handlers.html", handlers=visit.get("handlers")["handlers"])


def handler(visit: Visit) -> Shown:
    """One of them."""
    found = visit.get(f"handlers/{visit.name}")
    schedule = RetrySettings.model_validate(found["retries"], strict=False).schedule
    asked = visit.query.get("ask") if visit.operates else None
    health = visit.get(f"handlers/{visit.name}/health") if asked == "now" else None
    return visit.page(
        "handler.html",
        handler=found,
        health=health,
        settings=_settings(visit) if asked == "settings" else None,
        schedule=rows(schedule, datetime.now(UTC)),
        note=note(schedule),
    )


def _settings(visit: Visit) -> dict[str, Any]:
    """The connector's settings as its function has them, or why they are not known."""
    try:
        return visit.get(f"handlers/{visit.name}/settings")
    except Refused as refused:
        return {"error": str(refused)}


def pause(visit: Visit) -> Shown:
    """Stop a handler."""
    visit.post(f"handlers/{visit.name}/pause", forms.document(visit.form))
    return moved(f"/handlers/{visit.name}?done=paused")


def resume(visit: Visit) -> Shown:
    """Let a handler go on."""
    visit.post(f"handlers/{visit.name}/resume", forms.document(visit.form))
    return moved(f"/handlers/{visit.name}?done=resumed")
