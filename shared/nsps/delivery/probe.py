"""How a handler's system is: the connector's own check, asked of the handler's function."""

from __future__ import annotations

from nsps.cloud.identity_token import IdentityTokens
from nsps.domain.outcome import DeliveryError
from nsps.runtime.settings import HandlerLocation
from nsps.transport.http import Deadline, Http

PROBE_SECONDS = 15.0


def probe(location: HandlerLocation, http: Http, tokens: IdentityTokens) -> str | None:
    """None for well, or why not. Never raises."""
    deadline = Deadline(PROBE_SECONDS)
    try:
        token = tokens.token(location.audience, deadline)
        answer = http.request(
            "GET",
            f"{location.url}/health?deep=1",
            deadline=deadline,
            headers={"Authorization": f"Bearer {token}"},
            idempotent=True,
        )
    except DeliveryError as error:
        return f"its function cannot be asked: {error}"
    if answer.status == 200:
        return None
    try:
        reason = answer.json().get("reason")
    except (ValueError, AttributeError, DeliveryError):
        reason = None
    return str(reason or f"its function answers HTTP {answer.status}")
