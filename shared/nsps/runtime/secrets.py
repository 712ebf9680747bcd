"""Secrets by reference: ``sm://NAME[/versions/N]``, ``env:NAME``, ``file:PATH``.

Values are cached, because a function must go on while Secret Manager is away for a moment, and
re-read when they grow old or are refused by whoever they are shown to.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from nsps.domain.outcome import Transient
from nsps.runtime.settings import check_secret_ref

TTL_SECONDS = 300.0
STALE_SECONDS = 3600.0
RETRY_SECONDS = 10.0
"""After a read that failed, while the value read before serves."""
REFUSED_SECONDS = 2.0
"""Between two reads of a value that was refused."""
CALL_SECONDS = 5.0
_FAILURE_SECONDS = 1.0

_log = logging.getLogger(__name__)


class SecretUnavailable(Transient):
    """A secret could not be read, or is not what it must be. The message names the reference."""


class SecretMissing(SecretUnavailable):
    """There is no such secret (or version); it may be added later."""


class SecretValue:
    """A secret that shows itself only to ``reveal()`` and ``json()``."""

    __slots__ = ("_ref", "_value")

    def __init__(self, value: str, ref: str = "") -> None:
        self._value = value
        self._ref = ref

    @property
    def ref(self) -> str:
        return self._ref

    def reveal(self) -> str:
        """The secret itself, without the byte order mark and line end that editors leave."""
        return self._value

    def json(self) -> dict[str, Any]:
        """The secret as the JSON object that it must be.

        Raises SecretUnavailable, because an operator can still correct it.
        """
        try:
            document = json.loads(self._value)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise SecretUnavailable(f"secret {self._ref} is not a JSON object: write it as one")
        return document

    def __repr__(self) -> str:
        return "SecretValue(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    def __copy__(self) -> SecretValue:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretValue:
        return self


class OptionalSecret(Protocol):
    """A handler's secret by the manifest's name; None for one that is not configured.

    ``again``: read anew because its value was refused. Raises SecretUnavailable.
    """

    def __call__(self, name: str, *, again: bool = False) -> SecretValue | None: ...


class _Entry:
    """What is known of one reference; ``lock`` lets one thread read it at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: SecretValue | None = None
        self.read_at = 0.0
        self.error: SecretUnavailable | None = None
        self.tried_at = float("-inf")
        self.refreshed_at = float("-inf")


