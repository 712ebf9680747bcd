"""The access token of one function instance: got once, kept until it dies, shared by all threads.

PortaBilling's tokens say that they live 48 hours and die earlier: of inactivity, of a failover to
the other site (sessions are site-local). So the expiry is a reason to renew early, never a promise.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nsps.portabilling.faults import (
    BadAnswer,
    Fault,
    LoginRefused,
    SessionDied,
    Unanswered,
    Unreachable,
    fault_of,
    raise_fault,
)
from nsps.portabilling.transport import Reply, Transport

MARGIN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ApiCredentials:
    """A PortaBilling user: ``login``, and its ``password`` or an API ``token``."""

    login: str
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> ApiCredentials:
        """Read the payload of the portabilling-api secret; ValueError, which quotes nothing."""
        given = [document.get(name) for name in ("login", "password", "token")]
        login, password, token = (each if isinstance(each, str) else "" for each in given)
        if not login or not (password or token):
            raise ValueError(
                "the API credentials are not complete: write "
                '{"login": ..., "password": ...} or {"login": ..., "token": ...}'
            )
        return cls(login, password or None, token or None)

    def params(self) -> dict[str, str]:
        if self.token is not None:
            return {"login": self.login, "token": self.token}
        return {"login": self.login, "password": self.password or ""}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Token:
    """An access token; two tokens are never equal. ``renew_at`` is an instant of time.monotonic."""

    access: str
    refresh: str | None
    renew_at: float | None


class Login:
    """Gives the token to whoever calls, renewing it with one request at a time.

    ``refused`` is told when PortaBilling did not accept the credentials, so that a rotated secret
    is read again; the login is then tried once more if they have changed.
    """

    def __init__(
        self,
        transport: Transport,
        url: str,
        credentials: Callable[[], ApiCredentials],
        *,
        refused: Callable[[], object] | None = None,
        margin_seconds: float = MARGIN_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._url = url
        self._credentials = credentials
        self._refused = refused
        self._margin = margin_seconds
        self._now = now
        self._token: Token | None = None
        self._renewing = threading.Lock()
        self._tries = 0
        self._error: Exception | None = None

    def token(self, deadline: float, dead: Token | None = None) -> Token:
        """The token to call with; ``dead`` is one that has just been refused.

        Raises LoginRefused, or what a call raises. Threads that wait while another logs in get its
        token, or its error.
        """
        token = self._token
        if token is not None and token is not dead and not _old(token):
            return token
        tries = self._tries
        if not self._renewing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unreachable("PortaBilling Session/login: another thread's login took too long")
        try:
            return self._renewed(tries, deadline, dead)
        finally:
            self._renewing.release()

    def _renewed(self, tries: int, deadline: float, dead: Token | None) -> Token:
        token = self._token
        if token is not None and token is not dead and not _old(token):
            return token
        if self._tries != tries and self._error is not None:
            raise self._error
        self._error = None
        try:
            # A token that was refused is not refreshed: its whole session is in doubt.
            token = self._refreshed(token, deadline) if token and token is not dead else None
            self._token = token or self._logged_in(deadline)
        except Exception as error:
            self._error = error
            raise
        finally:
            self._tries += 1
        return self._token

    def _refreshed(self, token: Token, deadline: float) -> Token | None:
        if token.refresh is None:
            return None
        method = "Session/refresh_access_token"
        try:
            answer = self._ask(method, {"refresh_token": token.refresh}, deadline)
            return self._token_of(method, answer, token.refresh)
        except (Fault, BadAnswer):
            return None
        except (Unreachable, Unanswered):
            return token  # it is renewed early: it may well be good for this call

    def _logged_in(self, deadline: float) -> Token:
        credentials = self._credentials()
        try:
            return self._login(credentials, deadline)
        except LoginRefused:
            if self._refused is None:
                raise
            self._refused()
            changed = self._credentials()
            if changed == credentials:
                raise
            return self._login(changed, deadline)

    def _login(self, credentials: ApiCredentials, deadline: float) -> Token:
        method = "Session/login"
        try:
            return self._token_of(method, self._ask(method, credentials.params(), deadline), None)
        except SessionDied as fault:
            raise LoginRefused(
                f"PortaBilling {method}: {fault.code}: login or password not accepted; "
                "check the portabilling-api secret and the user",
                fault.code,
            ) from None

    def _ask(self, method: str, params: Mapping[str, str], deadline: float) -> dict[str, Any]:
        reply = self._transport.send(
            "POST",
            f"{self._url}/rest/{method}",
            name=f"PortaBilling {method}",
            deadline=deadline,
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            body=json.dumps({"params": params}).encode(),
            repeatable=True,
        )
        return answer_of(method, reply)

    def _token_of(self, method: str, answer: Mapping[str, Any], refresh: str | None) -> Token:
        access = answer.get("access_token")
        if not isinstance(access, str) or not access.isascii() or not access.isprintable():
            raise BadAnswer(f"PortaBilling {method}: the answer has no access_token")
        given = answer.get("refresh_token")
        lifetime = self._lifetime(answer)
        renew_at = None
        if lifetime is not None and lifetime > 0:
            # Half of a short life, so that a clock that is off does not mean a login per call.
            renew_at = time.monotonic() + max(lifetime - self._margin, lifetime / 2)
        return Token(access, given if isinstance(given, str) and given else refresh, renew_at)

    def _lifetime(self, answer: Mapping[str, Any]) -> float | None:
        """Seconds until the token expires: from expires_at (UTC, no zone) or expires_in."""
        at, seconds = answer.get("expires_at"), answer.get("expires_in")
        if isinstance(at, str):
            try:
                moment = datetime.fromisoformat(at.strip())
            except ValueError:
                return None
            return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - self._now()
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            return float(seconds)
        return None


def _old(token: Token) -> bool:
    return token.renew_at is not None and time.monotonic() >= token.renew_at


def answer_of(method: str, reply: Reply, not_found: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The JSON object of a good answer; {} for a null one. Raises Fault kinds and BadAnswer.

    Every fault comes as HTTP 500 with a faultcode; some releases use other statuses.
    """
    where = f"PortaBilling {method}"
    if reply.status != 200:
        code = fault_of(reply.body)
        if code is not None:
            raise_fault(method, code, not_found)
        if reply.status == 401:
            raise SessionDied(f"{where}: HTTP 401: the access token was not accepted", "401")
        what = "HTML" if reply.looks_like_html else "no PortaBilling fault"
        raise BadAnswer(
            f"{where}: HTTP {reply.status} with {what}: check the url and the service path, or "
            "wait until PortaBilling is back",
            retry_after(reply.headers),
        )
    if not reply.body.strip():
        raise BadAnswer(f"{where}: an empty body instead of JSON")
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        what = "HTML" if reply.looks_like_html else "a body that is not (whole) JSON"
        raise BadAnswer(f"{where}: {what} instead of JSON: check the url") from None
    if answer is None:
        return {}
    if not isinstance(answer, dict):
        raise BadAnswer(f"{where}: JSON, but not an object")
    if isinstance(answer.get("faultcode"), str):
        raise_fault(method, answer["faultcode"], not_found)
    return answer


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header; None if there is none or it is a date."""
    given = headers.get("Retry-After", "").strip()
    return float(given) if given.isascii() and given.isdigit() and len(given) < 7 else None
