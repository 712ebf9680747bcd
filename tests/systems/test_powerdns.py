"""PowerDNS, provisioned by the declarative connector with the shipped description enum_powerdns.

What was written is asked for by ``dig``, as a network that routes a call would.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from nsps.domain.outcome import Terminal, Unclear
from nsps_local.daemons.powerdns import add_zone, naptr, powerdns
from nsps_local.described import load_connector_file
from nsps_testing.standard import ChaosProxy, StateStandardTests, enriched, make_call
from nsps_testing.waiting import wait_for

from functions.connectors.rest.connector import RestSystem
from tests.end_to_end.whole_stack import ROOT, WholeStack, configuration

KEY = "powerdns-key-canary"
ENUM = load_connector_file(ROOT / "functions/connectors/rest/systems/enum_powerdns.yaml")
NUMBER, OTHER = "420777000003", "420777000033"
NAME = "3.0.0.0.0.0.7.7.7.0.2.4.e164.arpa."
OTHER_NAME = "3.3.0.0.0.0.7.7.7.0.2.4.e164.arpa."


ZONE = "0.2.4.e164.arpa."
ADDON = "Ported number"


def snapshot(
    number: str = NUMBER, routing_number: str | None = "+420999", **account: Any
) -> dict[str, Any]:
    """An account; ported, if it has the add-on with a routing number."""
    ported = {"name": ADDON, "i_product": 7, "description": routing_number}
    return {
        "account_info": {
            "i_account": 1000889,
            "id": f"{number}@msisdn",
            "bill_status": "open",
            "assigned_addons": [ported] if routing_number else [],
            **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
    }


def record(number: str = NUMBER, routing_number: str = "+420999") -> str:
    """What the DNS is to say of a ported number (RFC 4769)."""
    return f'10 100 "u" "E2U+pstn:tel" "!^.*$!tel:+{number};npdi;rn={routing_number}!" .'


class PowerDns(ChaosProxy):
    """The API behind a proxy, and the DNS beside it."""

    def __init__(self, api: int, dns: int) -> None:
        super().__init__(("127.0.0.1", api))
        self.dns = dns

    def answers(self, name: str = NAME) -> list[str]:
        """What the DNS says of a name's NAPTR records."""
        return naptr(self.dns, name)


@contextmanager
def running(ports: tuple[int, int] | None = None) -> Iterator[tuple[int, int]]:
    """A PowerDNS with the zones, and nothing in them."""
    with powerdns(KEY, ports) as given:
        for name in ("e164.arpa.", ZONE):
            add_zone(given[0], KEY, name)
        yield given


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, int]]:
    with running() as ports:
        yield ports


