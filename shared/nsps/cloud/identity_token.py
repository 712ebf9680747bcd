"""A function's own Google identity, as a token for another function of the deployment.

(Source: Google Cloud docs, authenticating service to service: the metadata server's identity.)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from urllib.parse import quote

from nsps.domain.outcome import Transient
from nsps.transport.deadline import Deadline
from nsps.transport.http import Http

TTL_SECONDS = 1800.0
"""A token lives an hour; a new one is fetched when half of it has passed."""
_PATH = "/computeMetadata/v1/instance/service-accounts/default/identity"


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
        host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        answer = self._http.request(
            "GET",
            f"http://{host}{_PATH}?audience={quote(audience, safe='')}&format=full",
            deadline=deadline,
            headers={"Metadata-Flavor": "Google"},
            idempotent=True,
        )
        if answer.status != 200:
            raise Transient(
                f"the metadata server gives no identity token (HTTP {answer.status}): "
                "does the function have a service account?"
            )
        return answer.body.decode("ascii", "replace").strip()
