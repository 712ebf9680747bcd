"""The history's list, and one event: its timeline, explanation, changes, related events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from nsps.console.pages.bars import drawn, lanes_of
from nsps.console.pages.render import read_time, span
from nsps.console.pages.site import Refused, Shown, Visit
from nsps.domain.event import RECONCILE
from nsps.domain.outcome import Outcome

PAGE = 50
FILTERS = ("since", "until", "event_type", "handler", "outcome", "account")
OUTCOMES = tuple(each.value for each in Outcome)
DONE = ("delivered", "unchanged")
CLOSE = timedelta(minutes=1)
"""Lines of what happened say how long after the first they came, up to so long."""


def events(visit: Visit) -> Shown:
    """The newest first, narrowed by what is asked for."""
    wanted = narrowed(visit, FILTERS)
    error: str | None = None
    found: dict[str, Any] = {"events": [], "next": None}
    try:
        asked = {**wanted, **{name: utc(wanted.get(name)) for name in ("since", "until")}}
        found = visit.get(
            "events", limit=PAGE, newest=True, after=visit.query.get("after"), **asked
        )
    except Refused as refused:
        if refused.code not in (400, 404):
            raise
        error = str(refused)
    following = urlencode({**wanted, "after": found["next"]}) if found.get("next") else None
    return visit.page(
        "events.html",
        400 if error else 200,
        wanted=wanted,
        chosen=chosen(wanted, FILTERS),
        error=error,
        found=[row(each) for each in found["events"]],
        following=following,
        first=not visit.query.get("after"),
        looked=found.get("looked_through"),
        handlers=[each["name"] for each in visit.get("handlers")["handlers"]],
        outcomes=OUTCOMES,
    )


def event(visit: Visit) -> Shown:
    """One event; of several with one number, all are named."""
    found = visit.get(f"events/{visit.name}")
    shown, explanation = found["events"][-1], found["explanations"][-1]
    details = visit.get(f"events/{shown['event_id']}/details")
    return visit.page(
        "event.html",
        event=shown,
        title=title(shown),
        standing=standing(explanation),
        happened=happened(explanation),
        changes=changes(shown),
        picture=drawn(lanes_of(shown), datetime.now(UTC)),
        others=[row(each) for each in found["events"][:-1]],
        related=[row(each) for each in details["related"]],
        snapshot=details["snapshot"],
        owner=owner_page(shown["owner"]),
    )


def standing(explanation: Mapping[str, Any]) -> dict[str, Any]:
    """How it stands, for a page: ``rows``, each handler that is not done with what can be done
    about it; ``rest``, other advice; ``done``, the handlers that are; ``compare``, advice."""
    found, advice = explanation["standing"], explanation["advice"]
    rows = [each for each in found if each["outcome"] not in DONE]
    mend = [each for each in advice if each["action"]["name"] != "reconcile"]
    named = {each["handler"] for each in rows}
    return {
        "rows": [
            {**each, "advice": [a for a in mend if a["action"]["handler"] == each["handler"]]}
            for each in rows
        ],
        "rest": [each for each in mend if each["action"]["handler"] not in named],
        "done": [each["handler"] for each in found if each["outcome"] in DONE],
        "compare": [each for each in advice if each["action"]["name"] == "reconcile"],
    }


def happened(explanation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What happened, line by line; ``after``: how long after the first, where that is short."""
    lines: list[dict[str, Any]] = []
    start: datetime | None = None
    for line in explanation["happened"]:
        at = read_time(line["at"])
        start = start or at
        close = lines and at is not None and start is not None and at - start < CLOSE
        after = f"+{span((at - start).total_seconds() * 1000)}" if close and at and start else ""
        lines.append({**line, "after": after})
    return lines


def narrowed(visit: Visit, filters: Iterable[str]) -> dict[str, str]:
    """What a filter's form asks for: what is left empty is not asked for."""
    return {name: visit.query[name] for name in filters if visit.query.get(name, "").strip()}


def chosen(wanted: Mapping[str, str], filters: Iterable[str]) -> dict[str, str]:
    """What a filter's form shows as chosen: a time as its field takes it, in UTC."""
    values = {name: wanted.get(name, "") for name in filters}
    for name in ("since", "until"):
        at = read_time(utc(values[name]))
        values[name] = f"{at:%Y-%m-%dT%H:%M}" if at else ""
    return values


def row(found: Mapping[str, Any]) -> dict[str, Any]:
    """An event as a line of a list."""
    return {
        "id": found["event_id"],
        "at": found["received_at"] or found["opened_at"],
        "number": "" if found["event_type"] == RECONCILE else found["i_event"],
        "type": found["event_type"],
        "owner": found["owner"],
        "owner_page": owner_page(found["owner"]),
        "outcomes": _together(found["outcomes"]),
        "took": found["took_ms"],
    }


def _together(outcomes: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(outcome, the handlers that came to it): what is not well first."""
    handlers: dict[str, list[str]] = {}
    for each in outcomes:
        run = f" (replay {each['run']})" if each["run"] else ""
        handlers.setdefault(each["outcome"], []).append(each["handler"] + run)
    return [(outcome, ", ".join(names)) for outcome, names in handlers.items()]


def changes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the event changed, field by field in each system."""
    return [
        {
            "system": each["handler"],
            "run": each["run"],
            "key": result.get("key", ""),
            "field": name,
            "before": "" if change["from"] is None else change["from"],
            "after": "" if change["to"] is None else change["to"],
        }
        for each in found["deliveries"]
        for result in each["results"]
        for name, change in sorted((result.get("fields") or {}).items())
    ]


def title(found: Mapping[str, Any]) -> str:
    """Which event it is."""
    if found["event_type"] == RECONCILE:
        return "A reconcile's repair"
    return f"{found['event_type']} {found['i_event'] or ''}".strip()


def owner_page(owner: str) -> str | None:
    """Where the owner of an event is shown; None for one without a page."""
    kind, _, ident = owner.partition(":")
    return f"/{kind}s/{ident}" if kind in ("account", "customer") else None


def utc(text: str | None) -> str | None:
    """A moment of a form (UTC unless it says otherwise), as the API takes it."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text  # the API says what is wrong with it
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()
