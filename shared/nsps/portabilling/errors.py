"""What can go wrong with PortaBilling, as errors that decide.

All are Transient: a read can be tried again, and nothing that PortaBilling says makes an event
undeliverable. A request that found no connection is the Transient of nsps.transport.http, one that
brought no whole answer in time its NoAnswer.

Messages name the method and the cause: the fault code, never the fault's text, which may quote a
subscriber. (Source: PortaOne docs, API faults; public clients.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nsps.domain.outcome import NoAnswer, Transient, Unreachable
from nsps.portabilling.absence import EMPTY, NEVER, Absence
from nsps.portabilling.body import parsed
from nsps.transport.http import Answer
from nsps.transport.tls import TlsRefused

AUTH_CODES = frozenset(
    {
        "Server.Session.auth_failed",
        "Server.Session.check_auth.auth_failed",
        "Client.check_auth.envelope_missed",
        "Client.Session.check_auth.failed_to_process_jwt",
        "Client.Session.check_auth.failed_to_process_access_token",
    }
)
MUST_CHANGE_PASSWORD = "Server.Session.alert_You_must_change_password"  # noqa: S105 - a fault code
STANDALONE = "standalone_mode"

_UNKNOWN = re.compile(r"not_?found|unknown|no_such", re.IGNORECASE)
_SHOWN = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")


class BadAnswer(Transient):
    """An answer that is not what the API gives: HTML, no JSON, another shape, another status."""


class OtherAnswer(BadAnswer):
    """A good answer in JSON, but not of what was asked for, or not readable where it matters."""


class Fault(Transient):
    """PortaBilling answered with a fault. ``code``: its faultcode."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class SessionDied(Fault):
    """The access token is not (or no longer) accepted: log in again and repeat the call."""


class LoginRefused(Fault):
    """The API user's login or password is not accepted."""


class NotFound(Fault):
    """The object that was asked for is not in PortaBilling (any more)."""


def is_outage(error: Exception) -> bool:
    """Whether an error of a call speaks of PortaBilling as a whole, not of what was asked for.

    A fault of a service (``Server.Account.locked``) or of an unknown method is an answer.
    """
    if isinstance(error, SessionDied | LoginRefused):
        return True
    if isinstance(error, Fault):
        return error.code.count(".") < 2 and not _UNKNOWN.search(error.code)
    return type(error) in (Transient, Unreachable, TlsRefused, NoAnswer, BadAnswer)


def fault_of(body: bytes) -> str | None:
    """The faultcode of an answer's body; None if it is not a fault."""
    try:
        document = parsed(body).document
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, Mapping) or not isinstance(document.get("faultcode"), str):
        return None
    code: str = document["faultcode"]
    return code


def shown_code(code: str) -> str:
    """A fault code for people, if it has the form of one: it is another system's text."""
    return code if _SHOWN.fullmatch(code) else "a fault code that is not safe to show"


def raise_fault(method: str, code: str, absence: Absence = NEVER) -> None:
    """Raise the error that a fault of ``method`` means."""
    shown = shown_code(code)
    where = f"PortaBilling {method}"
    if code == MUST_CHANGE_PASSWORD:
        raise LoginRefused(
            f"{where}: {shown}: PortaBilling wants the API user's password changed; change it "
            "there and put the new one into the portabilling-api secret",
            code,
        )
    if code in AUTH_CODES:
        raise SessionDied(f"{where}: {shown}: the access token was not accepted", code)
    if code == STANDALONE or code.endswith(f".{STANDALONE}"):
        raise Fault(
            f"{where}: {shown}: this PortaBilling site is a read-only standby; it works again when "
            "the site leaves standalone mode, or point the url at the main site",
            code,
        )
    if absence.said_by_fault(code):
        raise NotFound(f"{where}: {shown}: not in PortaBilling", code)
    if _UNKNOWN.search(code):
        raise Fault(
            f"{where}: {shown} says nothing of what was asked for: check the url, the service "
            f"path and the API user{absence.hint(shown)}",
            code,
        )
    raise Fault(f"{where}: PortaBilling answered with the fault {shown}", code)


def raise_empty(method: str, absence: Absence) -> None:
    """Raise what an answer without any member means."""
    where = f"PortaBilling {method}: an empty answer"
    if absence.said_by_empty_answer:
        raise NotFound(f"{where}: not in PortaBilling", EMPTY)
    raise OtherAnswer(
        f"{where} says nothing of what was asked for: check the service path{absence.hint(EMPTY)}"
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """A good answer: its members. ``damaged``: a text in it could not be read as it should be."""

    members: dict[str, Any]
    damaged: bool = False


def answer_of(method: str, answer: Answer, absence: Absence = NEVER) -> Reading:
    """What a good answer says; no members for a null one. Raises Fault kinds and BadAnswer.

    Every fault comes as HTTP 500 with a faultcode; some releases use other statuses.
    """
    where = f"PortaBilling {method}"
    if answer.status != 200:
        code = fault_of(answer.body)
        if code is not None:
            raise_fault(method, code, absence)
        if answer.status == 401:
            raise SessionDied(f"{where}: HTTP 401: the access token was not accepted", "401")
        what = "HTML" if looks_like_html(answer) else "no PortaBilling fault"
        raise BadAnswer(
            f"{where}: HTTP {answer.status} with {what}: check the url and the service path, or "
            "wait until PortaBilling is back",
            answer.retry_after(),
        )
    if not answer.body.strip():
        raise BadAnswer(f"{where}: an empty body instead of JSON")
    try:
        body = parsed(answer.body)
    except (ValueError, RecursionError):
        what = "HTML" if looks_like_html(answer) else "a body that is not (whole) JSON"
        raise BadAnswer(f"{where}: {what} instead of JSON: check the url") from None
    document = body.document
    if document is None:
        return Reading({})
    if not isinstance(document, dict):
        raise BadAnswer(f"{where}: JSON, but not an object")
    if isinstance(document.get("faultcode"), str):
        raise_fault(method, document["faultcode"], absence)
    return Reading(document, body.damaged)


def looks_like_html(answer: Answer) -> bool:
    """Whether a web page came instead of an API's answer."""
    return "html" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"<"
