"""Real systems that handlers of the local stack speak to, where their package is installed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nsps_local.daemons import osmo_hlr
from nsps_local.recording.topology import Topology

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A system to start. ``address``: where it answers when it is up."""

    name: str
    package: str
    command: tuple[str, ...]
    address: tuple[str, int]

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(self.address) == 0


def wanted(topology: Topology, state: Path) -> Iterator[Daemon]:
    """The daemons for the topology's handlers that are on loopback and not running yet."""
    for function in topology.functions:
        handler = json.loads(function.env.get("NSPS_HANDLER", "null"))
        if handler is None or handler["connector"] != "hss_osmocom":
            continue
        host = str(handler["settings"]["host"])
        daemon = _osmo_hlr(host, state / handler["name"])
        if daemon is not None and host.startswith("127.") and not daemon.answers():
            yield daemon


def _osmo_hlr(host: str, folder: Path) -> Daemon | None:
    program = shutil.which("osmo-hlr", path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if program is None or sys.platform != "linux":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "osmo-hlr.cfg"
    config.write_text(osmo_hlr.CONFIG.format(address=host))
    command = (program, "-c", str(config), "-l", str(folder / "hlr.db"))
    return Daemon("osmo-hlr", "osmo-hlr", command, (host, osmo_hlr.CTRL_PORT))
