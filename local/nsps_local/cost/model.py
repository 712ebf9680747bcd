"""Dollars per million events and per month, from counted operations. Pure.

Instances are charged while they have a request. At a low pace requests seldom overlap, and each is
paid alone; at a high one an instance's slots share its second (`busy_share` of them).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import yaml

from nsps_local.recording.topology import Function, Topology

MILLION = 1_000_000
MONTH_SECONDS = 730 * 3600
GIB, TIB = 2**30, 2**40
NAT_MOST = 32
"""Instances behind a NAT that are charged for; the others come free."""
COUNTED = ("reads", "writes", "deletes", "published_bytes", "pushed_bytes", "log_bytes", "stored")


@dataclass(frozen=True, slots=True)
class Operations:
    """What one event does in all functions together; may be a fraction.

    ``deletes``: by expiry, long afterwards. The bytes are those that Pub/Sub charges for (requests
    are rounded up). ``log_bytes``: our own lines. ``stored``: bytes of documents.
    """

    reads: float
    writes: float
    deletes: float
    published_bytes: float
    pushed_bytes: float
    log_bytes: float
    stored: float

    def and_more(self, other: Operations, times: float) -> Operations:
        """These, and ``times`` the difference to the other's."""
        mine, theirs = self._values(), other._values()
        return Operations(**{n: mine[n] + times * (theirs[n] - mine[n]) for n in COUNTED})

    def _values(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in COUNTED}


