"""Real daemons, started for tests on loopback and ended with them."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CTRL_PORT = 4259  # fixed in OsmoHLR 1.5, as are 4258 (VTY) and 4222 (GSUP)

_HLR_CONFIG = """\
log stderr
 logging filter all 1
 logging color 0
 logging level main notice
line vty
 bind {address}
ctrl
 bind {address}
hlr
 gsup
  bind ip {address}
"""


@contextmanager
def osmo_hlr(folder: Path) -> Iterator[tuple[str, int]]:
    """An OsmoHLR with an empty database; gives host and port of its CTRL interface.

    Its ports are fixed, so it gets a loopback address of its own. Skips where it is not installed.
    """
    program = _program("osmo-hlr", "osmo-hlr")
    address = _free_loopback_address(CTRL_PORT)
    (folder / "osmo-hlr.cfg").write_text(_HLR_CONFIG.format(address=address))
    command = [program, "-c", "osmo-hlr.cfg", "-l", "hlr.db"]
    with _process(command, folder, lambda: _accepts(address, CTRL_PORT)):
        yield address, CTRL_PORT


@contextmanager
def postgresql() -> Iterator[tuple[str, int]]:
    """A PostgreSQL 15 or later with an empty cluster; gives host and port.

    User ``postgres`` needs no password, user ``nsps`` (if created) does. Skips where it is not
    installed.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = _program("initdb", "postgresql", *map(str, folders))
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    # Not below pytest's folder: that is root's alone, and another run may make it so again.
    with tempfile.TemporaryDirectory(prefix="nsps-postgresql-") as folder:
        data = Path(folder)
        if user:
            shutil.chown(data, user, pwd.getpwnam(user).pw_gid)
        yield from _cluster(initdb, data, user)


