"""A PostgreSQL, and its client programs."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from nsps_local.daemons.process import free_port, installed, process, run


@contextmanager
def postgresql() -> Iterator[tuple[str, int]]:
    """A PostgreSQL 15 or later with an empty cluster; gives host and port.

    User ``postgres`` needs no password, user ``nsps`` (if created) does.
    """
    with postgresql_cluster() as node, node.running():
        yield node.address


@contextmanager
def postgresql_cluster() -> Iterator[PostgresqlNode]:
    """As ``postgresql``, but not started; it can follow another node."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = Path(installed("initdb", "postgresql", *map(str, folders))).parent
    # Not below pytest's folder: that is root's alone, and another run may make it so again.
    with tempfile.TemporaryDirectory(prefix="nsps-postgresql-") as name:
        node = PostgresqlNode(Path(name), programs)
        node.run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        rules = node.data / "pg_hba.conf"
        rules.write_text("host all nsps 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        yield node


class PostgresqlNode:
    """A PostgreSQL on 127.0.0.1, at the same port whenever it runs; ``data``: its folder."""

    def __init__(self, data: Path, programs: Path) -> None:
        self.data, self._programs = data, programs
        self._user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        if self._user:
            shutil.chown(data, self._user, pwd.getpwnam(self._user).pw_gid)
        self.address = ("127.0.0.1", free_port())

    def run(self, program: str, *arguments: str) -> None:
        """One of PostgreSQL's programs on the folder. Raises CannotStart where it fails."""
        command = [str(self._programs / program), "-D", str(self.data), *arguments]
        run(command, user=self._user, cwd=self.data)

    def follow(self, primary: PostgresqlNode) -> None:
        """Become a standby, with a copy of the primary's data instead of its own."""
        for each in self.data.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        host, port = primary.address
        source = f"host={host} port={port} user=postgres"
        self.run("pg_basebackup", "-d", source, "-R", "-c", "fast", "--no-sync")

    @contextmanager
    def running(self, stop: signal.Signals = signal.SIGINT) -> Iterator[None]:
        """``stop``: SIGINT ends its sessions and shuts it down; SIGQUIT as a crash does."""
        port = self.address[1]
        options = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "30",
        }
        command = [str(self._programs / "postgres"), "-D", str(self.data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        ready = partial(speaks_postgresql, port)
        with process(command, self.data, ready, user=self._user, stop=stop):
            yield


def run_client(name: str, postgres: tuple[str, int], *arguments: str) -> str:
    """What a client program of PostgreSQL's prints, as its superuser. Raises CannotStart."""
    host, port = postgres
    return run([name, "-h", host, "-p", str(port), "-U", "postgres", *arguments])


def speaks_postgresql(port: int) -> bool:
    """Whether the server takes sessions (it listens before it has recovered)."""
    import psycopg

    try:
        psycopg.connect(
            host="127.0.0.1", port=port, user="postgres", dbname="postgres", connect_timeout=2
        ).close()
    except psycopg.OperationalError:
        return False
    return True


_STRICT = ("-v", "ON_ERROR_STOP=1")


def new_database(postgres: tuple[str, int], name: str, *files: Path, owner: str = "") -> None:
    """The database, empty (whatever it held is gone), with the schemas in the files."""
    made = f"CREATE DATABASE {name}" + (f" OWNER {owner}" if owner else "")
    for statement in (f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", made):
        run_client("psql", postgres, "-c", statement, "postgres")
    for file in files:
        run_client("psql", postgres, *_STRICT, "-q", "-1", "-f", str(file), name)


def sql(postgres: tuple[str, int], database: str, statements: str) -> str:
    """What psql prints of the statements' rows, a line each."""
    return run_client(
        "psql", postgres, *_STRICT, "-qAt", "-F", ", ", "-c", statements, database
    ).strip()
