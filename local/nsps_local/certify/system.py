"""The system behind the connector, reached by way of this command so that it can be disturbed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from nsps_testing.faults import ChaosProxy

from nsps_local.certify.address import CannotCertify
from nsps_local.certify.case import Trouble

SLOW_SECONDS = 1.0


class System:
    """A listener that passes everything on to the real (test) system."""

    def __init__(self, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self._sent: list[bytes] = []
        self._lock = threading.Lock()
        try:
            self.proxy = ChaosProxy(target, *listen, watch=self._keep)
        except OSError as error:
            raise CannotCertify(f"--system: cannot listen on {listen}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """``LISTEN_HOST:PORT=HOST:PORT``. Raises CannotCertify."""
        listen, equals, target = text.partition("=")
        if not equals:
            raise CannotCertify(f"--system {text}: write LISTEN_HOST:PORT=HOST:PORT")
        return cls(_host_and_port(listen), _host_and_port(target))

    def taken(self) -> bytes:
        """What the connector has sent since this was last asked."""
        with self._lock:
            sent, self._sent = b"".join(self._sent), []
        return sent

    @property
    def connections(self) -> int:
        """How many the connector has made so far, without those that the system closed."""
        return self.proxy.opened - self.proxy.closed_by_system

    @contextmanager
    def troubled(self, trouble: Trouble) -> Iterator[None]:
        if trouble is Trouble.AWAY:
            self.proxy.refuse()
        elif trouble is Trouble.HANGS:
            self.proxy.hang()
        elif trouble is Trouble.SLOW:
            self.proxy.slow(SLOW_SECONDS)
        try:
            yield
        finally:
            if trouble is Trouble.HANGS:
                self.proxy.drop_connections()  # what hung is not carried out later
            elif trouble is not Trouble.NONE:
                self.proxy.pass_all()

    def close(self) -> None:
        self.proxy.close()

    def _keep(self, data: bytes) -> None:
        with self._lock:
            self._sent.append(data)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise CannotCertify(f"--system {text}: write HOST:PORT")
    return host.strip("[]"), int(port)
