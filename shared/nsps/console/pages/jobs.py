"""Replays and reconciles: chosen, previewed, started, followed, stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from nsps.console.pages import forms
from nsps.console.pages.events import OUTCOMES, owner_page, utc
from nsps.console.pages.site import Shown, Visit, moved
from nsps.console.pages.table import csv_file

PAGE = 100
JOBS = 50
MOST = 1000
"""Findings that the API gives at once."""


def jobs(visit: Visit) -> Shown:
    """The newest, and the forms that start one."""
    chosen = {name: visit.query.get(name, "") for name in ("handler", "account", "customer")}
    outcomes = visit.query.get("outcomes", "")
    after = visit.query.get("after")
    found = visit.get("jobs", limit=JOBS, after=after)
    return visit.page(
        "jobs.html",
        jobs=found["jobs"],
        next=found["next"],
        first=not after,
        handlers=visit.get("handlers")["handlers"],
        outcomes=OUTCOMES,
        chosen=chosen,
        chosen_outcomes=outcomes.split(",") if outcomes else [],
        open=visit.query.get("open", ""),
    )


def job(visit: Visit) -> Shown:
    """One of them, with what it found."""
    what, after = visit.query.get("what", ""), visit.query.get("after", "")
    found = visit.get(f"jobs/{visit.name}", limit=PAGE, after=after, what=what)
    return visit.page(
        "job.html",
        job=found,
        lines=[line for each in found["findings"] for line in _lines(each, what)],
        what=what,
        following=urlencode({"what": what, "after": found["next"]}) if found["next"] else None,
    )


def findings_csv(visit: Visit) -> Shown:
    """Everything that a job found and kept."""
    heads = ("owner", "event", "handler", "key", "found", "against", "field", "has", "should")
    lines = (
        [line[name] for name in heads]
        for each in _findings(visit)
        for line in _lines(each, visit.query.get("what", ""), by_field=True)
    )
    return csv_file(f"nsps-{visit.name}.csv", heads, lines)


def replay(visit: Visit) -> Shown:
    """Send events of the history again, or show what that would change."""
    return _start(visit, "replays", ("dry_run",))


def reconcile(visit: Visit) -> Shown:
    """Compare PortaBilling with a system, and repair it if that is wanted."""
    return _start(visit, "reconciles", ("fix", "all"))


def stop(visit: Visit) -> Shown:
    """Stop a job."""
    visit.post(f"jobs/{visit.name}/stop", forms.document(visit.form))
    return moved(f"/jobs/{visit.name}?done=stopped")


def resume(visit: Visit) -> Shown:
    """Go on with a job."""
    visit.post(f"jobs/{visit.name}/resume", forms.document(visit.form))
    return moved(f"/jobs/{visit.name}?done=resumed")


def _start(visit: Visit, kind: str, flags: tuple[str, ...]) -> Shown:
    given = forms.document(visit.form, flags=flags)
    for name in ("since", "until"):
        if name in given:
            given[name] = utc(given[name])
    for name in ("account", "customer", "rate"):
        if name in given:
            given[name] = _number(given[name])
    started = visit.post(kind, given)["job"]
    return moved(f"/jobs/{quote(started, safe='')}")


def _number(text: str) -> object:
    """A number as the API takes it; anything else it refuses with what to write."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


def _findings(visit: Visit) -> Iterator[Mapping[str, Any]]:
    what, after = visit.query.get("what", ""), ""
    while after is not None:
        page = visit.get(f"jobs/{visit.name}", limit=MOST, after=after, what=what)
        yield from page["findings"]
        after = page["next"]


def _lines(
    finding: Mapping[str, Any], what: str = "", *, by_field: bool = False
) -> Iterator[dict[str, Any]]:
    """A finding as lines of a table: one a resource (or one a field)."""
    base = {
        "owner": finding.get("owner") or "",
        "owner_page": owner_page(finding.get("owner") or ""),
        "event": finding.get("event_id") or "",
        "type": finding.get("event_type") or "",
        "number": finding.get("i_event") or "",
        "handler": finding.get("handler") or "",
        "run": finding.get("run"),
    }
    nothing = {"key": "", "against": "", "field": "", "has": "", "should": "", "fields": []}
    resources = finding.get("resources") or []
    if not resources:
        said = "sent again" if finding.get("run") else "nothing would change"
        reason = finding.get("message") or ""
        yield {**base, **nothing, "found": said if not reason else "message", "reason": reason}
    for each in resources:
        if what and each["what"] != what:
            continue
        line = {
            **base,
            **nothing,
            "key": each["key"],
            "found": each["what"],
            "against": each["against"],
            "reason": each["reason"],
            "fields": [
                (name, change["from"], change["to"])
                for name, change in sorted(each["fields"].items())
            ],
        }
        if not by_field or not each["fields"]:
            yield line
            continue
        for name, change in sorted(each["fields"].items()):
            yield {**line, "field": name, "has": change["from"], "should": change["to"]}
