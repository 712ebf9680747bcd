"""``python -m nsps_local.cost.count``: what one event does, counted on the local stack.

Writes counts.json beside this file. Each event is a change that every handler writes to its system
and tells ESPF of.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import yaml
from google.pubsub_v1 import SubscriberClient
from nsps.cloud.store import open_store
from nsps.delivery.timeline import Timeline

from nsps_local.cli.running import summaries
from nsps_local.cli.send import signed_headers
from nsps_local.cost.model import Operations, read_prices
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.scenario import Sandbox
from nsps_local.stack.cloud import identities
from nsps_local.stack.ports import reserve_base
from nsps_local.stack.scheduler import Scheduler
from nsps_local.stack.stack import Options, Stack

EVENTS = 10
WAIT_SECONDS = 60
_FIRST = 5_000_000
_EXPIRING = ("events", "deliveries")


class _Unhurried(Stack):
    """A stack whose clock does not tick: ticks are counted apart."""

    def _start_scheduler(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class _Figures:
    """Everything that is counted, at one moment.

    ``came`` to and ``goes`` on from there: Firestore's counters before and after what is read here.
    """

    came: Mapping[str, int]
    goes: Mapping[str, int]
    documents: int
    stored: int
    published_bytes: int
    pushed_bytes: int
    log_bytes: int


def count(handlers: int, events: int = EVENTS) -> tuple[Operations, Operations]:
    """What one event does with so many handlers, and what one tick does. Raises CannotStart."""
    with _running(handlers) as (stack, description):
        work = _Work(stack, description)
        for _ in range(2):  # what only the first event does: logins, keys, an account's documents
            work.event()
        before = work.figures()
        for _ in range(events):
            work.event()
        between = work.figures()
        for _ in range(events):
            work.tick()
        after = work.figures()
        work.check()
        return _difference(before, between, events), _difference(between, after, events)


@contextmanager
def _running(handlers: int) -> Iterator[tuple[Stack, dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="nsps-cost-") as folder:
        config = Path(folder) / "Pulumi.cost.yaml"
        config.write_text(yaml.safe_dump({"config": _configuration(handlers)}), encoding="utf-8")
        options = Options(config, Path(folder) / "state", reserve_base())
        stack = _Unhurried(options, say=lambda _: None, notice=_died)
        description = stack.up()
        try:
            yield stack, description
        finally:
            stack.down()


def _died(text: str) -> None:
    raise RuntimeError(f"a part of the stack did not last: {text}")


def _configuration(handlers: int) -> dict[str, Any]:
    return {
        "gcp:project": "nsps-cost",
        "gcp:region": "europe-west3",
        "nsps:deployment": "cost",
        "nsps:static_egress": False,
        "nsps:portabilling": {"url": "sandbox", "credentials": "portabilling-api"},
        "nsps:espf": {"credentials": ["espf-webhook"]},
        "nsps:handlers": [
            {
                "name": f"system-{number}",
                "connector": "database",
                "events": ["Account/*", "Account/*/*"],
                "group": f"System {number}",
                "settings": {
                    "url": f"sqlite:///${{state}}/system-{number}.db",
                    "create_table": True,
                },
            }
            for number in range(1, handlers + 1)
        ],
    }


class _Work:
    """What happens on the stack, and what it did."""

    def __init__(self, stack: Stack, description: Mapping[str, Any]) -> None:
        self._stack, self._description = stack, description
        os.environ["FIRESTORE_EMULATOR_HOST"] = description["firestore"]["host"]
        store = open_store(description["project"], description["firestore"]["database"])
        self._firestore = store.client
        self._timeline = Timeline(store, summaries(description["handlers"]))
        self._sandbox = Sandbox(description["sandbox"]["url"])
        self._events = 0
        self._pulled = {"published": 0, "pushed": 0}
        self._taps = self._tap()
        issuer = TokenIssuer(Path(description["state"]) / "pubsub")
        self._scheduler = Scheduler(stack.topology.jobs, issuer.token, identities(stack.topology))
        held = {"webhook": {"paused": True}}  # the events are ours, one for each change
        requests.post(f"{description['sandbox']['url']}/sandbox/settings", json=held, timeout=20)
        state = self._sandbox.state()
        self._products = [product["i_product"] for product in state["products"][:2]]
        card = state["free_sim_cards"][0]
        made = self._sandbox.do(
            "add_account",
            msisdn=card["msisdn"],
            i_customer=state["customers"][0]["i_customer"],
            i_product=self._products[0],
            i_sim_card=card["i_sim_card"],
        )
        self._i_account = made["i_account"]

    def event(self) -> None:
        """A change, its webhook, and the wait until every handler has told ESPF."""
        self._events += 1
        product = self._products[self._events % 2]
        self._sandbox.do("change_product", i_account=self._i_account, i_product=product)
        variables = {"i_account": self._i_account, "i_event": _FIRST + self._events}
        ingress = self._description["ingress"]
        answer = requests.post(
            ingress["url"],
            data=json.dumps({"event_type": "Account/Product/Changed", "variables": variables}),
            headers=signed_headers(ingress["auth"]),
            timeout=20,
        )
        answer.raise_for_status()
        self._wait()

    def _wait(self) -> None:
        """Until every handler has acknowledged it. The history is not asked: that would count."""
        ends = time.monotonic() + WAIT_SECONDS
        wanted = self._events * len(self._description["handlers"])
        while self._acknowledged() < wanted:
            if time.monotonic() > ends:
                raise RuntimeError(f"event {self._events} was not finished in {WAIT_SECONDS} s")
            time.sleep(0.02)
        time.sleep(0.1)  # whatever a function still writes down after its answer

    def _acknowledged(self) -> int:
        """How often handlers' functions have taken a message for good."""
        metrics = requests.get(f"{self._description['pubsub']['control']}/metrics", timeout=20)
        subscriptions = metrics.json()["subscriptions"]
        handlers = {
            self._stack.topology.subscription(name).name for name in self._description["handlers"]
        }
        return sum(
            int(figures["acked"])
            for path, figures in subscriptions.items()
            if path.rpartition("/")[2] in handlers
        )

    def check(self) -> None:
        """Raises RuntimeError unless every event was delivered by every handler."""
        for number in range(1, self._events + 1):
            (history,) = self._timeline.find(str(_FIRST + number))
            outcomes = {each.outcome for each in history.deliveries}
            if outcomes != {"delivered"}:
                raise RuntimeError(f"event {number} ended as {outcomes}")

    def tick(self) -> None:
        (job,) = self._stack.topology.jobs
        if self._scheduler.call(job) != 200:
            raise RuntimeError("the tick was not answered with 200")

    def figures(self) -> _Figures:
        came = self._counters()
        documents, stored = self._kept()
        self._pull()
        logs = Path(self._description["logs"])
        parts = [function.part for function in self._stack.topology.functions]
        lines = sum((logs / f"{part}.log").stat().st_size for part in parts)
        return _Figures(
            came,
            self._counters(),
            documents,
            stored,
            self._pulled["published"],
            self._pulled["pushed"],
            lines,
        )

    def _counters(self) -> dict[str, int]:
        url = f"{self._description['firestore']['control']}/metrics"
        counted: dict[str, int] = requests.get(url, timeout=20).json()["total"]
        return counted

    def _kept(self) -> tuple[int, int]:
        """Documents that expire, and the bytes of them all."""
        found = [
            snapshot
            for group in _EXPIRING
            for snapshot in self._firestore.collection_group(group).stream()
        ]
        return len(found), sum(_document_bytes(s.reference.path, s.to_dict()) for s in found)

    def _tap(self) -> dict[str, str]:
        """Subscriptions that only this program reads: what every topic carried."""
        described = self._description
        os.environ["PUBSUB_EMULATOR_HOST"] = described["pubsub"]["host"]
        self._client = SubscriberClient()
        taps = {}
        for topic in described["pubsub"]["topics"]:
            name = f"projects/{described['project']}/subscriptions/counted-{topic}"
            path = f"projects/{described['project']}/topics/{topic}"
            self._client.create_subscription(name=name, topic=path)
            taps[topic] = name
        return taps

    def _pull(self) -> None:
        fed: dict[str, list[Any]] = {}
        for subscription in self._stack.topology.subscriptions:
            fed.setdefault(subscription.topic, []).append(subscription)
        for topic, name in self._taps.items():
            for message in self._messages(name):
                size = _message_bytes(message)
                self._pulled["published"] += size
                takers = [s for s in fed.get(topic, []) if _takes(s.filter, message.attributes)]
                self._pulled["pushed"] += size * len(takers)

    def _messages(self, name: str) -> Iterator[Any]:
        while True:
            pulled = self._client.pull(
                subscription=name, max_messages=1000, return_immediately=True
            )
            if not pulled.received_messages:
                return
            ids = [received.ack_id for received in pulled.received_messages]
            yield from (received.message for received in pulled.received_messages)
            self._client.acknowledge(subscription=name, ack_ids=ids)


