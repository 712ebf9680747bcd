"""A Tryton with the module party, on a PostgreSQL."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from nsps.transport.rest import base64_of

from nsps_local.daemons.postgresql import new_database, run_client
from nsps_local.daemons.process import NotInstalled, accepts, free_port, process, run

_ROOT = Path(__file__).resolve().parents[3]
_TRYTON = _ROOT / "tests" / "systems" / "tryton"
"""It has an environment of its own: its libraries are not ours."""
USER, PASSWORD = "admin", "tryton-canary-4711"
# The program, but with a cheap digest of passwords: tests log in a hundred times, at 0.2 s each.
_TRYTOND = """\
import runpy, sys
from pwdlib.hashers.argon2 import Argon2Hasher
costs = Argon2Hasher.__init__.__defaults__
Argon2Hasher.__init__.__defaults__ = (1, 64, 1, *costs[3:])  # time, memory, parallelism
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def tryton_database(postgres: tuple[str, int]) -> None:
    """The database ``crm`` as a new Tryton with the module party has it, whatever it was before.

    Tryton takes 12 s to make one; so a dump is kept, which `make clean` forgets.
    """
    if not (_TRYTON / ".venv/bin/trytond").exists():
        where = _TRYTON.relative_to(_ROOT)
        raise NotInstalled(
            f"trytond is not installed: python3 -m venv {where}/.venv, then "
            f"{where}/.venv/bin/pip install -r {where}/requirements.txt"
        )
    made = (_TRYTON / "requirements.txt").read_bytes() + PASSWORD.encode()
    kept = _ROOT / ".nsps" / "tryton" / f"{hashlib.sha256(made).hexdigest()[:16]}.sql"
    new_database(postgres, "crm", *([kept] if kept.exists() else []))
    if kept.exists():
        return
    with tempfile.TemporaryDirectory(prefix="nsps-tryton-") as name:
        folder = Path(name)
        _tryton_config(folder, postgres, 0)
        (folder / "password").write_text(PASSWORD)
        command = [str(_TRYTON / ".venv/bin/trytond-admin"), "-c", "trytond.conf", "-d", "crm"]
        command += ["-p", "-u", "party", "--activate-dependencies", "--email", "crm@example.net"]
        run(command, cwd=folder, env={**os.environ, "TRYTONPASSFILE": f"{name}/password"})
        run_client("pg_dump", postgres, "-f", f"{name}/dump.sql", "crm")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "dump.sql", kept.with_suffix(f".{os.getpid()}"))
        kept.with_suffix(f".{os.getpid()}").rename(kept)


@contextmanager
def tryton(postgres: tuple[str, int], port: int = 0) -> Iterator[int]:
    """A Tryton on the database ``crm``; gives its port on 127.0.0.1."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="nsps-tryton-") as name:
        _tryton_config(Path(name), postgres, port)
        programs = _TRYTON / ".venv/bin"
        command = [str(programs / "python"), "-c", _TRYTOND, str(programs / "trytond")]
        command += ["-c", "trytond.conf", "-d", "crm"]
        with process(command, Path(name), lambda: accepts("127.0.0.1", port)):
            yield port


def as_admin(port: int, method: str, *params: Any) -> Any:
    """What a method returns to the administrator."""
    url = f"http://127.0.0.1:{port}/crm/rpc/"

    def call(method: str, *params: Any, **headers: str) -> Any:
        body = {"id": 1, "method": method, "params": params}
        return requests.post(url, json=body, headers=headers, timeout=30).json()["result"]

    ident, token, _ = call("common.db.login", USER, {"password": PASSWORD}, "en")
    session = base64_of(f"{USER}:{ident}:{token}")
    return call(method, *params, Authorization=f"Session {session}")


def add_user(port: int, password: str) -> None:
    """The user ``nsps``, as a deployment makes one: no administrator."""
    user = {"name": "NSPS", "login": "nsps", "password": password}
    as_admin(port, "model.res.user.create", [user], {})


def _tryton_config(folder: Path, postgres: tuple[str, int], port: int) -> None:
    host, database_port = postgres
    (folder / "trytond.conf").write_text(
        f"[database]\nuri=postgresql://postgres@{host}:{database_port}/\n"
        f"[web]\nlisten=127.0.0.1:{port}\n"
    )