class TestPowerDns(StateStandardTests):
    connector_class = RestSystem
    pb = snapshot()
    changed_pb = snapshot(routing_number="420555")
    gone_pb = (
        snapshot("zoe"),
        snapshot(bill_status="terminated"),
        snapshot(routing_number=None),
        snapshot(routing_number=""),
    )
    secrets: ClassVar = {"credentials": KEY}

    @pytest.fixture
    def system(self, server: tuple[int, int]) -> Iterator[PowerDns]:
        with PowerDns(*server) as system:
            yield system

    def settings(self, system: PowerDns) -> dict[str, Any]:
        url = f"http://{system.host}:{system.port}/api/v1/servers/localhost"
        given = {"url": url, "allow_http": True, "zone": ZONE}
        assert not list(ENUM.problems(given, {"credentials": "powerdns-api-key"}))
        return dict(ENUM.complete(given))

    def tidy(self, connector: Any) -> None:
        """SQLite refuses a write while one is made: that of a request that hung until now."""
        for number in (NUMBER, OTHER):
            end = time.monotonic() + 10
            while error := self.attempt(
                partial(connector.delete, f"ported/{number}", None, make_call())
            ):
                assert isinstance(error, Unclear) and time.monotonic() < end, error

    def test_the_dns_says_where_a_ported_number_is_served(
        self, connector: RestSystem, system: PowerDns
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        assert key == f"ported/{NUMBER}"
        assert system.answers() == []
        connector.create(key, state, make_call())
        assert system.answers() == [record()]
        [other] = connector.desired(enriched(self.changed_pb)).values()
        connector.change(key, other, state, make_call())
        assert system.answers() == [record(routing_number="+420555")]
        connector.delete(key, None, make_call())
        assert system.answers() == []

    def test_who_is_blocked_keeps_the_number(self, connector: RestSystem) -> None:
        blocked = snapshot(blocked=True)
        assert connector.desired(enriched(blocked)) == connector.desired(enriched(self.pb))

    def test_a_routing_number_that_is_none_is_refused(self, connector: RestSystem) -> None:
        with pytest.raises(Terminal):
            connector.desired(enriched(snapshot(routing_number="Numbers from elsewhere")))

    def test_another_number_is_another_name(self, connector: RestSystem, system: PowerDns) -> None:
        for number in (NUMBER, OTHER):
            [(key, state)] = connector.desired(enriched(snapshot(number))).items()
            connector.create(key, state, make_call())
        connector.delete(f"ported/{NUMBER}", None, make_call())
        assert system.answers(OTHER_NAME) == [record(OTHER)] and system.answers() == []
        connector.delete(f"ported/{OTHER}", None, make_call())


def test_a_dns_that_lost_its_database_is_filled_again(tmp_path: Path) -> None:
    """It is away while events come; when it is back, its zone is empty."""
    with ExitStack() as daemon:
        ports = daemon.enter_context(running())
        with PowerDns(*ports) as dns:
            settings = {"url": f"http://127.0.0.1:{ports[0]}/api/v1/servers/localhost"}
            handler = {
                "name": "enum",
                "connector": "enum_powerdns",
                "events": ["Account/*", "Account/*/*"],
                "group": "NumberPortability",
                "call_timeout_seconds": 3,
                "settings": {**settings, "allow_http": True},
                "secrets": {"credentials": "powerdns-api-key"},
            }
            (tmp_path / "secrets.json").write_text(json.dumps({"powerdns-api-key": KEY}))
            config = configuration(tmp_path, [handler])
            with WholeStack(tmp_path / "state", config, tmp_path / "secrets.json") as stack:
                assert_filled_again(stack, dns, daemon, ports)


def assert_filled_again(
    stack: WholeStack, dns: PowerDns, daemon: ExitStack, ports: tuple[int, int]
) -> None:
    stack.post("/sandbox/settings", events={"vocabulary": ["v1"]})  # these have no SIM card
    [addon] = [each for each in stack.sandbox.state()["products"] if each["name"] == ADDON]

    def ported(i_account: int) -> list[str]:
        number = stack.accounts()[i_account]["id"].partition("@")[0]
        return dns.answers(f"{'.'.join(reversed(number))}.e164.arpa.")

    staying, leaving, blocked, own = (stack.new_account() for _ in range(4))
    for i_account in (staying, leaving, blocked):
        stack.do("add_addon", i_account=i_account, i_product=addon["i_product"])
    assert [len(ported(each)) for each in (staying, leaving, blocked, own)] == [1, 1, 1, 0]
    assert "npdi;rn=+420999" in ported(staying)[0]

    daemon.close()
    events = [
        *stack.sandbox.do("close_account", i_account=leaving)["events"],
        *stack.sandbox.do("block_account", i_account=blocked)["events"],
        *stack.sandbox.do("add_addon", i_account=own, i_product=addon["i_product"])["events"],
    ]
    daemon.enter_context(running(ports))
    stack.all_finished(each["i_event"] for each in events)
    assert ported(staying) == []  # nothing was said of it meanwhile

    command = [sys.executable, "-m", "nsps_local.cli", "reconcile", "enum", "--all", "--fix"]
    done = subprocess.run(
        [*command, "--state", str(stack.state)],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert "missing" in done.stdout, done.stdout + done.stderr
    everybody = (staying, leaving, blocked, own)
    wait_for(lambda: [len(ported(each)) for each in everybody] == [1, 0, 1, 1], 30, "the zone")
