"""``python -m nsps_local.bench [--quick] [--only-peer] [--json FILE] [--page]``

Exit status: 0 when everything was measured (aims need not be reached), 2 when it cannot be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from nsps_local.bench import firestore, flow, ingress, page, startup, world
from nsps_local.bench.figures import Section
from nsps_local.bench.peer import compare
from nsps_local.bench.peer import running as peer
from nsps_local.stack.errors import CannotStart


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything is measured; seconds. ``paces``: tried in turn until one fails."""

    ingress_rounds: int
    ingress_seconds: float
    rates: tuple[float, ...]
    rate_seconds: float
    paces: tuple[float, ...]
    pace_seconds: float
    firestore_rounds: int
    firestore_calls: int
    peer: compare.Rounds

    @property
    def accounts(self) -> int:
        """How many events are sent at most; each is of an account of its own."""
        offered = sum(self.rates) * self.rate_seconds + sum(self.paces) * self.pace_seconds
        return round(offered) + self.peer.events + 1000


_PACES = (20, 30, 40, 50, 60, 75, 90, 110, 130, 150, 175, 200)
WHOLE = Plan(5, 3, (20, 100), 15, _PACES, 8, 5, 200, compare.Rounds(3, 15, _PACES[2:], 8))
QUICK = Plan(
    2, 1.5, (20, 100), 4, (25, 50, 75, 100, 150), 4, 3, 50, compare.Rounds(1, 4, (25, 50, 100), 4)
)
WARM_RATE, WARM_SECONDS = 20, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; returns the exit status."""
    options = _options(arguments)
    if not Path("/proc/self/stat").exists():
        sys.stderr.write("bench: processor time is read from /proc, which this machine lacks\n")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the stack is taken down
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    started = time.monotonic()
    try:
        plan = QUICK if options.quick else WHOLE
        sections = (_beside_the_peer if options.only_peer else _measure)(plan, console)
    except (CannotStart, RuntimeError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    about = _about(time.monotonic() - started)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    if options.json is not None:
        document = {"about": about, "sections": [section.as_json() for section in sections]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.page:
        page.write(about, sections)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nsps_local.bench", description="Measure NSPS on this machine."
    )
    parser.add_argument("--quick", action="store_true", help="two minutes instead of ten")
    parser.add_argument("--only-peer", action="store_true", help="only beside the peer")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args(arguments)


def _measure(plan: Plan, console: Console) -> list[Section]:
    sections: list[Section] = []

    def shown(*measured: Section) -> None:
        for section in measured:
            sections.append(section)
            section.show(console)

    with console.status("import times"):
        shown(startup.imports())
    with console.status("starting a stack") as status, world.running() as running:
        light = startup.resident(running)
        running.slow_down_reads()
        drive = flow.Flow(running, running.seed(plan.accounts))
        status.update("the first event")
        first = drive.first()
        used = startup.resident(running)
        drive.step(WARM_RATE, WARM_SECONDS)
        steps = []
        for rate in plan.rates:
            status.update(f"{rate:g} events a second for {plan.rate_seconds:g} s")
            steps.append(drive.step(rate, plan.rate_seconds))
        shown(flow.latency(steps, first))
        paces = []
        for pace in plan.paces:
            status.update(f"the pace that lasts: {pace:g} events a second")
            paces.append(drive.step(pace, plan.pace_seconds))
            if not paces[-1].lasts:
                break
        shown(flow.sustained(paces))
        shown(*_peer(plan, running, drive.events, status.update))
        shown(*flow.cost(steps))
        shown(startup.memory({**light, **used}, startup.resident(running)))
        status.update("our way to Firestore against Google's client")
        shown(firestore.measure(running, plan.firestore_rounds, plan.firestore_calls))
        status.update("the ingress against a bare handler")
        shown(ingress.measure(running, plan.ingress_rounds, plan.ingress_seconds))
    return sections


def _beside_the_peer(plan: Plan, console: Console) -> list[Section]:
    with console.status("starting a stack") as status, world.running() as running:
        running.slow_down_reads()
        events = running.seed(plan.peer.events)
        sections = _peer(plan, running, events, status.update)
    for section in sections:
        section.show(console)
    return sections


def _peer(
    plan: Plan, running: world.World, events: flow.Events, say: Callable[[str], None]
) -> list[Section]:
    missing = peer.missing()
    if missing is not None:
        sys.stderr.write(f"bench: not measured beside the peer: {missing}\n")
        return []
    return [compare.measure(running, plan.peer, events, say)]


def _about(seconds: float) -> dict[str, Any]:
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load average": round(os.getloadavg()[0], 2),
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
