"""What one instance of a function with a store holds: secrets, redaction, logs, connections.

Nothing here goes to the network before the first request needs it. What the first request will
import is imported with this module, while the instance starts: half a second on one core.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import google.auth.jwt
import google.cloud.firestore
import google.cloud.secretmanager_v1.services.secret_manager_service  # noqa: F401 (all three)

from nsps.runtime import log
from nsps.runtime.lazy import Lazy
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import Secrets, SecretValue
from nsps.runtime.settings import PortaBillingSettings, Shared
from nsps.transport.http import Http

if TYPE_CHECKING:
    from nsps.cloud.messages import Publisher
    from nsps.cloud.store import Store
    from nsps.espf.poster import Poster
    from nsps.espf.status_api import EspfStatusApi
    from nsps.portabilling.client import PortaBilling
    from nsps.transport.tls import Tls


class InstanceContext:
    """Each part is made once, when it is first asked for; safe to share between threads."""

    def __init__(
        self,
        settings: Shared,
        portabilling: PortaBillingSettings,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings, self._portabilling = settings, portabilling
        self._registered: list[SecretValue] = []
        self._lock = threading.Lock()
        self.secrets = Secrets(settings.project, environ, on_read=self._register)
        self.http = self.make_http()
        self.redactor: Lazy[Redactor] = Lazy(self._make_redactor)
        """The redactor with the deployment's digest key. Raises SecretUnavailable."""
        self.store: Lazy[Store] = Lazy(self._make_store)
        self.portabilling: Lazy[PortaBilling] = Lazy(self._make_portabilling)
        self.espf: Lazy[EspfStatusApi] = Lazy(self._make_espf)
        self.poster: Lazy[Poster] = Lazy(self._make_poster)
        self.publisher: Lazy[Publisher] = Lazy(_make_publisher)
        # Until the digest key has been read, logs are redacted with a key that nobody knows.
        self._logging = Redactor(os.urandom(32))
        self._log_with(self._logging)

    def make_http(self, tls: Tls | None = None) -> Http:
        """``tls``: the certificates of one handler, whose connections are no other's."""
        return Http(2 * self._settings.threads, tls=tls)  # enrichment reads two things at a time

    def _make_redactor(self) -> Redactor:
        key = self.secrets.get(self._settings.digest_key)
        redactor = Redactor(key.reveal().encode())
        with self._lock:
            for secret in self._registered:
                redactor.register(secret)
            self._log_with(redactor)
        return redactor

    def _make_store(self) -> Store:
        from nsps.cloud.store import open_store

        return open_store(self._settings.project, self._settings.database)

    def _make_portabilling(self) -> PortaBilling:
        from nsps.portabilling.client import PortaBilling, ServicePaths
        from nsps.portabilling.login import ApiCredentials

        settings = self._portabilling
        return PortaBilling(
            settings.url,
            lambda: ApiCredentials.parse(self.secrets.get(settings.credentials).json()),
            settings.timeout_seconds,
            self.http,
            services=ServicePaths.of(settings.services),
            absence={what: frozenset(said) for what, said in settings.absence.items()},
            refused=lambda: self.secrets.refresh(settings.credentials),
        )

    def _make_espf(self) -> EspfStatusApi:
        from nsps.espf.status_api import EspfStatusApi

        return EspfStatusApi(self.portabilling(), self._portabilling.espf_status_content_type)

    def _make_poster(self) -> Poster:
        from nsps.espf.poster import Poster

        return Poster(self.store(), self.espf)

    def _register(self, secret: SecretValue) -> None:
        """Every secret that is read is from then on taken out of logs and stored texts by value."""
        with self._lock:
            self._registered.append(secret)
            self._logging.register(secret)

    def _log_with(self, redactor: Redactor) -> None:
        self._logging = redactor
        settings = self._settings
        log.configure(project=settings.project, redactor=redactor)


def _make_publisher() -> Publisher:
    from nsps.cloud.messages import Publisher

    return Publisher()
