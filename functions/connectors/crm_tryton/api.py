"""Tryton's JSON-RPC: how its answers are read, and the session that a call needs.

Tryton answers 200 to nearly everything: ``{"result": ...}``, or, after it has rolled all back,
``{"error": [KIND, [MESSAGE, ...]]}``. (Source: trytond 8.2, tried.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nsps.connector.base import Call, Context
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps.transport.rest import Rest, RestAnswer, SignedIn, base64_of, without_secret

SECRET = "credentials"  # noqa: S105 (its name in the manifest)
PARTY = "model.party.party"

# Messages come in the language of the user unless the call names one; the rules below read
# English. Inactive parties are found only where it is asked for.
CONTEXT = {"language": "en", "active_test": False}

_CONFIRM = "Tryton asks a person to confirm it: do it there by hand, then reconcile"
_MAY_NOT = "may this user do that, and is the party still active?"
_NOT_RPC = "is url the JSON-RPC of a database, https://HOST/DATABASE/rpc/?"
_LOG = "does Tryton have every field of the settings? its log says more"


def _says(kind: str, meaning: Meaning, text: str = "", hint: str = "") -> AnswerRule:
    """A rule for an error of a kind whose message holds the text."""
    return AnswerRule(meaning, status="200", member="error.0", equals=kind, text=text, hint=hint)


ANSWERS = AnswerRules(
    (
        _says("UserError", Meaning.EXISTS, "must be unique"),
        _says("UserError", Meaning.ABSENT, "that don't exist"),
        _says("UserError", Meaning.LATER, "You are not allowed to", _MAY_NOT),
        _says("UserError", Meaning.REFUSED),
        _says("UserWarning", Meaning.REFUSED, hint=_CONFIRM),
        _says("ConcurrencyException", Meaning.LATER),
        _says("LoginException", Meaning.LATER, hint="a user with a password alone is needed"),
        AnswerRule(Meaning.REFUSED, status="200", member="error", text="NUL (0x00)"),
        AnswerRule(Meaning.UNCLEAR, status="200", member="error", hint=_LOG),
        AnswerRule(Meaning.DONE, status="200", member="result"),
        AnswerRule(Meaning.UNCLEAR, status="2xx", hint=_NOT_RPC),
        AnswerRule(Meaning.LATER, status="400,403,404,405,410", hint=_NOT_RPC),
        AnswerRule(Meaning.UNCLEAR, status="503"),  # its database is away: maybe at the commit
    )
)


class Tryton:
    """The parties of a Tryton. Safe to share between threads."""

    def __init__(self, url: str, context: Context) -> None:
        self._url, self._context = url, context
        self._user = ""  # NAME:ID of the session
        session = SignedIn(self._sign_in, self._shown, time.monotonic)
        hide = context.hide(SECRET)
        self._rpc = Rest(context.http, url, session, ANSWERS, hide=hide)

    def ask(self, method: str, call: Call, *params: Any) -> Any:
        """What a method that changes nothing returns. Raises Transient."""
        answer = self._request(method, params, call, reads=True)
        answer.is_done()
        return answer.object()["result"]

    def change(self, method: str, call: Call, *params: Any) -> RestAnswer:
        """The answer of a method that writes: all of it is done, or nothing."""
        return self._request(method, params, call, reads=False)

    def _request(
        self, method: str, params: Sequence[Any], call: Call, *, reads: bool
    ) -> RestAnswer:
        body = _body(f"{PARTY}.{method}", *params, CONTEXT)
        return self._rpc.request("POST", "", call, body=body, reads=reads)

    # ---- the session ---------------------------------------------------------------------------

    def _shown(self, token: str) -> Mapping[str, str]:
        return {"Authorization": f"Session {base64_of(f'{self._user}:{token}')}"}

    def _sign_in(self, call: Call) -> tuple[SecretValue, None]:
        """A new session, which counts until it is refused. Raises Transient, NoAnswer."""
        secret = self._context.secret(SECRET)
        answer = self._log_in(secret, call)
        if answer.rule.meaning is Meaning.SIGN_IN and self._context.refresh is not None:
            fresh = self._context.refresh(SECRET)
            if fresh != secret:  # each attempt counts: five in vain lock the user for minutes
                secret, answer = fresh, self._log_in(fresh, call)
        answer.is_done()
        session = answer.object()["result"]
        if not isinstance(session, list) or len(session) < 2:
            raise Transient(f"POST {self._url}: the log-in gave no session ({_NOT_RPC})")
        self._user = f"{secret.reveal().partition(':')[0]}:{session[0]}"
        return SecretValue(str(session[1])), None

    def _log_in(self, secret: SecretValue, call: Call) -> RestAnswer:
        """Not by ``Rest``, which shows what it sends to whoever runs ``nsps try``."""
        user, _, password = secret.reveal().partition(":")
        answer = self._context.http.request(
            "POST",
            self._url,
            deadline=call.deadline,
            json=_body("common.db.login", user, {"password": password}, "en"),
            idempotent=True,
        )
        hide = partial(without_secret, secret=secret)
        return RestAnswer("POST", answer, ANSWERS.read(answer), hide, reads=True)


def _body(method: str, *params: Any) -> dict[str, Any]:
    return {"id": 1, "method": method, "params": params}
