"""A MariaDB."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsps_local.daemons.process import free_port, installed, process, run


@contextmanager
def mariadb() -> Iterator[tuple[str, int]]:
    """A MariaDB 10 or later with an empty data folder; gives host and port.

    User ``root`` needs no password.
    """
    install = installed("mariadb-install-db", "mariadb-server")
    server = installed("mariadbd", "mariadb-server")
    user = pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="nsps-mariadb-") as name:
        folder = Path(name)
        (folder / "temporary").mkdir()
        # A MariaDB that starts removes all temporary tables from its tmpdir: let it be its own.
        data = [f"--datadir={folder}/data", f"--tmpdir={folder}/temporary", f"--user={user}"]
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        run([install, "--no-defaults", *data, *options])
        port = free_port()
        command = [server, "--no-defaults", *data, "--bind-address=127.0.0.1", f"--port={port}"]
        command += [f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        command += ["--innodb-flush-log-at-trx-commit=2", "--skip-name-resolve"]
        with process(command, folder, lambda: _speaks_mysql(port), stop=signal.SIGTERM):
            yield "127.0.0.1", port


def _speaks_mysql(port: int) -> bool:
    """Whether the server greets: it then takes sessions."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as link:
            return len(link.recv(5)) == 5
    except OSError:
        return False
