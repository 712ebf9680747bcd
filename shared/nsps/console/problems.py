"""What needs attention, the worst first, from the overview's figures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nsps.cloud.queues import Queue
from nsps.delivery.switch import Switch
from nsps.domain.retry_table import duration

MENDED_LOOKED = 50
"""Failed events that are looked at for whether they still need a person."""
LATE = timedelta(minutes=5)
"""After so long a person should look: the scheduler comes every minute."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all handlers share: counts and moments, see ``Overview.read``."""

    unread: int
    unread_since: datetime | None
    unread_parked: int
    unread_error: str | None
    statuses_due: int
    statuses_refused: int
    last_tick: datetime | None
    portabilling: Switch = field(default_factory=Switch)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    queues_error: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that needs a person. ``action``: what can be done about it, see ``problems``.

    ``error``: what a system said, which may name a subscriber.
    """

    level: int
    text: str
    action: str
    handler: str | None = None
    job: str | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "level": "bad" if self.level < _WARN else "wait",
            "text": self.text,
            "error": self.error,
            "action": self.action,
            "handler": self.handler,
            "job": self.job,
        }


_WARN = 40


def problems(
    rows: Iterable[Mapping[str, Any]],
    shared: Shared,
    failed_jobs: Iterable[Mapping[str, Any]],
    now: datetime,
) -> list[Problem]:
    """What needs a person now, the worst first.

    ``action``: resume (the handler), look (at the handler), failed (its failed events), health
    (ask how everything is), parked (its parked events), job (resume it).
    """
    found = [*_of_all(shared, now)]
    for row in rows:
        found += _of_handler(row)
    for job in failed_jobs:
        text = f"The {job['kind']} {job['id']} has failed"
        found.append(Problem(60, text, "job", job=str(job["id"]), error=job.get("error")))
    return sorted(found, key=lambda each: each.level)


def _of_all(shared: Shared, now: datetime) -> Iterable[Problem]:
    if shared.last_tick is not None and now - shared.last_tick > LATE:
        when = f"{shared.last_tick:%Y-%m-%d %H:%M} UTC"
        text = f"The scheduler came last at {when}: nothing is tried again by itself"
        yield Problem(10, text, "health")
    late = shared.unread_since is not None and now - shared.unread_since > LATE
    if late or shared.portabilling.off:
        text = f"PortaBilling cannot be read; {_waits(shared.unread)} for it"
        error = shared.portabilling.breaker.reason if shared.portabilling.off else None
        yield Problem(20, text, "health", error=error or shared.unread_error)
    if shared.statuses_due > MANY_STATUSES:
        yield Problem(50, f"{shared.statuses_due} statuses wait for PortaBilling", "health")
    if shared.statuses_refused:
        text = f"PortaBilling refused {shared.statuses_refused} statuses: is each group registered?"
        yield Problem(55, text, "health")


MANY_STATUSES = 20
"""Statuses on their way are nothing unusual; so many are."""


def _of_handler(row: Mapping[str, Any]) -> Iterable[Problem]:
    name = str(row["name"])
    waits = f"; {_waits(row['waiting'])}" if row["waiting"] else ""
    paused = row["state"] == "paused"
    if row["warning"]:
        text = f"{name} has been switched off for very long{waits}"
        action = "resume" if paused else "look"
        yield Problem(15, text, action, name, error=str(row["warning"]))
    elif paused:
        yield Problem(70, f"{name} is {row['why']}{waits}", "resume", name)
    elif row["state"] == "down":
        yield Problem(30, f"{name}: its system is down{waits}", "look", name, error=row["reason"])
    elif row["queue"] and row["queue"]["oldest_seconds"] > LATE.total_seconds():
        since = duration(timedelta(seconds=row["queue"]["oldest_seconds"]))
        text = f"{name}: {_waits(row['queue']['messages'])} in Pub/Sub, the oldest for {since}"
        error = row["last_error"]["text"] if row["last_error"] else None
        yield Problem(32, text, "look", name, error=error)
    if row["to_mend"]:
        many = "at least " if row["to_mend"] == MENDED_LOOKED else ""
        text = f"{name}: {many}{_events(row['to_mend'])} failed for good in the last day"
        yield Problem(35, text, "failed", name, error=row["to_mend_error"])
    if row["parked"]:
        one = row["parked"] == 1
        parked = "is parked and tried again by itself" if one else "are parked and tried again"
        yield Problem(65, f"{name}: {_events(row['parked'])} {parked}", "parked", name)


def _events(number: int) -> str:
    return "1 event" if number == 1 else f"{number} events"


def _waits(number: int) -> str:
    return f"{_events(number)} {'waits' if number == 1 else 'wait'}"
