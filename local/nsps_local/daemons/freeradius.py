"""A FreeRADIUS on a PostgreSQL."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nsps_local.daemons.process import NotInstalled, free_port, installed, process

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
    """A FreeRADIUS on this database of a PostgreSQL on 127.0.0.1, which has RADIUS_SCHEMA."""
    packages = "freeradius freeradius-postgresql freeradius-utils"
    program = installed("freeradius", packages)
    installed("radclient", packages)
    if not RADIUS_SCHEMA.exists() or not Path("/usr/lib/freeradius/rlm_sql_postgresql.so").exists():
        raise NotInstalled(f"FreeRADIUS has no PostgreSQL: apt-get install {packages}")
    made = FreeRadius(free_port(), free_port(), free_port(), "shared-with-radclient")
    config = _RADIUS_CONFIG.format(
        folder=folder, database_port=database_port, database=database,
        auth=made.auth, acct=made.acct, coa=made.coa, secret=made.secret,
    )  # fmt: skip
    (folder / "radiusd.conf").write_text(config)
    log = folder / "daemon.log"
    command = [program, "-f", "-l", "stdout", "-d", str(folder)]
    with process(command, folder, lambda: "Ready to process" in log.read_text(errors="replace")):
        yield made


def radclient(port: int, kind: str, secret: str, attributes: Mapping[str, str]) -> str:
    """What radclient shows of the answer; empty if none came."""
    lines = "".join(f'{name} = "{value}"\n' for name, value in attributes.items())
    command = ["radclient", "-x", "-r", "1", "-t", "5", f"127.0.0.1:{port}", kind, secret]
    done = subprocess.run(  # noqa: S603
        command, input=lines, capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout.partition("Received ")[2]
