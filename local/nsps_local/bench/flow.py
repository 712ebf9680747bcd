"""From the webhook to the external system: latency at a given pace, and the pace that lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from nsps_local.bench import processor
from nsps_local.bench.figures import Aim, Section, percentile
from nsps_local.bench.load import Sent, open_loop
from nsps_local.bench.system import System
from nsps_local.bench.world import HANDLER, LOAD, SERVICES
from nsps_local.pubsub.http_client import PushClient

MEDIAN_AIM = Aim("at_most", 60)
P99_AIM = Aim("at_most", 300)
SUSTAINED_AIM = Aim("at_least", 150)
DRAIN_SECONDS = 60.0
BEHIND_SECONDS = 0.5
"""A pace lasts if, when the last event has been sent, less than this much of it is still open."""

Events = Iterator[tuple[int, int]]


class Pipeline(Protocol):
    """What is measured: takes webhooks, calls the external system, keeps a status of each event."""

    @property
    def ingress(self) -> str: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def system_port(self) -> int: ...
    def groups(self) -> dict[str, int]: ...
    def statuses(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One pace for some seconds. Times in seconds, from the moment an event was to be sent."""

    rate: float
    seconds: float
    events: int
    provisioned: tuple[float, ...]
    acknowledged: tuple[float, ...]
    refused: int
    behind: int
    """Events not yet provisioned when the last one had been sent."""
    pace: float
    """Provisioned per second while events were being sent."""
    told_after: float
    """From the last event sent until ESPF had heard of all."""
    cost: Mapping[str, float]
    """Part -> processor milliseconds per event."""

    @property
    def lasts(self) -> bool:
        return self.behind <= max(self.rate * BEHIND_SECONDS, 2) and not self.refused


class Flow:
    """Drives one pipeline with one load client and one external system, on one event loop."""

    def __init__(self, pipeline: Pipeline, events: Events) -> None:
        self._pipeline, self.events = pipeline, events
        self._headers = pipeline.headers
        self._groups = pipeline.groups()

    def first(self) -> float:
        """Seconds from the first webhook that this stack ever gets until it is provisioned."""
        return self.step(1, 1).provisioned[0]

    def step(self, rate: float, seconds: float) -> Step:
        return asyncio.run(self._step(rate, seconds))

    async def _step(self, rate: float, seconds: float) -> Step:
        system, client = System(), PushClient()
        await system.start(self._pipeline.system_port)
        statuses = self._pipeline.statuses()
        before, own = processor.seconds_of(self._groups), processor.own_seconds()
        sent = await open_loop(
            lambda body: client.post(self._pipeline.ingress, self._headers, body),
            self.events,
            rate,
            seconds,
        )
        ended, done = time.monotonic(), len(system.provisioned)
        await self._drained(system, sent)
        await asyncio.to_thread(self._all_posted, statuses + len(sent.scheduled))
        told_after = time.monotonic() - ended
        client.close()
        await system.stop()
        spent = processor.seconds_of(self._groups)
        events = len(sent.scheduled)
        cost = {name: (spent[name] - before[name]) * 1000 / events for name in spent}
        cost[LOAD] = (processor.own_seconds() - own) * 1000 / events
        return Step(
            rate=rate,
            seconds=seconds,
            events=events,
            provisioned=tuple(
                system.provisioned[i_event] - due
                for i_event, due in sent.scheduled.items()
                if i_event in system.provisioned
            ),
            acknowledged=tuple(sent.acknowledged),
            refused=sent.refused,
            behind=events - done,
            pace=done / seconds,
            told_after=told_after,
            cost=cost,
        )

    async def _drained(self, system: System, sent: Sent) -> None:
        ends = time.monotonic() + DRAIN_SECONDS
        while len(system.provisioned) < len(sent.scheduled) and time.monotonic() < ends:
            await asyncio.sleep(0.05)

    def _all_posted(self, count: int) -> None:
        ends = time.monotonic() + DRAIN_SECONDS
        while self._pipeline.statuses() < count and time.monotonic() < ends:
            time.sleep(0.2)


def latency(steps: list[Step], first: float) -> Section:
    section = Section(
        "Webhook to provisioned (two PortaBilling reads of 20 ms, external system of 10 ms)"
    )
    section.add("the first event of a fresh stack", first * 1000, "ms")
    for step in steps:
        name = f"{step.rate:g} events/s"
        note = "" if step.lasts else f"{step.behind} events behind at the end: does not last"
        lost = step.events - len(step.provisioned)
        if lost:
            note = f"{lost} events not provisioned within {DRAIN_SECONDS:g} s"
        took = [each * 1000 for each in step.provisioned]
        section.add(f"{name}, median", percentile(took, 0.5), "ms", MEDIAN_AIM, note)
        section.add(f"{name}, 99th percentile", percentile(took, 0.99), "ms", P99_AIM)
        answered = [each * 1000 for each in step.acknowledged]
        section.add(f"{name}, ingress median", percentile(answered, 0.5), "ms")
        section.add(f"{name}, ingress 99th percentile", percentile(answered, 0.99), "ms")
    return section


def sustained(steps: list[Step]) -> Section:
    section = Section("The pace that lasts, everything and the load client on this machine's cores")
    lasting = max((step.rate for step in steps if step.lasts), default=0.0)
    section.add("sustained", lasting, "events/s", SUSTAINED_AIM)
    for step in steps:
        note = "lasts" if step.lasts else f"{step.behind} events behind at the end"
        section.add(f"offered {step.rate:g} events/s", step.pace, "provisioned/s", None, note)
    return section


def cost(steps: list[Step]) -> list[Section]:
    return [_cost(step) for step in steps]


def _cost(step: Step) -> Section:
    section = Section(f"Processor time per event at {step.rate:g} events/s")
    names = {"ingress": "ingress", "enrichment": "enrichment", HANDLER: "handler", **SERVICES}
    names[LOAD] = LOAD
    product = 0.0
    for part, name in names.items():
        section.add(name, step.cost[part], "ms")
        product += step.cost[part] if name in ("ingress", "enrichment", "handler") else 0
    others = sum(value for part, value in step.cost.items() if part not in names)
    section.add("everything else", others, "ms", None, "functions without work, Secret Manager")
    section.add("the product alone", product, "ms", None, "ingress, enrichment and handler")
    section.add("all together", sum(step.cost.values()), "ms")
    return section
