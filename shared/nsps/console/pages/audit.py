"""Who did what, when and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from nsps.console.explanation.naming import value_words
from nsps.console.pages.events import chosen, narrowed, owner_page, utc
from nsps.console.pages.site import Refused, Shown, Visit
from nsps.console.pages.table import csv_file

PAGE = 100
MOST = 1000
FILTERS = ("who", "action", "target", "since", "until", "look_ups")
ACTIONS = ("pause", "resume", "replay", "reconcile", "stop", "resume job", "erase", "look up")


def audit(visit: Visit) -> Shown:
    """The newest first, narrowed by what is asked for."""
    wanted = narrowed(visit, FILTERS)
    error: str | None = None
    found: dict[str, Any] = {"entries": [], "next": None}
    try:
        found = visit.get("audit", limit=PAGE, after=visit.query.get("after"), **_asked(wanted))
    except Refused as refused:
        if refused.code != 400:
            raise
        error = str(refused)
    following = urlencode({**wanted, "after": found["next"]}) if found["next"] else None
    return visit.page(
        "audit.html",
        400 if error else 200,
        wanted=wanted,
        chosen=chosen(wanted, FILTERS),
        error=error,
        entries=[_entry(each) for each in found["entries"]],
        following=following,
        actions=ACTIONS,
        file=urlencode(wanted),
    )


def audit_csv(visit: Visit) -> Shown:
    """The newest thousand of what the page shows."""
    found = visit.get("audit", limit=MOST, **_asked(narrowed(visit, FILTERS)))["entries"]
    heads = ("at", "who", "role", "action", "target", "reason", "details")
    lines = ([*(each[name] for name in heads[:-1]), _details(each)] for each in found)
    return csv_file("nsps-audit.csv", heads, lines)


def _asked(wanted: Mapping[str, str]) -> dict[str, Any]:
    return {**wanted, **{name: utc(wanted.get(name)) for name in ("since", "until")}}


def _entry(each: Mapping[str, Any]) -> dict[str, Any]:
    job = each["action"] in ("replay", "reconcile", "stop", "resume job")
    page = f"/jobs/{each['target']}" if job else owner_page(each["target"])
    if each["action"] in ("pause", "resume"):
        page = f"/handlers/{each['target']}"
    details = ", ".join(f"{name} {value_words(value)}" for name, value in _known(each).items())
    return {**each, "page": page, "details": details}


def _known(each: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to it: what is empty is left out."""
    known = {name: value for name, value in each["details"].items() if value}
    spec = {name: value for name, value in known.pop("spec", {}).items() if value}
    return {**spec, **known}


def _details(each: Mapping[str, Any]) -> str:
    known = _known(each)
    return json.dumps(known, ensure_ascii=False, sort_keys=True) if known else ""
