"""A PostgreSQL, and its client programs."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsps_local.daemons.process import free_port, installed, process, run


@contextmanager
def postgresql() -> Iterator[tuple[str, int]]:
    """A PostgreSQL 15 or later with an empty cluster; gives host and port.

    User ``postgres`` needs no password, user ``nsps`` (if created) does.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = installed("initdb", "postgresql", *map(str, folders))
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    # Not below pytest's folder: that is root's alone, and another run may make it so again.
    with tempfile.TemporaryDirectory(prefix="nsps-postgresql-") as folder:
        data = Path(folder)
        if user:
            shutil.chown(data, user, pwd.getpwnam(user).pw_gid)
        yield from _cluster(initdb, data, user)


def _cluster(initdb: str, data: Path, user: str | None) -> Iterator[tuple[str, int]]:
    options_of_initdb = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    run([initdb, "-D", str(data), *options_of_initdb], user=user, cwd=data)
    rules = data / "pg_hba.conf"
    rules.write_text("host all nsps 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    port = free_port()
    options = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "30",
    }
    command = [str(Path(initdb).with_name("postgres")), "-D", str(data)]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with process(command, data, lambda: _speaks_postgresql(port), user=user):
        yield "127.0.0.1", port


def run_client(name: str, postgres: tuple[str, int], *arguments: str) -> str:
    """What a client program of PostgreSQL's prints, as its superuser. Raises CannotStart."""
    host, port = postgres
    return run([name, "-h", host, "-p", str(port), "-U", "postgres", *arguments])


def _speaks_postgresql(port: int) -> bool:
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