def _takes(filter_text: str, attributes: Mapping[str, str]) -> bool:
    return not filter_text or filter_text.removeprefix("attributes:").strip('"') in attributes


def _message_bytes(message: Any) -> int:
    """What Pub/Sub charges for: data and attributes, 20 bytes of its own, 1000 at the least."""
    attributes = sum(len(k.encode()) + len(v.encode()) for k, v in message.attributes.items())
    smallest = int(read_prices()["pubsub_smallest_bytes"])
    return max(smallest, len(message.data) + attributes + 20)


def _document_bytes(path: str, data: Mapping[str, Any] | None) -> int:
    """A document's size as Firestore reckons it, without indexes."""
    names = sum(len(part.encode()) + 1 for part in path.split("/")) + 16
    return names + 32 + _value_bytes(data or {})


def _value_bytes(value: Any) -> int:
    """A value's size as Firestore reckons it."""
    if isinstance(value, Mapping):
        return sum(len(str(k).encode()) + 1 + _value_bytes(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_value_bytes, value))
    if isinstance(value, str):
        return len(value.encode()) + 1
    if isinstance(value, bytes):
        return len(value)
    return 1 if value is None or isinstance(value, bool) else 8


def _difference(before: _Figures, after: _Figures, events: int) -> Operations:
    def each(name: str) -> float:
        return float(round((getattr(after, name) - getattr(before, name)) / events, 2))

    def operations(kind: str) -> float:
        return round((after.came[kind] - before.goes[kind]) / events, 2)

    return Operations(
        reads=operations("reads"),
        writes=operations("writes"),
        deletes=each("documents"),
        published_bytes=each("published_bytes"),
        pushed_bytes=each("pushed_bytes"),
        log_bytes=each("log_bytes"),
        stored=each("stored"),
    )


def main() -> int:
    """Count for one and for three handlers, and write what was counted."""
    one, tick = count(1)
    three, _ = count(3)
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "one": asdict(one),
        "three": asdict(three),
        "tick": asdict(tick),
    }
    file = Path(__file__).with_name("counts.json")
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(file.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