class Secrets:
    """The secrets of one function instance; safe to share between threads.

    ``on_read`` is called with every value that is read (the redactor registers it). ``client`` is a
    Secret Manager client; by default one is made at the first ``sm://`` reference, towards
    ``SECRET_MANAGER_EMULATOR_HOST`` where the environment names one.
    """

    def __init__(
        self,
        project: str,
        environ: Mapping[str, str],
        *,
        on_read: Callable[[SecretValue], None] | None = None,
        ttl: float = TTL_SECONDS,
        client: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._project = project
        self._environ = environ
        self._on_read = on_read
        self._ttl = ttl
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def get(self, ref: str) -> SecretValue:
        """The secret: from the cache while it is younger than the TTL (default 300 s).

        While its source is away the cached value serves up to an hour. Raises SecretUnavailable.
        """
        asked_at = self._clock()
        entry = self._entry(ref)
        usable = self._usable(entry)
        if usable and asked_at - entry.read_at < self._ttl:
            return usable
        # Whoever holds a usable value does not wait for the thread that is reading a newer one.
        if not entry.lock.acquire(blocking=usable is None) and usable:
            return usable
        try:
            pause = RETRY_SECONDS if usable else _FAILURE_SECONDS
            if asked_at - entry.tried_at >= pause:
                self._read_into(entry, ref)
            return self._answer(entry, ref)
        finally:
            entry.lock.release()

    def refresh(self, ref: str) -> SecretValue:
        """Read the secret again, because its value was refused; at most every 2 s.

        Raises SecretUnavailable while it cannot be read: then nobody knows what is right.
        """
        asked_at = self._clock()
        entry = self._entry(ref)
        with entry.lock:
            if entry.tried_at < asked_at and asked_at - entry.refreshed_at >= REFUSED_SECONDS:
                entry.refreshed_at = asked_at
                self._read_into(entry, ref)
            if entry.error is not None:
                raise entry.error
            return self._answer(entry, ref)

    def look_up(self, ref: str) -> SecretValue:
        """One of many (a SIM's), read now and kept nowhere. Raises SecretUnavailable."""
        return SecretValue(without_editor_marks(self._read(ref)), ref)

    def _answer(self, entry: _Entry, ref: str) -> SecretValue:
        usable = self._usable(entry)
        if usable is None:
            raise entry.error or SecretUnavailable(f"secret {ref} is older than an hour")
        return usable

    def _entry(self, ref: str) -> _Entry:
        with self._lock:
            return self._entries.setdefault(ref, _Entry())

    def _usable(self, entry: _Entry) -> SecretValue | None:
        fresh = self._clock() - entry.read_at < max(self._ttl, STALE_SECONDS)
        return entry.value if fresh else None

    def _read_into(self, entry: _Entry, ref: str) -> None:
        try:
            value = SecretValue(without_editor_marks(self._read(ref)), ref)
        except SecretUnavailable as error:
            entry.error = error
            if entry.value is not None:
                _log.warning("%s; the value read earlier serves for up to an hour", error)
        else:
            entry.value, entry.read_at, entry.error = value, self._clock(), None
            if self._on_read is not None:
                self._on_read(value)
        entry.tried_at = self._clock()

    def _read(self, ref: str) -> str:
        try:
            check_secret_ref(ref)
        except ValueError as error:
            raise SecretUnavailable(f"secret {ref!r}: {error}") from None
        if ref.startswith("env:"):
            value = self._environ.get(ref.removeprefix("env:"))
            if value is None:
                raise SecretMissing(f"secret {ref}: the environment variable is not set")
            return value
        if ref.startswith("file:"):
            return _read_file(ref)
        return self._read_manager(ref)

    def _read_manager(self, ref: str) -> str:
        from google.api_core import exceptions, retry

        name = ref.removeprefix("sm://")
        version = name if "/versions/" in name else f"{name}/versions/latest"
        again = retry.Retry(
            predicate=retry.if_exception_type(exceptions.ServiceUnavailable),
            initial=0.1,
            maximum=1.0,
            timeout=CALL_SECONDS,
        )
        try:
            answer = self._manager().access_secret_version(
                name=f"projects/{self._project}/secrets/{version}",
                timeout=CALL_SECONDS,
                retry=again,
            )
            return str(answer.payload.data.decode())
        except exceptions.NotFound:
            raise SecretMissing(
                f"secret {ref}: Secret Manager has no such secret in project {self._project}"
            ) from None
        except UnicodeDecodeError:
            raise SecretUnavailable(f"secret {ref} is not text in UTF-8") from None
        except (exceptions.GoogleAPIError, _auth_error()) as error:
            reason = type(error).__name__
            raise SecretUnavailable(
                f"secret {ref}: Secret Manager did not give it ({reason})"
            ) from error

    def _manager(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = secret_manager_client(
                    self._environ.get("SECRET_MANAGER_EMULATOR_HOST")
                )
            return self._client


def without_editor_marks(text: str) -> str:
    """The text without the byte order mark and the line end that editors and ``echo`` add."""
    return text.removeprefix("\ufeff").rstrip("\r\n")


def _read_file(ref: str) -> str:
    try:
        return Path(ref.removeprefix("file:")).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SecretMissing(f"secret {ref}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise SecretUnavailable(f"secret {ref} cannot be read: {type(error).__name__}") from None


def _auth_error() -> type[Exception]:
    from google.auth.exceptions import GoogleAuthError

    return GoogleAuthError


def secret_manager_client(emulator: str | None) -> Any:
    """The real client; Google's own does not look at an emulator's address itself."""
    import grpc
    from google.cloud.secretmanager_v1.services.secret_manager_service import (
        SecretManagerServiceClient,
        transports,
    )

    if not emulator:
        return SecretManagerServiceClient()
    # A local server may be stopped and started again: look for it often.
    channel = grpc.insecure_channel(emulator, options=[("grpc.max_reconnect_backoff_ms", 1000)])
    transport = transports.SecretManagerServiceGrpcTransport(channel=channel)
    return SecretManagerServiceClient(transport=transport)
