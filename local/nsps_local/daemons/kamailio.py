"""A Kamailio that registers phones."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsps_local.daemons.postgresql import new_database, sql
from nsps_local.daemons.process import NotInstalled, accepts, free_port, installed, process

_KAMAILIO_MODULES = Path("/usr/lib/x86_64-linux-gnu/kamailio/modules")


_SCHEMAS = Path("/usr/share/kamailio/postgres")


def kamailio_database(postgres: tuple[str, int]) -> str:
    """The database ``kamailio`` without subscribers, which the role nsps may write; its URL."""
    installed("kamailio", "kamailio kamailio-postgres-modules")
    files = (_SCHEMAS / f"{name}-create.sql" for name in ("standard", "auth_db"))
    new_database(postgres, "kamailio", *files)
    sql(
        postgres,
        "kamailio",
        "ALTER TABLE subscriber ADD status varchar(16), ADD display text;"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON subscriber TO nsps;"
        "GRANT USAGE ON subscriber_id_seq TO nsps",
    )
    host, port = postgres
    return f"postgres://postgres@{host}:{port}/kamailio"


@contextmanager
def kamailio(database: str, ports: tuple[int, int] | None = None) -> Iterator[tuple[int, int]]:
    """A Kamailio as kamailio.cfg has it, with its subscribers in a PostgreSQL; gives its ports (SIP
    over UDP, JSON-RPC) on 127.0.0.1: those asked for, or free ones.

    ``database``: postgres://USER:PASSWORD@HOST:PORT/DATABASE.
    """
    program = installed("kamailio", "kamailio kamailio-postgres-modules")
    if not (_KAMAILIO_MODULES / "db_postgres.so").exists():
        raise NotInstalled("Kamailio has no PostgreSQL: apt-get install kamailio-postgres-modules")
    sip, rpc = ports or (free_port(), free_port())
    with tempfile.TemporaryDirectory(prefix="nsps-kamailio-") as name:
        folder = Path(name)
        text = Path(__file__).with_name("kamailio.cfg").read_text()
        for mark, value in (("SIP", sip), ("RPC", rpc), ("DATABASE", database)):
            text = text.replace(f"@{mark}@", str(value))
        (folder / "kamailio.cfg").write_text(text)
        command = [program, "-f", f"{name}/kamailio.cfg", "-DD", "-E", "-m", "32", "-M", "4"]
        command += ["-Y", name, "-P", f"{name}/pid"]
        with process(command, folder, lambda: accepts("127.0.0.1", rpc), stop=signal.SIGTERM):
            yield sip, rpc
