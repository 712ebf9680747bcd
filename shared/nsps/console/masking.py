"""What those see who may not see subscribers: numbers and names masked, as they are in the logs.

The same number has the same mask everywhere (``imsi#3fa9c1d24b07``), so that it can be followed
without being known. Ids of NSPS and PortaBilling's own numbering stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from nsps.console.find import Subject
from nsps.delivery.history import unpacked
from nsps.delivery.timeline import Delivered, EventHistory
from nsps.runtime.redact import Redactor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Masking:
    """Masks; safe to share between threads."""

    redactor: Callable[[], Redactor]

    def event_history(self, event_history: EventHistory) -> EventHistory:
        """An event with its deliveries."""
        redactor = self.redactor()
        with redactor.knowing(unpacked(event_history.snapshot) or {}):
            mask = _Mask(redactor, _ids(event_history))
            return replace(
                event_history,
                retry=mask(event_history.retry),
                deliveries=tuple(_delivered(each, mask) for each in event_history.deliveries),
            )

    def subject(self, subject: Subject) -> Subject:
        """A subscriber with its resources and events."""
        redactor = self.redactor()
        snapshots = [unpacked(event_history.snapshot) or {} for event_history in subject.events]
        with redactor.knowing(snapshots):
            mask = _Mask(redactor, [subject.owner.id] if subject.owner else [])
            return replace(
                subject,
                note=mask(subject.note),
                resources=tuple(map(mask.fields, subject.resources)),
                statuses=tuple(mask(dict(each)) for each in subject.statuses),
                events=tuple(map(self.event_history, subject.events)),
            )

    def document(self, document: T, kept: Iterable[str] = ()) -> T:
        """Any part of an answer; these ids stay."""
        masked: T = _Mask(self.redactor(), kept)(document)
        return masked

    def handler(self, handler: Mapping[str, Any]) -> dict[str, Any]:
        """How a handler is. Who paused it, and why, stays; what its system said does not."""
        paused = handler["switch"]["pause"] is not None
        return {
            **handler,
            "why": handler["why"] if paused else hidden(handler["why"]),
            "switch": self.switch(handler["switch"]),
            "warning": handler["warning"] if paused else hidden(handler["warning"]),
        }

    def switch(self, switch: Mapping[str, Any]) -> dict[str, Any]:
        """A handler's switch, or PortaBilling's."""
        breaker = switch["breaker"]
        return {**switch, "breaker": {**breaker, "reason": hidden(breaker["reason"])}}

    def parked(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """A parked event. Of a message that cannot be read nothing tells what it holds."""
        letter = event["letter"] and HIDDEN
        return {**event, "reason": hidden(event["reason"]), "letter": letter}

    def job(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """A job, without what it found."""
        return {**job, "error": hidden(job["error"])}

    def overview(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """How everything is."""
        handlers = [
            {
                **row,
                "why": row["why"] if row["state"] == "paused" else hidden(row["why"]),
                "reason": hidden(row["reason"]),
                "warning": row["warning"] if row["state"] == "paused" else hidden(row["warning"]),
                "last_error": row["last_error"] and {**row["last_error"], "text": HIDDEN},
                "to_mend_error": hidden(row["to_mend_error"]),
            }
            for row in found["handlers"]
        ]
        portabilling = {**found["portabilling"], "error": hidden(found["portabilling"]["error"])}
        problems = [{**each, "error": hidden(each["error"])} for each in found["problems"]]
        return {
            **found,
            "handlers": handlers,
            "portabilling": portabilling,
            "problems": problems,
        }

    def resources(self, finding: Mapping[str, Any]) -> dict[str, Any]:
        """What a job found, or a system answered, about an owner."""
        _, _, ident = str(finding.get("owner") or "").partition(":")
        mask = _Mask(self.redactor(), [ident])
        found = [
            {**mask.fields(each), "reason": hidden(each.get("reason"))}
            for each in finding.get("resources") or []
        ]
        return {**finding, "resources": found, "message": hidden(finding.get("message"))}


HIDDEN = "(what the system said is shown to operators)"


def hidden(text: str | None) -> str | None:
    """What a system said, where nothing tells which names it may hold."""
    return HIDDEN if text else text


class _Mask:
    """Masks by field and by shape. ``kept``: ids that look like a subscriber's number."""

    def __init__(self, redactor: Redactor, kept: Iterable[str]) -> None:
        self._redactor = redactor
        self._back = {redactor.text_for_log(each): each for each in kept if each}

    def __call__(self, value: Any) -> Any:
        return self._restored(self._redactor.for_log(value))

    def fields(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """A resource: its key is a number, not a secret key; whatever its system calls a name is a
        subscriber's."""
        apart = {"key", "fields", "state"} & set(resource)
        shown: dict[str, Any] = self({n: each for n, each in resource.items() if n not in apart})
        if "key" in apart:
            shown["key"] = self(resource["key"])
        if "state" in apart:
            shown["state"] = self({_PERSON: resource["state"]})[_PERSON]
        if "fields" in apart:
            shown["fields"] = {
                name: {side: self._value(name, each) for side, each in change.items()}
                for name, change in (resource["fields"] or {}).items()
            }
        return shown

    def _value(self, name: str, value: Any) -> Any:
        (masked,) = self({_PERSON: {name: value}})[_PERSON].values()
        return masked

    def _restored(self, value: Any) -> Any:
        if isinstance(value, str):
            for masked, each in self._back.items():
                value = value.replace(masked, each)
            return value
        if isinstance(value, Mapping):
            return {name: self._restored(each) for name, each in value.items()}
        return [self._restored(each) for each in value] if isinstance(value, list) else value


_PERSON = "subscriber"
"""Inside of this a name is a person's."""


def _ids(event_history: EventHistory) -> list[str]:
    _, _, owner = event_history.owner.partition(":")
    return [owner, str(event_history.i_account or ""), event_history.i_event or ""]


def _delivered(each: Delivered, mask: _Mask) -> Delivered:
    return replace(
        each,
        results=tuple(map(mask.fields, each.results)),
        errors=tuple(map(mask, each.errors)),
        retry=mask(each.retry),
        failures=tuple(mask(dict(failure)) for failure in each.failures),
        summary=mask(each.summary),
        orders=tuple(map(mask, each.orders)),
        waits_for=mask(each.waits_for),
        espf=mask(each.espf),
    )
