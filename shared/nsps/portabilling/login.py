"""The access token of one function instance: got once, kept until it dies, shared by all threads.

PortaBilling's tokens say that they live 48 hours and die earlier: of inactivity, of a failover to
the other site (sessions are site-local). So the expiry is a reason to renew early, never a promise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nsps.domain.outcome import Transient
from nsps.portabilling.errors import BadAnswer, Fault, LoginRefused, SessionDied, answer_of
from nsps.transport.deadline import Deadline
from nsps.transport.http import Http

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

    ``refused`` is called when PortaBilling did not accept the credentials, so that a rotated secret
    is read again; the login is then tried once more if they have changed.
    """

    def __init__(
        self,
        http: Http,
        url: str,
        credentials: Callable[[], ApiCredentials],
        *,
        refused: Callable[[], object] | None = None,
    ) -> None:
        self._http = http
        self._url = url
        self._credentials = credentials
        self._refused = refused
        self._token: Token | None = None
        self._renewing = threading.Lock()
        self._tries = 0
        self._error: Exception | None = None

    def token(self, deadline: Deadline, dead: Token | None = None) -> Token:
        """The token to call with; ``dead`` is one that has just been refused.

        Raises LoginRefused, or what a call raises. Threads that wait while another logs in get its
        token, or its error.
        """
        token = self._token
        if token is not None and token is not dead and not _old(token):
            return token
        tries = self._tries
        if not self._renewing.acquire(timeout=deadline.remaining()):
            raise Transient("PortaBilling Session/login: another thread's login took too long")
        try:
            return self._renewed(tries, deadline, dead)
        finally:
            self._renewing.release()

    def _renewed(self, tries: int, deadline: Deadline, dead: Token | None) -> Token:
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

    def _refreshed(self, token: Token, deadline: Deadline) -> Token | None:
        if token.refresh is None:
            return None
        method = "Session/refresh_access_token"
        try:
            answer = self._ask(method, {"refresh_token": token.refresh}, deadline)
            return self._token_of(method, answer, token.refresh)
        except (Fault, BadAnswer):
            return None
        except Transient:  # not reached
            return token  # it is renewed early: it may well be good for this call

    def _logged_in(self, deadline: Deadline) -> Token:
        credentials = self._given()
        try:
            return self._login(credentials, deadline)
        except LoginRefused:
            if self._refused is None:
                raise
            self._refused()
            changed = self._given()
            if changed == credentials:
                raise
            return self._login(changed, deadline)

    def _given(self) -> ApiCredentials:
        """The credentials now; a secret that is written wrongly can be corrected: Transient."""
        try:
            return self._credentials()
        except ValueError as error:
            raise Transient(f"PortaBilling Session/login: {error}") from None

    def _login(self, credentials: ApiCredentials, deadline: Deadline) -> Token:
        method = "Session/login"
        try:
            return self._token_of(method, self._ask(method, credentials.params(), deadline), None)
        except SessionDied as fault:
            raise LoginRefused(
                f"PortaBilling {method}: {fault.code}: login or password not accepted; "
                "check the portabilling-api secret and the user",
                fault.code,
            ) from None

    def _ask(self, method: str, params: Mapping[str, str], deadline: Deadline) -> dict[str, Any]:
        answer = self._http.request(
            "POST",
            f"{self._url}/rest/{method}",
            deadline=deadline,
            headers={"Accept": "application/json"},
            json={"params": params},
            idempotent=True,
        )
        return answer_of(method, answer).members

    def _token_of(self, method: str, answer: Mapping[str, Any], refresh: str | None) -> Token:
        access = answer.get("access_token")
        if not (isinstance(access, str) and access and access.isascii() and access.isprintable()):
            raise BadAnswer(f"PortaBilling {method}: the answer has no access_token")
        given = answer.get("refresh_token")
        lifetime = self._lifetime(answer)
        renew_at = None
        if lifetime is not None and lifetime > 0:
            # Half of a short life, so that a clock that is off does not mean a login per call.
            renew_at = time.monotonic() + max(lifetime - MARGIN_SECONDS, lifetime / 2)
        return Token(access, given if isinstance(given, str) and given else refresh, renew_at)

    def _lifetime(self, answer: Mapping[str, Any]) -> float | None:
        """Seconds until the token expires: from expires_at (UTC, no zone) or expires_in."""
        at, seconds = answer.get("expires_at"), answer.get("expires_in")
        if isinstance(at, str):
            try:
                moment = datetime.fromisoformat(at.strip())
            except ValueError:
                return None
            return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time()
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            return float(seconds)
        return None


def _old(token: Token) -> bool:
    return token.renew_at is not None and time.monotonic() >= token.renew_at