@dataclass(frozen=True, slots=True)
class Counts:
    """Counted on the local stack at ``date``: for one handler, for three, and for one tick."""

    date: str
    one: Operations
    three: Operations
    tick: Operations

    def for_handlers(self, handlers: int) -> Operations:
        return self.one.and_more(self.three, (handlers - 1) / 2)


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list, of a tier-1 region. ``guessed``: names of prices that were not confirmed."""

    date: str
    each: Mapping[str, float]
    guessed: tuple[str, ...]
    multi_region: Mapping[str, float]
    dearer_regions: tuple[str, ...]
    dearer: Mapping[str, float]
    assumptions: Mapping[str, Any]

    def __getitem__(self, name: str) -> float:
        return self.each[name]

    def in_several_regions(self) -> Prices:
        """With the database in several regions."""
        return replace(self, each={**self.each, **self.multi_region})

    def of(self, region: str) -> Prices:
        """As far as prices are known to differ there: those of Cloud Run."""
        if region not in self.dearer_regions:
            return self
        guessed = (*self.guessed, *self.dearer)
        return replace(self, each={**self.each, **self.dearer}, guessed=guessed)


@dataclass(frozen=True, slots=True)
class Line:
    """A part of the bill in dollars, and what makes it."""

    part: str
    dollars: float
    why: str


def read_prices() -> Prices:
    """The prices in prices.yaml."""
    text = resources.files(__package__).joinpath("prices.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    listed = document["prices"]
    return Prices(
        date=str(document["date"]),
        each={name: float(entry["price"]) for name, entry in listed.items()},
        guessed=tuple(name for name, entry in listed.items() if entry["source"] == "memory"),
        multi_region=document["multi_region"],
        dearer_regions=tuple(document["tier_2"]["regions"]),
        dearer=document["tier_2"]["prices"],
        assumptions=document["assumptions"],
    )


def read_counts() -> Counts:
    """The counts in counts.json, written by ``python -m nsps_local.cost.count``."""
    text = resources.files(__package__).joinpath("counts.json").read_text(encoding="utf-8")
    document = json.loads(text)
    each = {name: Operations(**document[name]) for name in ("one", "three", "tick")}
    return Counts(document["date"], **each)


def per_million(
    topology: Topology, counts: Counts, prices: Prices, rate: float, handlers: int
) -> list[Line]:
    """What a million events cost at so many a second, each for so many handlers."""
    each = counts.for_handlers(handlers)
    stages = list(_stages(topology, prices, rate, handlers))
    requests = sum(stage.requests for stage in stages)
    seconds = sum(stage.instance_seconds for stage in stages)
    running = sum(stage.instance_seconds * _a_second(stage.function, prices) for stage in stages)
    wire = each.published_bytes + each.pushed_bytes
    beside = sum(stage.requests for stage in stages if topology.keeps_request_lines(stage.function))
    logs = each.log_bytes + beside * prices.assumptions["request_log_bytes"]
    months = prices.assumptions["history_months"]
    return [
        Line("Pub/Sub", MILLION * wire / TIB * prices["pubsub_tib"], f"{wire:,.0f} bytes an event"),
        Line(
            "Cloud Run",
            MILLION * running + requests * prices["request_million"],
            f"{requests:g} requests, {seconds:.3f} s of instances an event",
        ),
        Line("Firestore", _firestore(each, prices), _operations(each)),
        Line(
            "History",
            MILLION * each.stored / GIB * prices["firestore_gib_month"] * months,
            f"{each.stored:,.0f} bytes an event, for {months} months",
        ),
        Line(
            "Logs",
            MILLION * logs / GIB * prices["logging_gib"],
            f"{logs:,.0f} bytes an event; Cloud Run's own lines of {beside:g} requests",
        ),
    ]


def per_month(topology: Topology, counts: Counts, prices: Prices) -> list[Line]:
    """What is paid whatever comes."""
    idle = sum(_idle(function, prices) for function in topology.functions)
    always = sum(function.min_instances for function in topology.functions)
    ticks = MONTH_SECONDS / 60
    tick = ticks * _firestore(counts.tick, prices) / MILLION
    called = ticks * (
        prices["request_million"] / MILLION
        + float(prices.assumptions["stage_seconds"]["tick"])
        * sum(_a_second(f, prices) for f in topology.functions if f.part == "retries")
    )
    address = sum("compute/address" in resource.type for resource in topology.resources)
    rules = sum("ForwardingRule" in resource.type for resource in topology.resources)
    behind = sum(f.min_instances for f in topology.functions if f.behind_nat)
    hours = MONTH_SECONDS / 3600
    return [
        Line("Minimum instances", idle, f"{always} that are always there"),
        Line(
            "Clock",
            tick + called + len(topology.jobs) * prices["scheduler_job_month"],
            f"{ticks:,.0f} ticks: {_operations(counts.tick)} each",
        ),
        Line(
            "Secrets",
            len(topology.secrets) * prices["secret_month"],
            f"{len(topology.secrets)} of them",
        ),
        Line(
            "Reserved address",
            address * prices["address_month"]
            + min(behind, NAT_MOST) * hours * prices["nat_instance_hour"],
            f"{address}, and {behind} instances that are always behind it",
        ),
        Line("Console's proxy", rules * hours * prices["forwarding_rule_hour"], f"{rules} of them"),
    ]


def total(lines: list[Line]) -> float:
    return sum(line.dollars for line in lines)


@dataclass(frozen=True, slots=True)
class _Stage:
    function: Function
    requests: float
    instance_seconds: float


def _stages(topology: Topology, prices: Prices, rate: float, handlers: int) -> Iterator[_Stage]:
    """Ingress, enrichment, and as many handlers as an event has; the deployment's in turn."""
    seconds = prices.assumptions["stage_seconds"]
    of_handlers = [f for f in topology.functions if "NSPS_HANDLER" in f.env]
    chain = [(topology.function(name), seconds[name]) for name in ("ingress", "enrichment")]
    usual = of_handlers or [topology.function("enrichment")]
    chain += [(usual[n % len(usual)], seconds["handler"]) for n in range(handlers)]
    for function, wall in chain:
        yield _Stage(function, 1, _instances(function, rate, wall, prices) / rate)


def _instances(function: Function, rate: float, wall: float, prices: Prices) -> float:
    """How many instances are at work on the average."""
    busy = rate * math.ceil(wall * 10) / 10  # charged by the tenth of a second
    alone = 1 - math.exp(-busy)
    shared = busy / (function.concurrency * float(prices.assumptions["busy_share"]))
    return max(alone, shared)


def _a_second(function: Function, prices: Prices) -> float:
    return prices["vcpu_second"] + _gib(function) * prices["gib_second"]


def _idle(function: Function, prices: Prices) -> float:
    second = prices["idle_vcpu_second"] + _gib(function) * prices["idle_gib_second"]
    return function.min_instances * MONTH_SECONDS * second


def _gib(function: Function) -> float:
    number, unit = float(function.memory[:-2]), function.memory[-2:]
    return number / 1024 if unit == "Mi" else number


def _firestore(each: Operations, prices: Prices) -> float:
    """Of a million events."""
    per_operation = (
        each.reads * prices["firestore_read_100k"]
        + each.writes * prices["firestore_write_100k"]
        + each.deletes * prices["firestore_delete_100k"]
    )
    return per_operation * MILLION / 100_000


def _operations(each: Operations) -> str:
    return f"{each.reads:.1f} reads, {each.writes:.1f} writes, {each.deletes:.1f} deletes"
