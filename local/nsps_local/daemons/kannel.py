"""A Kannel before a mobile network that speaks SMPP."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from nsps_local.daemons.process import accepts, free_port, installed, process

_KANNEL_CONFIG = """\
group = core
admin-port = {admin}
admin-interface = "127.0.0.1"
admin-password = {password}
smsbox-port = {boxes}
box-deny-ip = "*.*.*.*"
box-allow-ip = "127.0.0.1"

group = smsc
smsc = smpp
smsc-id = NET
host = 127.0.0.1
port = {network}
transceiver-mode = true
smsc-username = nsps
smsc-password = nsps
system-type = ""
source-addr-autodetect = true
reconnect-delay = 1

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {sendsms}
sendsms-interface = "127.0.0.1"
http-request-retry = 60
http-queue-delay = 1

group = sendsms-user
username = nsps
password = {password}
max-messages = 3
concatenation = true
"""


class Kannel:
    """Kannel before a mobile network that speaks SMPP; ``url`` is its sendsms."""

    def __init__(self, folder: Path, network: int, password: str) -> None:
        self._boxes = [installed(name, "kannel") for name in ("bearerbox", "smsbox")]
        self._folder = folder
        self._ports = {name: free_port() for name in ("admin", "boxes", "sendsms")}
        (folder / "kannel.conf").write_text(
            _KANNEL_CONFIG.format(network=network, password=password, **self._ports)
        )
        self.port = self._ports["sendsms"]
        self.url = f"http://127.0.0.1:{self.port}/cgi-bin/sendsms"

    @contextmanager
    def running(self) -> Iterator[None]:
        bearerbox, smsbox = ([box, "-v", "1", "kannel.conf"] for box in self._boxes)
        with (
            self._box(bearerbox, "boxes"),
            self._box(smsbox, "sendsms"),
        ):
            yield

    def _box(self, command: list[str], port: str) -> AbstractContextManager[None]:
        ready = partial(accepts, "127.0.0.1", self._ports[port])
        return process(command, self._folder, ready, stop=signal.SIGTERM)