def _cluster(initdb: str, data: Path, user: str | None) -> Iterator[tuple[str, int]]:
    made = subprocess.run(
        [initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        capture_output=True, timeout=60, user=user, cwd=data, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode(errors="replace")
    rules = data / "pg_hba.conf"
    rules.write_text("host all nsps 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    port = _free_port()
    options = {
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "30",
    }
    command = [str(Path(initdb).with_name("postgres")), "-D", str(data)]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with _process(command, data, lambda: _speaks_postgresql(port), user=user):
        yield "127.0.0.1", port


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

    Skips where it, or its SQLite backend, is not installed.
    """
    program = _program("pdns_server", "pdns-server pdns-backend-sqlite3")
    if not _PDNS_SCHEMA.exists():
        pytest.skip("PowerDNS has no SQLite: apt-get install pdns-backend-sqlite3")
    # A path of its own: PowerDNS makes a socket there, whose name must be short.
    with tempfile.TemporaryDirectory(prefix="nsps-pdns-") as name:
        folder = Path(name)
        api, dns = ports or (_free_port(), _free_port())
        with closing(sqlite3.connect(folder / "pdns.sqlite3")) as database:
            database.executescript(_PDNS_SCHEMA.read_text())
        (folder / "pdns.conf").write_text(
            _PDNS_CONFIG.format(folder=folder, api=api, dns=dns, key=key)
        )
        command = [program, f"--config-dir={folder}"]
        with _process(command, folder, lambda: _accepts("127.0.0.1", api)):
            yield api, dns


_KAMAILIO_MODULES = Path("/usr/lib/x86_64-linux-gnu/kamailio/modules")


@contextmanager
def kamailio(database: str, ports: tuple[int, int] | None = None) -> Iterator[tuple[int, int]]:
    """A Kamailio as kamailio.cfg has it, with its subscribers in a PostgreSQL; gives its ports (SIP
    over UDP, JSON-RPC) on 127.0.0.1: those asked for, or free ones.

    ``database``: postgres://USER:PASSWORD@HOST:PORT/DATABASE. Skips where it is not installed.
    """
    program = _program("kamailio", "kamailio kamailio-postgres-modules")
    if not (_KAMAILIO_MODULES / "db_postgres.so").exists():
        pytest.skip("Kamailio has no PostgreSQL: apt-get install kamailio-postgres-modules")
    sip, rpc = ports or (_free_port(), _free_port())
    with tempfile.TemporaryDirectory(prefix="nsps-kamailio-") as name:
        folder = Path(name)
        text = Path(__file__).with_name("kamailio.cfg").read_text()
        for mark, value in (("SIP", sip), ("RPC", rpc), ("DATABASE", database)):
            text = text.replace(f"@{mark}@", str(value))
        (folder / "kamailio.cfg").write_text(text)
        command = [program, "-f", "kamailio.cfg", "-DD", "-E", "-m", "32", "-M", "4"]
        command += ["-Y", name, "-P", f"{name}/pid"]
        with _process(command, folder, lambda: _accepts("127.0.0.1", rpc), stop=signal.SIGTERM):
            yield sip, rpc


_TRYTON = Path(__file__).with_name("tryton")
TRYTON_USER, TRYTON_PASSWORD = "admin", "tryton-canary-4711"
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
    _program("trytond", f"tryton: see {_TRYTON}/requirements.txt", str(_TRYTON / ".venv/bin"))
    made = (_TRYTON / "requirements.txt").read_bytes() + TRYTON_PASSWORD.encode()
    kept = ROOT / ".nsps" / "tryton" / f"{hashlib.sha256(made).hexdigest()[:16]}.sql"
    for statement in ("DROP DATABASE IF EXISTS crm WITH (FORCE)", "CREATE DATABASE crm"):
        _run_client("psql", postgres, "-c", statement, "postgres")
    if kept.exists():
        _run_client("psql", postgres, "-1", "-f", str(kept), "crm")
        return
    with tempfile.TemporaryDirectory(prefix="nsps-tryton-") as name:
        folder = Path(name)
        _tryton_config(folder, postgres, 0)
        (folder / "password").write_text(TRYTON_PASSWORD)
        command = [
            str(_TRYTON / ".venv/bin/trytond-admin"),
            "-c",
            "trytond.conf",
            "-d",
            "crm",
            "-p",
        ]
        command += ["-u", "party", "--activate-dependencies", "--email", "crm@example.net"]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "TRYTONPASSFILE": f"{name}/password"},
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        _run_client("pg_dump", postgres, "-f", f"{name}/dump.sql", "crm")
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "dump.sql", kept.with_suffix(f".{os.getpid()}"))
        kept.with_suffix(f".{os.getpid()}").rename(kept)


@contextmanager
def tryton(postgres: tuple[str, int], port: int = 0) -> Iterator[int]:
    """A Tryton on the database ``crm``; gives its port on 127.0.0.1."""
    port = port or _free_port()
    with tempfile.TemporaryDirectory(prefix="nsps-tryton-") as name:
        _tryton_config(Path(name), postgres, port)
        programs = _TRYTON / ".venv/bin"
        command = [str(programs / "python"), "-c", _TRYTOND, str(programs / "trytond")]
        command += ["-c", "trytond.conf", "-d", "crm"]
        with _process(command, Path(name), lambda: _accepts("127.0.0.1", port)):
            yield port


def _tryton_config(folder: Path, postgres: tuple[str, int], port: int) -> None:
    host, database_port = postgres
    (folder / "trytond.conf").write_text(
        f"[database]\nuri=postgresql://postgres@{host}:{database_port}/\n"
        f"[web]\nlisten=127.0.0.1:{port}\n"
    )


def _run_client(name: str, postgres: tuple[str, int], *arguments: str) -> None:
    """A client program of PostgreSQL's, as its superuser; it must succeed."""
    host, port = postgres
    done = subprocess.run(
        [name, "-h", host, "-p", str(port), "-U", "postgres", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@contextmanager
def mariadb() -> Iterator[tuple[str, int]]:
    """A MariaDB 10 or later with an empty data folder; gives host and port.

    User ``root`` needs no password. Skips where it is not installed.
    """
    install = _program("mariadb-install-db", "mariadb-server")
    server = _program("mariadbd", "mariadb-server")
    user = pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="nsps-mariadb-") as name:
        folder = Path(name)
        data = [f"--datadir={folder}/data", f"--user={user}"]
        made = subprocess.run(
            [install, "--no-defaults", *data, "--auth-root-authentication-method=normal",
             "--skip-test-db"],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr.decode(errors="replace")
        port = _free_port()
        command = [server, "--no-defaults", *data, "--bind-address=127.0.0.1", f"--port={port}"]
        command += [f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        command += ["--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]
        with _process(command, folder, lambda: _speaks_mysql(port), stop=signal.SIGTERM):
            yield "127.0.0.1", port


_RADIUS_CONFIG = """\
raddbdir = /etc/freeradius/3.0
modconfdir = ${{raddbdir}}/mods-config
libdir = /usr/lib/freeradius
logdir = {folder}
run_dir = {folder}
pidfile = {folder}/radiusd.pid
security {{
  reject_delay = 0
}}
thread pool {{
  start_servers = 2
  max_servers = 4
  min_spare_servers = 1
  max_spare_servers = 2
}}
client localhost {{
  ipaddr = 127.0.0.1
  secret = {secret}
}}
modules {{
  expr {{
  }}
  always ok {{
    rcode = ok
  }}
  always reject {{
    rcode = reject
  }}
  pap {{
  }}
  chap {{
  }}
  mschap {{
  }}
  sql {{
    dialect = "postgresql"
    driver = "rlm_sql_postgresql"
    server = "127.0.0.1"
    port = {database_port}
    login = "postgres"
    radius_db = "{database}"
    acct_table1 = "radacct"
    acct_table2 = "radacct"
    postauth_table = "radpostauth"
    authcheck_table = "radcheck"
    groupcheck_table = "radgroupcheck"
    authreply_table = "radreply"
    groupreply_table = "radgroupreply"
    usergroup_table = "radusergroup"
    group_attribute = "SQL-Group"
    client_table = "nas"
    pool {{
      start = 0
      min = 0
      max = 4
      spare = 1
      uses = 0
      lifetime = 0
      idle_timeout = 60
      retry_delay = 1
    }}
    $INCLUDE ${{modconfdir}}/sql/main/postgresql/queries.conf
  }}
}}
server default {{
  listen {{
    type = auth
    ipaddr = 127.0.0.1
    port = {auth}
  }}
  listen {{
    type = acct
    ipaddr = 127.0.0.1
    port = {acct}
  }}
  authorize {{
    chap
    mschap
    sql
    pap
  }}
  authenticate {{
    Auth-Type PAP {{
      pap
    }}
    Auth-Type CHAP {{
      chap
    }}
    Auth-Type MS-CHAP {{
      mschap
    }}
  }}
  preacct {{
    update request {{
      &Acct-Unique-Session-Id = "%{{md5:%{{User-Name}},%{{Acct-Session-Id}},%{{NAS-IP-Address}}}}"
    }}
  }}
  accounting {{
    sql
  }}
}}
server coa {{
  listen {{
    type = coa
    ipaddr = 127.0.0.1
    port = {coa}
  }}
  recv-coa {{
    if (&User-Name == "offline") {{
      update reply {{
        &Error-Cause := Session-Context-Not-Found
      }}
      reject
    }}
    ok
  }}
}}
"""
RADIUS_SCHEMA = Path("/etc/freeradius/3.0/mods-config/sql/main/postgresql/schema.sql")


@dataclass(frozen=True)
class FreeRadius:
    """A FreeRADIUS on 127.0.0.1: its ports, and the secret that it shares with all there.

    At ``coa`` it takes CoA and Disconnect as a NAS would, for all but User-Name ``offline``.
    """

    auth: int
    acct: int
    coa: int
    secret: str


@contextmanager
def freeradius(folder: Path, database_port: int, database: str) -> Iterator[FreeRadius]:
    """A FreeRADIUS on this database of a PostgreSQL on 127.0.0.1, which has RADIUS_SCHEMA.

    Skips where it, its PostgreSQL driver or radclient is not installed.
    """
    packages = "freeradius freeradius-postgresql freeradius-utils"
    program = _program("freeradius", packages)
    _program("radclient", packages)
    if not RADIUS_SCHEMA.exists() or not Path("/usr/lib/freeradius/rlm_sql_postgresql.so").exists():
        pytest.skip(f"FreeRADIUS has no PostgreSQL: apt-get install {packages}")
    made = FreeRadius(_free_port(), _free_port(), _free_port(), "shared-with-radclient")
    config = _RADIUS_CONFIG.format(
        folder=folder, database_port=database_port, database=database,
        auth=made.auth, acct=made.acct, coa=made.coa, secret=made.secret,
    )  # fmt: skip
    (folder / "radiusd.conf").write_text(config)
    log = folder / "daemon.log"
    command = [program, "-f", "-l", "stdout", "-d", str(folder)]
    with _process(command, folder, lambda: "Ready to process" in log.read_text(errors="replace")):
        yield made


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
    """Kannel before a mobile network that speaks SMPP; ``url`` is its sendsms.

    Skips where it is not installed.
    """

    def __init__(self, folder: Path, network: int, password: str) -> None:
        self._boxes = [_program(name, "kannel") for name in ("bearerbox", "smsbox")]
        self._folder = folder
        self._ports = {name: _free_port() for name in ("admin", "boxes", "sendsms")}
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
        ready = partial(_accepts, "127.0.0.1", self._ports[port])
        return _process(command, self._folder, ready, stop=signal.SIGTERM)


@contextmanager
def _process(
    command: list[str],
    folder: Path,
    ready: Callable[[], bool],
    user: str | None = None,
    stop: signal.Signals = signal.SIGINT,  # to PostgreSQL: at once, whoever is connected
) -> Iterator[None]:
    """Run the command until the block ends; it must be ready within 20 s."""
    log = folder / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, user=user, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        end = time.monotonic() + 20
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                text = log.read_text(errors="replace")[-2000:]
                pytest.fail(f"{command[0]} did not start:\n{text}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _program(name: str, package: str, *folders: str) -> str:
    path = os.pathsep.join((*reversed(folders), os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return found


def _free_loopback_address(port: int) -> str:
    """A 127.x.y.z at which nobody listens on ``port``; each process begins elsewhere."""
    start = os.getpid() * 7
    for offset in range(200):
        number = (start + offset) % (250 * 250)
        address = f"127.77.{number // 250 + 1}.{number % 250 + 1}"
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return address
    raise RuntimeError(f"no loopback address is free on port {port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


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


def _speaks_mysql(port: int) -> bool:
    """Whether the server greets: it then takes sessions."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as link:
            return len(link.recv(5)) == 5
    except OSError:
        return False
