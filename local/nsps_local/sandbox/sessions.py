"""Sessions and access tokens, with what makes them unpleasant: they live 48 hours on paper and die
earlier.

A token ends by its time, by inactivity, after so many calls, or all at once (a failover: sessions
belong to one site). They are kept in memory only: a restart of PortaBilling ends them too.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import threading
from dataclasses import dataclass
from typing import Any

from nsps_local.sandbox.config import Admin, Api
from nsps_local.sandbox.times import Clock, moment

AUTH_FAILED = "Server.Session.auth_failed"
CHECK_FAILED = "Server.Session.check_auth.auth_failed"
BAD_JWT = "Client.Session.check_auth.failed_to_process_jwt"
BAD_ACCESS_TOKEN = "Client.Session.check_auth.failed_to_process_access_token"  # noqa: S105
NO_ENVELOPE = "Client.check_auth.envelope_missed"
INVALID = "Client.invalid_params"  # ours: the real one is not public
WORDS = "Authentification failed"  # as PortaBilling spells it
USER_ID = 42
SESSIONS_KEPT = 1000


class ApiFault(Exception):
    """What PortaBilling answers with HTTP 500: a fault code and a sentence."""

    def __init__(self, faultcode: str, faultstring: str) -> None:
        super().__init__(f"{faultcode}: {faultstring}")
        self.faultcode = faultcode
        self.faultstring = faultstring


@dataclass(slots=True)
class Session:
    """One access token and the refresh token issued with it; `ended` is the fault code once it is
    dead.
    """

    session_id: str
    refresh_token: str
    expires: float
    last_used: float
    calls_left: int | None
    ended: str | None = None
    refreshable: bool = True


class Sessions:
    def __init__(self, admin: Admin, api: Api, i_env: int | None, clock: Clock) -> None:
        self._admin = admin
        self._api = api
        self._i_env = i_env
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._die_after: int | None = None

    def login(self, params: dict[str, Any]) -> dict[str, Any]:
        """login + password, or login + token (an old client says user)."""
        login = str(params.get("login") or params.get("user") or "")
        if not self.knows(login, params.get("password"), params.get("token")):
            raise ApiFault(AUTH_FAILED, WORDS)
        session_id = secrets.token_hex(16)
        return {"session_id": session_id, **self._issue(session_id)}

    def knows(self, login: str, password: object = None, token: object = None) -> bool:
        """Are these the credentials of the PortaBilling user?"""
        right = _same(login, self._admin.login)
        if token is not None:
            return right and _same(str(token), self._admin.token.get_secret_value())
        return right and _same(str(password), self._admin.password.get_secret_value())

    def refresh(self, refresh_token: object) -> dict[str, Any]:
        """New tokens for a session; the old ones end. An expired access token may still be
        refreshed.
        """
        with self._lock:
            session = next(
                (s for s in self._sessions.values() if s.refresh_token == refresh_token), None
            )
            if session is None or not session.refreshable:
                raise ApiFault(BAD_ACCESS_TOKEN, "The refresh token is not valid")
            session.ended, session.refreshable = CHECK_FAILED, False
        return self._issue(session.session_id)

    def check(self, access_token: str) -> None:
        """Let a call pass, or raise ApiFault with the code that fits how the token ended."""
        with self._lock:
            session = self._sessions.get(access_token)
            if session is None:
                looks_right = access_token.count(".") == 2
                raise ApiFault(BAD_ACCESS_TOKEN if looks_right else BAD_JWT, WORDS)
            now = self._clock()
            session.ended = session.ended or self._ended(session, now)
            if session.ended:
                raise ApiFault(session.ended, WORDS)
            session.last_used = now
            if session.calls_left is not None:
                session.calls_left -= 1

    def check_session_id(self, session_id: object) -> None:
        with self._lock:
            found = [a for a, s in self._sessions.items() if s.session_id == session_id]
        if not found:
            raise ApiFault(CHECK_FAILED, WORDS)
        self.check(found[-1])

    def ping(self, access_token: object) -> dict[str, int]:
        try:
            self.check(str(access_token))
        except ApiFault:
            return {"user_id": 0}
        return {"user_id": USER_ID}

    def logout(self, params: dict[str, Any]) -> dict[str, int]:
        given = (params.get("access_token"), params.get("session_id"))
        with self._lock:
            ended = [
                session
                for access, session in self._sessions.items()
                if session.ended is None and (access == given[0] or session.session_id == given[1])
            ]
            for session in ended:
                session.ended, session.refreshable = CHECK_FAILED, False
        return {"success": int(bool(ended))}

    def kill_all(self, faultcode: str | None = None, refresh_tokens: bool = True) -> int:
        """End every token now; how many there were."""
        with self._lock:
            alive = [session for session in self._sessions.values() if session.ended is None]
            for session in self._sessions.values():
                session.ended = session.ended or faultcode or CHECK_FAILED
                session.refreshable = session.refreshable and not refresh_tokens
        return len(alive)

    def die_after(self, calls: int | None) -> None:
        """From now on each token, old or new, ends after so many calls; None: no more."""
        with self._lock:
            self._die_after = calls
            for session in self._sessions.values():
                session.calls_left = calls

    def _ended(self, session: Session, now: float) -> str | None:
        idle = self._api.token_inactivity
        if now >= session.expires:
            return BAD_ACCESS_TOKEN
        if session.calls_left == 0 or (idle and now - session.last_used > idle):
            return CHECK_FAILED
        return None

    def _issue(self, session_id: str) -> dict[str, Any]:
        now = self._clock()
        expires = now + self._api.token_lifetime
        access = self._jwt(session_id, now, expires)
        session = Session(session_id, secrets.token_urlsafe(32), expires, now, self._die_after)
        with self._lock:
            self._sessions[access] = session
            while len(self._sessions) > SESSIONS_KEPT:
                del self._sessions[next(iter(self._sessions))]
        return {
            "access_token": access,
            "refresh_token": session.refresh_token,
            "expires_at": moment(expires),
        }

    def _jwt(self, session_id: str, now: float, expires: float) -> str:
        claims = {
            "iat": int(now),
            "exp": int(expires),
            "i_user": USER_ID,
            "i_env": self._i_env,
            "login": self._admin.login,
            "realm": "admin",
            "aud": ["portabilling-api", "portasip-api", "espf-api"],
            "scope": "espf.api:write espf.handlers:write",
            "jti": session_id,
            "is_super_user": False,
        }
        header = {"alg": "RS256", "typ": "JWT"}
        signature = secrets.token_bytes(
            64
        )  # nobody but the sandbox can check it, and it keeps a list
        parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())
