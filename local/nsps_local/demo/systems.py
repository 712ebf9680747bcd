"""The systems of the demo: each a daemon, the handler that provisions it, and what it holds of a
subscriber, read by the system's own tools."""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nsps_local.daemons import osmo_hlr, tryton
from nsps_local.daemons.freeradius import RADIUS_SCHEMA, FreeRadius, freeradius, radclient
from nsps_local.daemons.kamailio import kamailio, kamailio_database
from nsps_local.daemons.kannel import Kannel
from nsps_local.daemons.mariadb import mariadb
from nsps_local.daemons.postfix import Postfix, postfix
from nsps_local.daemons.postgresql import new_database, postgresql, sql
from nsps_local.daemons.powerdns import add_zone, naptr, powerdns
from nsps_local.daemons.process import NotInstalled, installed, run
from nsps_local.daemons.sip_phone import Phone
from nsps_local.daemons.sms_network import SmsNetwork
from nsps_local.stack.errors import CannotStart

NOTHING = "-"
PASSWORD = "demo-password-4711"  # noqa: S105 (of daemons that end with the demo)
KEY = "demo-key-of-sufficient-length-51c7"
_DOMAIN = "sip.example.net"
_EVENTS = ["Account/*", "Account/*/*"]
_MESSAGES = ["Account/Blocked", "Account/Unblocked", "Account/SIMCardAssignment"]
Address = tuple[str, int]


@dataclass(slots=True)
class Subscriber:
    """Who is asked for. ``imsis``: of the present SIM card, and of those before it."""

    i_account: int
    number: str
    email: str
    imsis: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class System:
    """A running system. ``tool``: what reads it; ``programs``: its processes."""

    name: str
    programs: tuple[str, ...]
    tool: str
    handler: Mapping[str, Any]
    holds: Callable[[Subscriber], str]


