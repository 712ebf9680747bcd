"""The published NSPS connector contract over HTTP, as a connector of ours serves it.

``POST /process-event`` with a Bearer token, ``GET /health``. So a connector also works behind
PortaOne's own NSPS. (Source: NSPS connector implementation guide: request and error handling.)
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nsps.connector.base import Enriched
from nsps.connector.verdict import Verdict
from nsps.event import EspfEvent, SnapshotTime, owner_of
from nsps.outcome import NoAnswer, Outcome, Unexpected, Unreachable
from nsps.snapshot import PbData
from nsps.trace import Trace

ACCEPTED = "Event accepted for processing"
# What can name a document: no path, and none of the names that Firestore keeps for itself.
_EVENT_ID = re.compile(r"(?!\.{1,2}$|__.*__$)[A-Za-z0-9_.:@+=-]{1,200}")


@dataclass(frozen=True, slots=True)
class ContractAnswer:
    """One answer of the contract: status code, JSON body, headers."""

    code: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]


class Invalid(ValueError):
    """The body is not an event of the contract. ``details``: pydantic-like loc, msg, type."""

    def __init__(self, *path: str, message: str) -> None:
        super().__init__(message)
        self.details = [{"loc": ["body", *path], "msg": message, "type": "value_error"}]


def read_event(body: bytes, trace: Trace, received_at: datetime) -> Enriched:
    """The event in a request. Raises Invalid.

    The time of its snapshot is ``updated_at`` ("last enriched"); where that is missing, or still
    to come by our clock, the time of the request.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Invalid(message="the body is not JSON") from error
    if not isinstance(document, dict):
        raise Invalid(message="the body is not a JSON object")
    if _not_text(document):
        raise Invalid(message="the body holds half a character (a lone surrogate)")
    event_id = document.get("event_id")
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        raise Invalid("event_id", message="event_id is missing, or no id: send a UUID")
    event = _event(document.get("data"))
    pb_data = document.get("pb_data")
    if pb_data is not None and not isinstance(pb_data, dict):
        raise Invalid("pb_data", message="pb_data is not an object")
    moment = min(_moment(document, "updated_at") or received_at, received_at)
    read_at = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return Enriched(
        event_id=event_id,
        event=event,
        owner=owner_of(event, event_id),
        t=SnapshotTime(f"{read_at}/{event_id}"),
        pb=PbData.from_contract(pb_data or {}),
        created_at=str(document.get("created_at") or moment.isoformat()),
        updated_at=moment.isoformat(),
        trace_id=trace.trace_id,
        request_id=trace.request_id,
    )


def _not_text(document: Mapping[str, Any]) -> bool:
    """JSON can write halves of characters, which no system can keep."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return True
    return False


def _event(data: Any) -> EspfEvent:
    if not isinstance(data, dict):
        raise Invalid("data", message="data is missing, or not an object")
    event_type, variables = data.get("event_type"), data.get("variables")
    if not isinstance(event_type, str) or not event_type:
        raise Invalid("data", "event_type", message="event_type is missing, or not a text")
    if not isinstance(variables, dict):
        raise Invalid("data", "variables", message="variables is missing, or not an object")
    return EspfEvent(event_type, variables)


def _moment(document: Mapping[str, Any], name: str) -> datetime | None:
    text = document.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(str(text))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(name, message=f"{name} is not an ISO 8601 time") from error


def authorized(header: str | None, token: str) -> bool:
    """Whether the header carries the static Bearer token; compared in constant time."""
    scheme, _, credentials = (header or "").partition(" ")
    same = hmac.compare_digest(credentials.strip().encode(), token.encode())
    return scheme.lower() == "bearer" and same and bool(token)


def answer_for(verdict: Verdict) -> ContractAnswer:
    """The code that tells NSPS whether to send the event again."""
    if verdict.ack and verdict.outcome is not Outcome.REJECTED:
        return ContractAnswer(202, {"message": ACCEPTED, "outcome": verdict.outcome.value}, {})
    if verdict.outcome is Outcome.REJECTED:
        return _error(422, "Validation failed", verdict.reason, "VALIDATION_ERROR")
    if verdict.retry_after is not None:
        later = {"Retry-After": str(max(1, round(verdict.retry_after)))}
        return _error(
            429, "Too many requests to API Core", verdict.reason, "RATE_LIMIT_ERROR", later
        )
    if isinstance(verdict.error, Unexpected):
        return failed(verdict.reason)
    if isinstance(verdict.error, NoAnswer | Unreachable) or verdict.outcome is Outcome.WAITING:
        return unavailable(verdict.reason)
    return _error(500, "API Core HTTP error", verdict.reason, "SERVICE_ERROR")


def unauthorized() -> ContractAnswer:
    headers = {"WWW-Authenticate": "Bearer"}
    return _error(401, "Invalid access token", "Unauthorized", "AUTHENTICATION_ERROR", headers)


def not_found() -> ContractAnswer:
    return _error(404, "Resource not found", "Not found", "VALIDATION_ERROR")


def method_not_allowed(allowed: str) -> ContractAnswer:
    return _error(
        405, "Method not allowed", "Method not allowed", "VALIDATION_ERROR", {"Allow": allowed}
    )


def invalid(error: Invalid) -> ContractAnswer:
    answer = _error(422, "Validation failed", "Validation failed", "VALIDATION_ERROR")
    return ContractAnswer(422, {**answer.body, "details": error.details}, {})


def failed(reason: str) -> ContractAnswer:
    return _error(500, "Internal server error", reason, "INTERNAL_ERROR")


def unavailable(reason: str) -> ContractAnswer:
    return _error(503, "Core service is not available", reason, "CONNECTION_ERROR", _SOON)


_SOON = {"Retry-After": "5"}


def _error(
    code: int, message: str, error: str, kind: str, headers: Mapping[str, str] | None = None
) -> ContractAnswer:
    return ContractAnswer(
        code, {"message": message, "error": error or message, "type": kind}, headers or {}
    )
