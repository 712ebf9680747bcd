"""PowerDNS, provisioned by the declarative connector alone, as its README describes it.

What was written is asked for by ``dig``, as the network would.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pytest
import requests
import yaml
from nsps.domain.outcome import Unclear
from nsps_testing.standard import ChaosProxy, StateStandardTests, enriched, make_call

from functions.connectors.rest.connector import RestSystem
from tests.systems.daemons import powerdns

KEY = "powerdns-key-canary"
NUMBER, OTHER = "420777000003", "420777000033"
NAME = "3.0.0.0.0.0.7.7.7.0.2.4.e164.arpa."
OTHER_NAME = "3.3.0.0.0.0.7.7.7.0.2.4.e164.arpa."


def snapshot(number: str = NUMBER, **account: Any) -> dict[str, Any]:
    return {
        "account_info": {
            "i_account": 1000889,
            "id": f"{number}@msisdn",
            "bill_status": "open",
            **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
    }


class PowerDns(ChaosProxy):
    """The API behind a proxy, and the DNS beside it."""

    def __init__(self, api: int, dns: int) -> None:
        super().__init__(("127.0.0.1", api))
        self.dns = dns

    def answers(self, name: str = NAME) -> list[str]:
        """What the DNS says of a name's NAPTR records."""
        dig = shutil.which("dig")
        if dig is None:
            pytest.skip("dig is not installed: apt-get install bind9-dnsutils")
        asked = subprocess.run(
            [dig, "+short", "+tries=3", "-p", str(self.dns), "@127.0.0.1", name, "NAPTR"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        return asked.stdout.splitlines()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, int]]:
    with powerdns(KEY) as ports:
        zone = {"name": "e164.arpa.", "kind": "Native", "nameservers": ["ns1.example.net."]}
        made = requests.post(
            f"http://127.0.0.1:{ports[0]}/api/v1/servers/localhost/zones",
            json=zone, headers={"X-API-Key": KEY}, timeout=10,
        )  # fmt: skip
        assert made.status_code == 201, made.text
        yield ports


class TestPowerDns(StateStandardTests):
    connector_class = RestSystem
    pb = snapshot()
    changed_pb = snapshot(blocked=True)
    gone_pb = (snapshot("zoe"), snapshot(bill_status="terminated"))
    secrets: ClassVar = {"credentials": KEY}

    @pytest.fixture
    def system(self, server: tuple[int, int]) -> Iterator[PowerDns]:
        with PowerDns(*server) as system:
            yield system

    def settings(self, system: PowerDns) -> dict[str, Any]:
        readme = (self.folder() / "README.md").read_text(encoding="utf-8")
        example = re.search(r"```yaml\n(handlers:.*?)```", readme, re.DOTALL)
        assert example is not None
        [handler] = yaml.safe_load(example[1])["handlers"]
        url = f"http://{system.host}:{system.port}/api/v1/servers/localhost"
        settings: dict[str, Any] = handler["settings"]
        return {**settings, "url": url, "allow_http": True}

    def tidy(self, connector: Any) -> None:
        """SQLite refuses a write while one is made: that of a request that hung until now."""
        for number in (NUMBER, OTHER):
            end = time.monotonic() + 10
            while error := self.attempt(
                partial(connector.delete, f"naptr/{number}", None, make_call())
            ):
                assert isinstance(error, Unclear) and time.monotonic() < end, error

    def test_the_dns_leads_from_the_number_to_the_subscriber(
        self, connector: RestSystem, system: PowerDns
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        assert key == f"naptr/{NUMBER}"
        assert system.answers() == []
        connector.create(key, state, make_call())
        assert system.answers() == [
            f'10 100 "u" "E2U+sip" "!^.*$!sip:+{NUMBER}@ims.acme.example!" .'
        ]
        [barred] = connector.desired(enriched(self.changed_pb)).values()
        connector.change(key, barred, state, make_call())
        assert system.answers() == [
            f'10 100 "u" "E2U+sip" "!^.*$!sip:+{NUMBER}@announcements.acme.example!" .'
        ]
        connector.delete(key, None, make_call())
        assert system.answers() == []

    def test_another_number_is_another_name(self, connector: RestSystem, system: PowerDns) -> None:
        for number in (NUMBER, OTHER):
            [(key, state)] = connector.desired(enriched(snapshot(number))).items()
            connector.create(key, state, make_call())
        connector.delete(f"naptr/{NUMBER}", None, make_call())
        [other] = system.answers(OTHER_NAME)
        assert f"+{OTHER}@" in other and system.answers() == []
        connector.delete(f"naptr/{OTHER}", None, make_call())
