"""How NSPS proves who it is, by the setting ``authentication`` and the secret ``credentials``."""

from __future__ import annotations

import time

from nsps.connector.base import Call, Context
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import member_of
from nsps.transport.rest import Authentication as Shows
from nsps.transport.rest import NoAuthentication, SignedIn, basic

from .description import Settings, SignIn
from .template import filled, places

SECRET = "credentials"  # noqa: S105 (its name in the manifest)


def authentication(settings: Settings, context: Context) -> Shows:
    setting = settings.authentication
    if setting.type == "none":
        return NoAuthentication()
    if setting.sign_in is not None:
        return _signed_in(settings, setting.sign_in, context)
    if setting.type == "bearer":
        return context.secret_header(SECRET, setting.header)
    return context.secret_header(
        SECRET, setting.header, basic if setting.type == "basic" else "{}".format
    )


def _signed_in(settings: Settings, sign_in: SignIn, context: Context) -> Shows:
    setting = settings.authentication

    def ask(call: Call) -> tuple[SecretValue, float | None]:
        credentials = context.secret(SECRET).json()
        missing = sorted({name for name, _ in places(sign_in.body)} - set(credentials))
        if missing:
            raise Transient(f"secret {SECRET} has no member {missing[0]}: add it")
        body = filled(sign_in.body, credentials)
        content = {"data": body} if sign_in.form else {"json": body}
        answer = context.http.request(
            "POST", settings.sign_in_url, deadline=call.deadline, idempotent=True, **content
        )
        if not answer.ok:  # what it says may repeat the password
            raise Transient(
                f"POST {answer.url}: {answer.status}: no token was given: is the secret "
                f"{SECRET} right?",
                answer.retry_after(),
            )
        return _token(answer.json(), sign_in, answer.url)

    return SignedIn(ask, lambda token: {setting.header: setting.prefix + token}, time.monotonic)


def _token(document: object, sign_in: SignIn, url: str) -> tuple[SecretValue, float | None]:
    token = member_of(document, sign_in.token)
    if not isinstance(token, str) or not token:
        raise Transient(f"POST {url}: there is no token at {sign_in.token} of the answer")
    seconds = member_of(document, sign_in.seconds) if sign_in.seconds else None
    lifetime = float(seconds) if isinstance(seconds, int | float) else None
    return SecretValue(token), lifetime
