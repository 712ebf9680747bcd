"""The ingress against the least that a function can do, in the same server mode."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nsps_local.bench import processor
from nsps_local.bench.figures import Aim, Section
from nsps_local.bench.load import CONNECTIONS, flat_out, webhook
from nsps_local.bench.world import World
from nsps_local.stack.processes import Child, Processes

BARE = Path(__file__).with_name("bare") / "main.py"
AIM = Aim("at_least", 0.6)


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement: requests per second, and processor milliseconds per request by process."""

    per_second: float
    cost: dict[str, float]


def measure(world: World, rounds: int, seconds: float) -> Section:
    """Alternating rounds of the bare handler and the ingress; the median of their ratios."""
    section = Section(
        f"Ingress against a bare handler (THREADS={world.threads('ingress')}, WORKERS=1, "
        f"{CONNECTIONS} connections, {rounds} x 2 rounds of {seconds:g} s)"
    )
    bodies = (webhook(number, 1000 + number % 5000) for number in itertools.count(1))
    with world.events_kept(), _bare(world) as (url, group):
        spent_by = {"ingress": world.groups()["ingress"], "Pub/Sub": world.groups()["pubsub"]}
        _round(world, url, bodies, 1, {"bare": group})  # warm, and thrown away
        _round(world, world.ingress, bodies, 1, spent_by)
        bare, ours = [], []
        for _ in range(rounds):
            bare.append(_round(world, url, bodies, seconds, {"bare": group}))
            ours.append(_round(world, world.ingress, bodies, seconds, spent_by))
    ratios = [b.per_second / a.per_second for a, b in zip(bare, ours, strict=True)]
    section.add("bare handler", _median(bare), "requests/s")
    section.add("ingress", _median(ours), "requests/s")
    section.add("ingress / bare", statistics.median(ratios), "", AIM, _spread(ratios))
    for name, measured in (("bare", bare), ("ingress", ours), ("Pub/Sub", ours)):
        cost = statistics.median(each.cost[name] for each in measured)
        section.add(f"processor time, {name}", cost, "ms/request", None, _NOTES.get(name, ""))
    cost = statistics.median(each.cost["load client"] for each in ours)
    section.add("processor time, load client", cost, "ms/request")
    return section


_NOTES = {
    "ingress": "with the real Pub/Sub client",
    "Pub/Sub": "embedded; in the cloud it is not on these cores",
}


def _round(
    world: World, url: str, bodies: Iterator[bytes], seconds: float, groups: dict[str, int]
) -> Round:
    before, own = processor.seconds_of(groups), processor.own_seconds()
    per_second = asyncio.run(flat_out(url, world.headers, bodies, seconds))
    after = processor.seconds_of(groups)
    requests = per_second * seconds / 1000
    cost = {name: (after[name] - before[name]) / requests for name in groups}
    cost["load client"] = (processor.own_seconds() - own) / requests
    return Round(per_second, cost)


def _median(rounds: list[Round]) -> float:
    return statistics.median(each.per_second for each in rounds)


def _spread(ratios: list[float]) -> str:
    return f"median of ratios from {min(ratios):.2f} to {max(ratios):.2f}"


@contextmanager
def _bare(world: World) -> Iterator[tuple[str, int]]:
    """The bare handler in its own process, like the ingress in everything else."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "functions_framework", "--source", str(BARE)]
    command += ["--target", "main", "--signature-type", "http"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "THREADS": world.threads("ingress"), "WORKERS": "1"}
    child = Child("bare", command, environment, lambda: _listens(port), world.state / "bare.log")
    processes = Processes(notice=lambda _: None)
    try:
        processes.start(child)
        child.wait_ready()
        assert child.pid is not None
        yield url, child.pid
    finally:
        processes.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