class Daemons:
    """Starts the daemons; ``ends`` ends them. ``callbacks``: URL of the callbacks function."""

    def __init__(self, ends: ExitStack, callbacks: str) -> None:
        self._ends, self._callbacks = ends, callbacks

    def start(self, say: Callable[[str], None]) -> list[System]:
        """Every system whose daemon is installed; of each other one ``say`` says what to install.
        Raises CannotStart."""
        starters = {
            "OsmoHLR": self._osmo_hlr,
            "Kamailio": self._kamailio,
            "FreeRADIUS": self._freeradius,
            "PowerDNS": self._powerdns,
            "Tryton": self._tryton,
            "PostgreSQL": self._postgresql,
            "MariaDB": self._mariadb,
            "Postfix": self._postfix,
            "Kannel": self._kannel,
        }
        started = []
        for name, starter in starters.items():
            try:
                started.append(starter())
                say(f"{name} runs")
            except NotInstalled as error:
                say(f"{name} is left out: {error}")
        return started

    def _folder(self) -> Path:
        return Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="nsps-demo-")))

    @cached_property
    def _postgres(self) -> Address:
        """One PostgreSQL for Kamailio, FreeRADIUS, Tryton and the handler of its own."""
        address = self._ends.enter_context(postgresql())
        sql(address, "postgres", f"CREATE ROLE nsps LOGIN PASSWORD '{PASSWORD}'")
        return address

    def _database_url(self, name: str) -> str:
        host, port = self._postgres
        return f"postgresql://nsps@{host}:{port}/{name}"

    def _osmo_hlr(self) -> System:
        host, port = self._ends.enter_context(osmo_hlr.osmo_hlr(self._folder()))
        settings = {"host": host, "port": port}
        handler = _handler("hss", "hss_osmocom", "HSS", settings)
        return System("OsmoHLR", ("osmo-hlr",), "VTY", handler, partial(_in_the_hlr, host))

    def _kamailio(self) -> System:
        sip, rpc = self._ends.enter_context(kamailio(kamailio_database(self._postgres)))
        settings = {
            "database_url": self._database_url("kamailio"),
            "rpc_url": f"http://127.0.0.1:{rpc}/RPC",
            "domain": _DOMAIN,
            "status_column": "status",
        }
        secrets = {"password": "database", "password_key": "key"}
        handler = _handler("voip", "voip_kamailio", "VoIP", settings, secrets)
        return System("Kamailio", ("kamailio",), "REGISTER", handler, partial(_registers, sip))

    def _freeradius(self) -> System:
        if not RADIUS_SCHEMA.exists():
            raise NotInstalled("freeradius is not installed: apt-get install freeradius-postgresql")
        new_database(self._postgres, "radius", RADIUS_SCHEMA)
        tables = "radcheck, radreply, radusergroup, radacct"
        rights = f"GRANT ALL ON {tables} TO nsps; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public"
        sql(self._postgres, "radius", f"{rights} TO nsps")
        radius = self._ends.enter_context(freeradius(self._folder(), self._postgres[1], "radius"))
        settings = {
            "database_url": self._database_url("radius"),
            "usernames": ["msisdn"],
            "plans": {
                "Mobile S": {"Mikrotik-Rate-Limit": "20M/5M"},
                "Mobile L": {"Mikrotik-Rate-Limit": "100M/50M"},
            },
        }
        secrets = {"password": "database", "password_key": "key", "coa_secret": "key"}
        handler = _handler("radius", "freeradius", "Netaccess", settings, secrets, "product_info")
        return System(
            "FreeRADIUS", ("freeradius",), "radclient", handler, partial(_logs_in, radius)
        )

    def _powerdns(self) -> System:
        installed("dig", "bind9-dnsutils")
        api, dns = self._ends.enter_context(powerdns(KEY))
        add_zone(api, KEY, "e164.arpa.")
        url = f"http://127.0.0.1:{api}/api/v1/servers/localhost"
        settings = {"url": url, "allow_http": True}
        secrets = {"credentials": "key"}
        handler = _handler("enum", "enum_powerdns", "NumberPortability", settings, secrets)
        return System("PowerDNS", ("pdns_server",), "dig", handler, partial(_in_the_dns, dns))

    def _tryton(self) -> System:
        tryton.tryton_database(self._postgres)
        port = self._ends.enter_context(tryton.tryton(self._postgres))
        tryton.add_user(port, PASSWORD)
        # The sandbox's numbers are of no country, so no phone numbers to Tryton.
        contacts = {"other": "msisdn", "email": "account_info.email"}
        url = f"http://127.0.0.1:{port}/crm/rpc/"
        settings = {"url": url, "allow_http": True, "contacts": contacts}
        secrets = {"credentials": "crm-user"}
        handler = _handler("crm", "crm_tryton", "CRM", settings, secrets)
        return System("Tryton", ("trytond",), "JSON-RPC", handler, partial(_in_the_crm, port))

    def _postgresql(self) -> System:
        new_database(self._postgres, "subscribers", owner="nsps")
        read = partial(sql, self._postgres, "subscribers")
        settings = {"url": self._database_url("subscribers"), "create_table": True}
        handler = _handler("postgresql", "database", "Database", settings, {"password": "database"})
        return System("PostgreSQL", ("postgres",), "psql", handler, partial(_in_the_table, read))

    def _mariadb(self) -> System:
        host, port = self._ends.enter_context(mariadb())

        def read(statements: str, database: str = "subscribers") -> str:
            command = ["mariadb", "--protocol=tcp", "-h", host, f"-P{port}", "-uroot", "-BN"]
            return run([*command, "-e", statements, database]).strip().replace("\t", ", ")

        user = f"CREATE USER nsps IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON subscribers.* TO nsps"
        read(f"CREATE DATABASE subscribers; {user}", "mysql")
        settings = {"url": f"mariadb://nsps@{host}:{port}/subscribers", "create_table": True}
        handler = _handler("mariadb", "database", "Reports", settings, {"password": "database"})
        return System("MariaDB", ("mariadbd",), "mariadb", handler, partial(_in_the_table, read))

    def _postfix(self) -> System:
        server = self._ends.enter_context(postfix())
        self._ends.enter_context(server.running())
        settings = {"host": "127.0.0.1", "port": server.port, "security": "none"}
        settings["sender"] = "Example Mobile <no-reply@example.net>"
        handler = _handler("mail", "notification", "Mail", settings) | {"events": _MESSAGES}
        return System(
            "Postfix", ("postfix-script",), "Maildir", handler, partial(_in_the_mailbox, server)
        )

    def _kannel(self) -> System:
        network = self._ends.enter_context(SmsNetwork())
        network.at_once = "DELIVRD"
        kannel = Kannel(self._folder(), network.port, PASSWORD)
        self._ends.enter_context(kannel.running())
        network.bound.wait(20)
        settings = {"url": kannel.url, "user": "nsps", "sender": "Example", "allow_http": True}
        settings["reports_url"] = f"{self._callbacks}/sms"
        secrets = {"password": "database", "callback": "key"}
        handler = _handler("sms", "sms_kannel", "SMS", settings, secrets)
        handler |= {"events": _MESSAGES, "answer_within_hours": 24}
        return System(
            "Kannel", ("bearerbox", "smsbox"), "SMSC", handler, partial(_on_the_phone, network)
        )


