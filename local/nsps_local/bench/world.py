"""The stack that is measured: made from a configuration of the bench's own, gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.types import PushConfig

from nsps_local.cli.send import signed_headers
from nsps_local.stack.ports import ROOM, reserve_base
from nsps_local.stack.stack import Options, Stack

HANDLER = "measured"
READ_MILLISECONDS = 20
READS = ("Account/get_account_info", "SIMCard/get_card_info")
SERVICES = {"pubsub": "Pub/Sub", "firestore": "Firestore", "sandbox": "sandbox"}
LOAD = "load client and external system"
FAKES = {"sandbox", LOAD}
"""What stands for the world around: not counted where NSPS is compared with others."""
_ELSEWHERE = ["Customer/Blocked"]
"""An event that the bench never sends: these handlers only stand there, to be weighed."""


@dataclass(slots=True)
class World:
    """A running stack with the ways in that the bench needs."""

    stack: Stack
    description: Mapping[str, Any]
    system_port: int
    state: Path

    @property
    def ingress(self) -> str:
        return str(self.description["ingress"]["url"])

    @property
    def headers(self) -> dict[str, str]:
        return signed_headers(self.description["ingress"]["auth"])

    def groups(self) -> dict[str, int]:
        """Part -> process group."""
        return {each["name"]: each["pid"] for each in self.description["processes"]}

    def threads(self, part: str) -> str:
        return self.stack.topology.function(part).env["THREADS"]

    def sandbox(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self.description['sandbox']['url']}/sandbox{path}"
        answer = requests.request(method, url, json=body, timeout=120)
        answer.raise_for_status()
        return answer.json()

    def seed(self, accounts: int) -> Iterator[tuple[int, int]]:
        """(i_event, i_account) of accounts that are new to the product; each comes once."""
        seeded = self.sandbox("POST", "/seed", {"accounts": accounts})
        return iter(enumerate(range(seeded["first"], seeded["last"] + 1), start=1_000_001))

    def slow_down_reads(self) -> None:
        """Each of PortaBilling's answers takes its 20 ms."""
        for method in READS:
            fault = {"fault": "slow", "milliseconds": READ_MILLISECONDS, "methods": [method]}
            self.sandbox("POST", "/faults", fault)

    def statuses(self) -> int:
        """How many statuses ESPF was told so far."""
        return int(self.sandbox("GET", "/calls?limit=1")["counts"].get("espf/status", 0))

    @contextmanager
    def events_kept(self) -> Iterator[None]:
        """Inside, events are published and kept, but go to nobody; afterwards they are gone."""
        os.environ["PUBSUB_EMULATOR_HOST"] = self.description["pubsub"]["host"]
        with SubscriberClient() as client:
            project = self.stack.topology.project
            subscription = self.stack.topology.subscription("enrichment").name
            name = f"projects/{project}/subscriptions/{subscription}"
            kept = client.get_subscription(subscription=name)
            client.modify_push_config(subscription=name, push_config=PushConfig())
            yield
            client.delete_subscription(subscription=name)
            client.create_subscription(request=kept)


@contextmanager
def running() -> Iterator[World]:
    """A stack with a temporary state and free ports. Raises CannotStart."""
    folder = tempfile.TemporaryDirectory(prefix="nsps-bench-")
    with folder as name, running_in(Path(name)) as world:
        yield world


@contextmanager
def running_in(folder: Path) -> Iterator[World]:
    """A stack on free ports, with the state that the folder has. Raises CannotStart."""
    state = folder / "state"
    base = reserve_base()
    system_port = base + ROOM - 2  # after the functions
    config = folder / "Pulumi.bench.yaml"
    config.write_text(yaml.safe_dump({"config": _configuration(system_port)}))
    stack = Stack(Options(config, state, base), say=lambda _: None, notice=_died)
    description = stack.up()
    try:
        yield World(stack, description, system_port, state)
    finally:
        stack.down()


def _died(text: str) -> None:
    raise RuntimeError(f"a part of the stack did not last: {text}")


def _configuration(system_port: int) -> dict[str, Any]:
    handlers: list[dict[str, Any]] = [
        {
            "name": HANDLER,
            "connector": "webhook",
            "events": ["SIM/*"],
            "requires": ["account_info", "sim_info"],
            "group": "HSS",
            "settings": {
                "url": f"http://127.0.0.1:{system_port}/process-event",
                "allow_http": True,
            },
            "secrets": {"token": "measured-token"},
        },
        {
            "name": "weighed-database",
            "connector": "database",
            "settings": {"url": "sqlite:///${state}/subscribers.db", "create_table": True},
        },
        {
            "name": "weighed-hss",
            "connector": "hss_osmocom",
            "settings": {"host": "192.0.2.9"},
        },
        {
            "name": "weighed-mail",
            "connector": "notification",
            "settings": {"host": "192.0.2.9", "security": "none", "sender": "desk@alba.example"},
        },
        {
            "name": "weighed-orders",
            "connector": "oms_tmf641",
            "settings": {"url": "http://192.0.2.9", "allow_http": True},
            "secrets": {"credentials": "orders-credentials", "callback": "orders-callback"},
        },
    ]
    return {
        "gcp:project": "nsps-bench",
        "gcp:region": "europe-west3",
        "nsps:deployment": "bench",
        "nsps:static_egress": False,
        "nsps:portabilling": {"url": "sandbox", "credentials": "portabilling-api"},
        "nsps:espf": {"method": "basic", "credentials": ["espf-webhook"]},
        "nsps:digest_key": "digest-key",
        "nsps:handlers": [{"events": _ELSEWHERE, **handler} for handler in handlers],
    }
