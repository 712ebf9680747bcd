"""A function's own Google identity: as a token for another function of the deployment, and as an
access token for Google's own APIs.

(Source: Google Cloud docs, authenticating service to service; the metadata server's tokens.)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

from nsps.domain.outcome import Transient
from nsps.transport.deadline import Deadline
from nsps.transport.http import Answer, Http

TTL_SECONDS = 1800.0
"""A token lives an hour; a new one is fetched when half of it has passed."""
EARLY_SECONDS = 120.0
"""An access token is fetched anew so long before it ends."""
_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"


class IdentityTokens:
    """The tokens of this instance, one per audience; safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._http, self._clock = Http(threads=1, metadata_server=True), clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, str]] = {}

    def token(self, audience: str, deadline: Deadline) -> str:
        """An OIDC token made out to the audience. Raises Transient."""
        with self._lock:
            until, token = self._kept.get(audience, (0.0, ""))
            if not token or until < self._clock():
                token = self._fetch(audience, deadline)
                self._kept[audience] = (self._clock() + TTL_SECONDS, token)
            return token

    def _fetch(self, audience: str, deadline: Deadline) -> str:
        path = f"identity?audience={quote(audience, safe='')}&format=full"
        return _asked(self._http, path, deadline).body.decode("ascii", "replace").strip()


class AccessToken:
    """The access token of this instance; safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._http, self._clock = Http(threads=1, metadata_server=True), clock
        self._lock = threading.Lock()
        self._until, self._token = 0.0, ""

    def __call__(self, deadline: Deadline) -> str:
        """Raises Transient."""
        with self._lock:
            if self._until <= self._clock():
                found = _asked(self._http, "token", deadline).json()
                self._token = str(found["access_token"])
                self._until = self._clock() + float(found["expires_in"]) - EARLY_SECONDS
            return self._token


def _asked(http: Http, path: str, deadline: Deadline) -> Answer:
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    answer = http.request(
        "GET",
        f"http://{host}{_ACCOUNT}/{path}",
        deadline=deadline,
        headers={"Metadata-Flavor": "Google"},
        idempotent=True,
    )
    if answer.status != 200:
        raise Transient(
            f"the metadata server gives no token (HTTP {answer.status}): "
            "does the function have a service account?"
        )
    return answer
