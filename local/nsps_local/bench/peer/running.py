"""Starts the peer on loopback with its Redis and its PostgreSQL, and ends them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from nsps_local.daemons.postgresql import speaks_postgresql
from nsps_local.daemons.process import accepts
from nsps_local.stack.errors import CannotStart
from nsps_local.stack.ports import HOST, reserve_base
from nsps_local.stack.processes import Child, Processes

FOLDER = Path(__file__).parent
PROGRAMS = FOLDER / ".venv" / "bin"
WEBHOOK = "espf:peer-webhook"
POSTGRES_USER = "postgres"
THREADS = 50
_TABLE = """\
CREATE TABLE event_status (i_event bigint PRIMARY KEY, status text NOT NULL,
                           updated_at timestamptz NOT NULL DEFAULT now())"""


def missing() -> str | None:
    """What is not installed, and how to install it."""
    if _initdb() is None or shutil.which("redis-server") is None:
        return "Redis or PostgreSQL is not installed: apt-get install redis-server postgresql"
    if not (PROGRAMS / "celery").exists():
        return "the peer's environment is not installed: `make bench` installs it"
    return None


@dataclass(frozen=True, slots=True)
class Peer:
    """A running peer, with the ways in that the bench needs."""

    ingress: str
    system_port: int
    database: str
    processes: Mapping[str, int]

    @property
    def headers(self) -> dict[str, str]:
        basic = base64.b64encode(WEBHOOK.encode()).decode()
        return {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}

    def groups(self) -> dict[str, int]:
        """Part -> first process."""
        return dict(self.processes)

    def statuses(self) -> int:
        """How many events are done, as the peer's own table has it."""
        with psycopg.connect(self.database) as database:
            found = database.execute("SELECT count(*) FROM event_status WHERE status = 'done'")
            row = found.fetchone()
        return int(row[0]) if row else 0


@contextmanager
def running(portabilling: Mapping[str, Any], system_port: int) -> Iterator[Peer]:
    """The peer between this PortaBilling (``url`` and ``credentials``) and this external system.

    Raises CannotStart.
    """
    base = reserve_base()
    redis, postgres, web = base, base + 1, base + 2
    database = f"host={HOST} port={postgres} user={POSTGRES_USER} dbname=postgres"
    # What else is set on this machine (a CA bundle, a proxy) would slow the peer's client down.
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    settings = clean | {
        "PEER_REDIS": f"redis://{HOST}:{redis}",
        "PEER_DATABASE": database,
        "PEER_PORTABILLING": str(portabilling["url"]),
        "PEER_CREDENTIALS": json.dumps(portabilling["credentials"]),
        "PEER_SYSTEM": f"http://{HOST}:{system_port}/process-event",
        "PEER_WEBHOOK": WEBHOOK,
    }
    processes = Processes(lambda _: None)
    with tempfile.TemporaryDirectory(prefix="nsps-peer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)

        def start(part: str, command: Sequence[str], ready: Callable[[], bool]) -> None:
            child = Child(part, command, settings, ready, folder / f"{part}.log")
            processes.start(child)
            child.wait_ready()

        try:
            start("Redis", _redis(redis, folder), partial(accepts, HOST, redis))
            start("PostgreSQL", _postgres(postgres, folder), partial(speaks_postgresql, postgres))
            with psycopg.connect(database) as connection:
                connection.execute(_TABLE)
            at = ["--app-dir", str(FOLDER), "--host", HOST, "--port", str(web)]
            served = [str(PROGRAMS / "uvicorn"), "pipeline:app", *at, "--no-access-log"]
            start("web", served, partial(accepts, HOST, web))
            celery = [str(PROGRAMS / "celery"), "--workdir", str(FOLDER), "-A", "pipeline:queue"]
            worker = [*celery, "worker", "-P", "threads", "-c", str(THREADS), "-l", "info"]
            log = folder / "worker.log"
            start("worker", worker, lambda: " ready." in log.read_text(errors="replace"))
            pids = {child.name: child.pid or 0 for child in processes.children()}
            yield Peer(f"http://{HOST}:{web}/events", system_port, database, pids)
        finally:
            processes.stop()


def _redis(port: int, folder: Path) -> list[str]:
    command = ["redis-server", "--bind", HOST, "--port", str(port), "--dir", str(folder)]
    return [*command, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]


def _postgres(port: int, folder: Path) -> list[str]:
    """Makes a cluster; the command that serves it. PostgreSQL refuses to run as root."""
    initdb, data = _initdb(), folder / "postgresql"
    assert initdb is not None
    data.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        folder.chmod(0o711)
        shutil.chown(data, POSTGRES_USER, POSTGRES_USER)
        ids = [f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--clear-groups"]
        as_user = ["setpriv", *ids]
    made = subprocess.run(  # noqa: S603
        [*as_user, initdb, "-D", str(data), "-U", POSTGRES_USER, "-A", "trust", "-E", "UTF8"],
        capture_output=True, text=True, timeout=120, check=False, cwd="/",
    )  # fmt: skip
    if made.returncode:
        raise CannotStart(f"the peer's PostgreSQL: initdb failed: {made.stderr.strip()[-300:]}")
    listens = ["-h", HOST, "-p", str(port), "-k", ""]
    return [*as_user, str(Path(initdb).with_name("postgres")), "-D", str(data), *listens]


def _initdb() -> str | None:
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return shutil.which("initdb", path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
