"""Whether a handler's system is well: the connector's own check, by the handler's function."""

from __future__ import annotations

from collections.abc import Callable

from nsps.domain.outcome import DeliveryError
from nsps.transport.deadline import Deadline
from nsps.transport.http import Http

PROBE_SECONDS = 15.0


def probe(url: str, http: Http, token: Callable[[Deadline], str]) -> str | None:
    """None for well, or why not. Never raises.

    ``url``: the handler's function. ``token``: an identity that the function lets in.
    """
    deadline = Deadline(PROBE_SECONDS)
    try:
        answer = http.request(
            "GET",
            f"{url}/health?deep=1",
            deadline=deadline,
            headers={"Authorization": f"Bearer {token(deadline)}"},
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
