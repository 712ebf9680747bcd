"""For tests of addresses that are never called: if the code fails, nothing is called either."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


@contextmanager
def loopback_only() -> Iterator[None]:
    """Nothing but loopback is connected to, even if the code under test tries to."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            raise OSError(f"a test tried to connect to {host}")
        connect(self, address)

    with mock.patch.object(socket.socket, "connect", checked):
        yield
