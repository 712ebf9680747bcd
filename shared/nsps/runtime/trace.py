"""One trace from the webhook to the external system.

``trace_id`` (32 hexadecimal digits) is what PortaOne's connectors know as ``x-b3-traceid`` and log
as request_id; ``request_id`` is their ``x-request-id``, logged as unique_id.
(Source: PortaOne docs, NSPS headers; W3C Trace Context.)
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_CLOUD = re.compile(r"([0-9a-fA-F]{32})(/[0-9]+)?(;.*)?")
_B3 = re.compile(r"[0-9a-fA-F]{16}|[0-9a-fA-F]{32}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_NONE = "0" * 32


class Headers(Protocol):
    """The headers of a request, looked up in any case: Flask's, or a mapping in lower case."""

    def get(self, key: str, default: str, /) -> str: ...


@dataclass(frozen=True, slots=True)
class Trace:
    """The two ids that travel with an event."""

    trace_id: str
    request_id: str

    def headers(self) -> dict[str, str]:
        """The headers for a call that this trace leads to."""
        return {
            "traceparent": f"00-{self.trace_id}-{secrets.token_hex(8)}-01",
            "x-b3-traceid": self.trace_id,
            "x-request-id": self.request_id,
        }

    def attributes(self) -> dict[str, str]:
        """The attributes for a Pub/Sub message."""
        return {"trace_id": self.trace_id, "request_id": self.request_id}


_current: ContextVar[Trace | None] = ContextVar("nsps_trace", default=None)


def new() -> Trace:
    """A trace that begins here."""
    return Trace(secrets.token_hex(16), str(uuid.uuid4()))


def from_headers(headers: Headers) -> Trace:
    """The trace of an incoming request; ids that are absent or malformed are made here."""
    return _trace(
        _traceparent_id(headers.get("traceparent", ""))
        or _cloud_id(headers.get("x-cloud-trace-context", ""))
        or _b3_id(headers.get("x-b3-traceid", "")),
        headers.get("x-request-id", ""),
    )


def from_attributes(attributes: Mapping[str, str]) -> Trace:
    """The trace of a Pub/Sub message."""
    return _trace(_b3_id(attributes.get("trace_id", "")), attributes.get("request_id", ""))


def current() -> Trace | None:
    """The trace of the request that this thread handles."""
    return _current.get()


@contextmanager
def use(trace: Trace) -> Iterator[Trace]:
    """Make it the trace of everything inside."""
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)


def _trace(trace_id: str, request_id: str) -> Trace:
    fresh = new()
    known = request_id if _REQUEST_ID.fullmatch(request_id) else ""
    return Trace(trace_id or fresh.trace_id, known or fresh.request_id)


def _traceparent_id(text: str) -> str:
    match = _TRACEPARENT.fullmatch(text.strip().lower())
    return match[1] if match and match[1] != _NONE else ""


def _cloud_id(text: str) -> str:
    match = _CLOUD.fullmatch(text.strip())
    return match[1].lower() if match and match[1] != _NONE else ""


def _b3_id(text: str) -> str:
    plain = text.strip().replace("-", "")  # some callers send a UUID
    padded = plain.lower().rjust(32, "0") if _B3.fullmatch(plain) else _NONE
    return padded if padded != _NONE else ""
