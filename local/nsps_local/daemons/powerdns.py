"""A PowerDNS with an SQLite database."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import requests

from nsps_local.daemons.process import NotInstalled, accepts, free_port, installed, process, run

_PDNS_CONFIG = """\
launch=gsqlite3
gsqlite3-database={folder}/pdns.sqlite3
socket-dir={folder}
local-address=127.0.0.1
local-port={dns}
webserver=yes
webserver-address=127.0.0.1
webserver-port={api}
api=yes
api-key={key}
guardian=no
daemon=no
"""
_PDNS_SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")


@contextmanager
def powerdns(key: str, ports: tuple[int, int] | None = None) -> Iterator[tuple[int, int]]:
    """A PowerDNS without zones; gives the ports of its API and of the DNS, on 127.0.0.1: those
    asked for, or free ones.
    """
    program = installed("pdns_server", "pdns-server pdns-backend-sqlite3")
    if not _PDNS_SCHEMA.exists():
        raise NotInstalled("PowerDNS has no SQLite: apt-get install pdns-backend-sqlite3")
    # A path of its own: PowerDNS makes a socket there, whose name must be short.
    with tempfile.TemporaryDirectory(prefix="nsps-pdns-") as name:
        folder = Path(name)
        api, dns = ports or (free_port(), free_port())
        with closing(sqlite3.connect(folder / "pdns.sqlite3")) as database:
            database.executescript(_PDNS_SCHEMA.read_text())
        (folder / "pdns.conf").write_text(
            _PDNS_CONFIG.format(folder=folder, api=api, dns=dns, key=key)
        )
        command = [program, f"--config-dir={folder}"]
        with process(command, folder, lambda: accepts("127.0.0.1", api)):
            yield api, dns


def add_zone(api: int, key: str, name: str) -> None:
    """A zone with nothing in it."""
    zone = {"name": name, "kind": "Native", "nameservers": ["ns1.example.net."]}
    url = f"http://127.0.0.1:{api}/api/v1/servers/localhost/zones"
    requests.post(url, json=zone, headers={"X-API-Key": key}, timeout=10).raise_for_status()


def naptr(dns: int, name: str) -> list[str]:
    """What dig says of a name's NAPTR records."""
    dig = installed("dig", "bind9-dnsutils")
    command = [dig, "+short", "+tries=3", "-p", str(dns), "@127.0.0.1", name, "NAPTR"]
    return run(command).splitlines()
