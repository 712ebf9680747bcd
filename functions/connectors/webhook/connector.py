"""Passes events on to any connector that speaks the published NSPS connector contract.

``POST <url>`` with the enriched event and a Bearer token; 2xx means processed. The codes that a
connector answers are read leniently: the vendor's own sample reports a time-out of the system
behind it as 422, so no 4xx is final unless the settings say so. (PortaOne docs: connector
contract; its error table, and the differences between its samples.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urljoin, urlsplit

from nsps.connector.base import Call, Enriched, Message, MessageConnector, Ordering
from nsps.domain.outcome import Terminal, Transient
from nsps.runtime.redact import shortened
from nsps.transport.http import Answer
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_TEXT_MAX = 300
_BODY_SHOWN = 65_536
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

_HINTS: Mapping[int, str] = {
    401: "the token is refused: is secret token the connector's?",
    403: "the token is refused: is secret token the connector's?",
    404: "nothing is at this address: check the setting url",
    405: "POST is not allowed at this address: check the setting url",
    408: "the connector gave up waiting",
    429: "the connector is asked too often",
    503: "the connector, or the system behind it, is not available",
}
_LATER = frozenset({401, 403, 408, 425, 429})


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="The connector's address; events are POSTed to it.")
    health_url: str | None = Field(
        default=None, description="Its health page; /health beside url unless given."
    )
    ordering: Ordering = Field(
        default=Ordering.NEWEST,
        description="newest: one event at a time per account, never older data after newer, and "
        "an event gives way only to a newer one that says the same. every: each event is passed "
        "on, in no order. state: an event gives way to any newer one of the account, only for a "
        "connector that looks at pb_data alone, whatever the type of the event.",
    )
    permanent_codes: list[Annotated[int, Field(ge=400, le=499)]] = Field(
        default=[],
        description='The 4xx codes by which the connector says "never"; every other failure is '
        "tried again.",
    )
    allow_http: bool = Field(
        default=False,
        description="Whether url may be http, without TLS; only on a network of your own.",
    )

    @field_validator("url", "health_url")
    @classmethod
    def _web_address(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("write https://HOST[:PORT][/PATH]")
            if parts.username is not None or parts.fragment:
                raise ValueError("write it without user, password and fragment")
        return url

    @field_validator("permanent_codes")
    @classmethod
    def _final(cls, codes: list[int]) -> list[int]:
        passing = sorted(_LATER & set(codes))
        if passing:
            raise ValueError(f"{passing[0]} can pass by itself: it is never permanent")
        return codes

    @model_validator(mode="after")
    def _encrypted(self) -> Settings:
        for url in (self.url, self.health_url or "https:"):
            if urlsplit(url).scheme == "http" and not self.allow_http:
                raise ValueError("write https://..., or allow_http: true on a network of your own")
        return self

    @property
    def health(self) -> str:
        """``/health`` beside the service's own path, as the contract's samples have it."""
        return self.health_url or urljoin(self.url, "health")


class WebhookConnector(MessageConnector[Settings]):
    """A client of the published NSPS connector contract."""

    settings_model = Settings

    @property
    def ordering(self) -> Ordering:
        return self.settings.ordering

    def message(self, event: Enriched) -> Message:
        return Message(f"{event.event.event_type} for {event.owner}", self._body(event))

    def send(self, message: Message, call: Call) -> str:
        answer = self.parts.http.request(
            "POST",
            self.settings.url,
            json=message.content,
            headers=self._headers(call),
            deadline=call.deadline,
            idempotent=self.ordering is not Ordering.EVERY,
        )
        said = self._said(answer)
        if answer.ok:
            return said
        if answer.status in self.settings.permanent_codes:
            raise Terminal(said)
        raise Transient(said, answer.retry_after())

    def check(self, call: Call) -> None:
        answer = self.parts.http.request(
            "GET",
            self.settings.health,
            headers=self._headers(call),
            deadline=call.deadline,
            idempotent=True,
        )
        # Whoever answers "no such page" lives; not every connector has a health page.
        if not answer.ok and answer.status not in (404, 405):
            raise Transient(self._said(answer), answer.retry_after())

    def _body(self, event: Enriched) -> dict[str, Any]:
        return {
            "event_id": event.event_id,
            "data": event.event.body(),
            "pb_data": event.pb.to_contract(),
            "handler_id": self.parts.handler,
            "status": "queued",
            "created_at": event.created_at,
            "updated_at": event.updated_at,
        }

    def _headers(self, call: Call) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.parts.secret('token').reveal()}"}
        if call.trace_id:
            headers["x-b3-traceid"] = call.trace_id
        if call.request_id:
            headers["x-request-id"] = call.request_id
        return headers

    def _said(self, answer: Answer) -> str:
        """The connector's words for the history: its own, bounded, without its token."""
        words = said_in(answer.body)
        text = f"{answer.status} {words}".strip()
        hint = _HINTS.get(answer.status)
        if answer.status == 404 and _is_of_the_contract(answer.body):
            hint = "the connector itself says so, the address is right"
        if hint is None and 300 <= answer.status < 400:
            hint = "redirects are not followed: set url to where the connector is"
        if not answer.ok:
            text = f"{answer.url} answered {text}" + (f" ({hint})" if hint else "")
        # Redaction proper is the kit's; the token must not even reach an error.
        return text.replace(self.parts.secret("token").reveal(), "***")


@dataclass(frozen=True, slots=True)
class Said:
    """An error body of the contract: ``type`` is in lower case, whichever was sent."""

    message: str
    error: str
    type: str

    def __str__(self) -> str:
        words = dict.fromkeys(part for part in (self.message, self.error) if part)
        kind = f" [{self.type}]" if self.type else ""
        return f"{': '.join(words)}{kind}"


def said_in(body: bytes) -> str:
    """What a body says, in one line: ``{message, error, type}``, FastAPI's ``detail``, or text.

    Never raises: what cannot be read is shown as it came.
    """
    text = body[:_BODY_SHOWN].decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return _line(text)
    return _line(_words(document))


def _is_of_the_contract(body: bytes) -> bool:
    """Whether a body is an error as the contract writes it, and not that of some web server."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, Mapping) and bool(_text(document.get("type")))


def _words(document: object) -> str:
    if isinstance(document, Mapping):
        if "detail" in document and not isinstance(document.get("message"), str):
            return _words(document["detail"])
        said = Said(
            message=_text(document.get("message")),
            error=_text(document.get("error")),
            type=_text(document.get("type")).lower(),
        )
        details = _words(document["details"]) if "details" in document else ""
        return " - ".join(part for part in (str(said), details) if part)
    if isinstance(document, list):
        return "; ".join(_complaints(document))
    return _text(document)


def _complaints(details: list[Any]) -> Iterator[str]:
    """Each item of a validation's list: pydantic's {loc, msg, type}, or a text. Never ``input``."""
    for each in details[:5]:
        if isinstance(each, Mapping):
            place = each.get("loc")
            where = ".".join(str(part) for part in place) if isinstance(place, list) else ""
            what = _text(each.get("msg")) or _text(each.get("message"))
            yield f"{where}: {what}" if where else what
        else:
            yield _text(each)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _line(text: str) -> str:
    return shortened(" ".join(_CONTROL.sub(" ", text).split()), _TEXT_MAX)