SECRETS = {"database": PASSWORD, "key": KEY, "crm-user": f"nsps:{PASSWORD}"}
"""What the handlers' secrets hold."""


def _handler(
    name: str,
    connector: str,
    group: str,
    settings: Mapping[str, Any],
    secrets: Mapping[str, str] | None = None,
    *requires: str,
) -> dict[str, Any]:
    return {
        "name": name,
        "connector": connector,
        "group": group,
        "events": _EVENTS,
        "requires": ["account_info", "sim_info", *requires],
        "call_timeout_seconds": 5,
        "settings": settings,
        "secrets": secrets or {},
    }


def shown(system: System, who: Subscriber) -> str:
    """What the system holds; a sentence where it does not answer."""
    try:
        return system.holds(who)
    except (OSError, LookupError, ValueError, AssertionError, CannotStart) as error:
        return f"does not answer ({type(error).__name__})"


# ---- what each holds ---------------------------------------------------------------------------


def _in_the_hlr(host: str, who: Subscriber) -> str:
    """A card, whether it may call (CS) and use data (PS)."""
    found = []
    with socket.create_connection((host, osmo_hlr.VTY_PORT), timeout=10) as link:
        _prompt(link)
        for imsi in who.imsis:
            link.sendall(f"subscriber imsi {imsi} show\r\n".encode())
            shown = _prompt(link)
            if "MSISDN:" in shown:
                off = [name for name in ("CS", "PS") if f"{name} disabled" in shown]
                found.append(f"...{imsi[-4:]}, {' and '.join(off) + ' off' if off else 'served'}")
    return "; ".join(found) or NOTHING


def _prompt(link: socket.socket) -> str:
    """What the VTY writes until it asks for the next command."""
    text = b""
    while not text.endswith(b"OsmoHLR> "):
        more = link.recv(4096)
        if not more:
            raise ConnectionError("OsmoHLR closed the connection")
        text += more
    return text.decode(errors="replace")


def _registers(port: int, who: Subscriber) -> str:
    """What the registrar answers to the subscriber's phone."""
    phone = Phone(("127.0.0.1", port), who.number, _DOMAIN, _password(f"{who.number}@{_DOMAIN}"))
    answers = {200: "200, registered", 401: "401, unknown", 403: "403, barred"}
    status = phone.register()
    return answers.get(status, str(status))


def _logs_in(radius: FreeRadius, who: Subscriber) -> str:
    """What FreeRADIUS answers to the subscriber's login."""
    given = {"User-Name": who.number, "User-Password": _password(who.number)}
    answer = radclient(radius.auth, "auth", radius.secret, given)
    speed = re.search(r'Mikrotik-Rate-Limit = "(.*)"', answer)
    return f"{answer.split(' ', 1)[0] or 'no answer'}{', ' + speed[1] if speed else ''}"


def _in_the_dns(port: int, who: Subscriber) -> str:
    """The routing number that the DNS has for the number."""
    found = naptr(port, f"{'.'.join(reversed(who.number))}.e164.arpa.")
    return "; ".join(re.findall(r"rn=\+?\d+", " ".join(found))) or NOTHING


def _in_the_crm(port: int, who: Subscriber) -> str:
    code, names = f"PB-{who.i_account}", ["name", "active"]
    context = {"active_test": False}
    found = tryton.as_admin(
        port, "model.party.party.search_read", [("code", "=", code)], 0, None, None, names, context
    )
    return "; ".join(f"{p['name']}, {'' if p['active'] else 'in'}active" for p in found) or NOTHING


def _in_the_table(read: Callable[[str], str], who: Subscriber) -> str:
    query = "SELECT status, product, coalesce(imsi, '-') FROM subscribers WHERE i_account = "
    return read(f"{query}{who.i_account}") or NOTHING


def _in_the_mailbox(server: Postfix, who: Subscriber) -> str:
    mails = server.mails(who.email.partition("@")[0])
    return f"{len(mails)}, last: {mails[-1]['Subject']}" if mails else NOTHING


def _on_the_phone(network: SmsNetwork, who: Subscriber) -> str:
    texts = network.parts(who.number)
    return f"{len(texts)}, last: {texts[-1].text.partition('.')[0]}" if texts else NOTHING


def _password(user: str) -> str:
    """As whatever configures the subscribers' devices makes it."""
    return hmac.new(KEY.encode(), user.encode(), hashlib.sha256).hexdigest()[:32]
