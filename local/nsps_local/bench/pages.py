"""``python -m nsps_local.bench.pages [--events 100000]``

How long the console takes to make its pages over a long history, by its own clock (the header
Server-Timing). The history is written straight into Firestore: copies of one real event.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from nsps.console.overview import REMEMBERED_SECONDS

from nsps_local.bench.fill import HANDLER, running_stack
from nsps_local.cli.remote import LOCAL
from nsps_local.cli.running import Running
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.scenario import Sandbox
from nsps_local.stack.stack import Stack

DAYS = 90
BATCH = 400
REJECTED_OF = 500
"""One event of so many failed for good."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the history, ask for pages, print; exit status 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=20, help="how often each page is asked for")
    options = parser.parse_args(arguments)
    with running_stack() as stack:
        pages = Pages(stack)
        event_id = pages.write(options.events)
        sys.stdout.write(json.dumps(pages.measure(event_id, options.times), indent=1) + "\n")
    return 0


class Pages:
    """One run over a stack that is up."""

    def __init__(self, stack: Stack) -> None:
        described = stack.describe()
        console = described["console"]
        self._url = console["url"]
        self._state = Path(described["state"])
        token = TokenIssuer(self._state / "pubsub").token(LOCAL, console["audience"])
        self._headers = {"Authorization": f"Bearer {token}"}
        self._sandbox = Sandbox(described["sandbox"]["url"])
        self._running = Running(self._state)

    def write(self, events: int) -> str:
        """A real event, and so many copies of it with its delivery; the real one's id."""
        store = self._running.store
        event_id, account = self._real()
        event = store.read(store.event(event_id)) or {}
        delivery = store.read(store.delivery(HANDLER, event_id)) or {}
        began, batch = time.monotonic(), store.client.batch()
        for number, (ident, at) in enumerate(_times(events), start=1):
            batch.set(store.event(ident), _copy(event, at, i_account=account + number % 5000))
            batch.set(store.delivery(HANDLER, ident), _delivery(delivery, at, number))
            if number % (BATCH // 2) == 0 or number == events:
                batch.commit()
                batch = store.client.batch()
        sys.stderr.write(f"{events} events written in {time.monotonic() - began:.0f} s\n")
        return event_id

    def _real(self) -> tuple[str, int]:
        state = self._sandbox.state()
        made = self._sandbox.do(
            "add_account",
            msisdn="447700900123",
            i_customer=state["customers"][0]["i_customer"],
            i_product=state["products"][0]["i_product"],
            i_sim_card=state["free_sim_cards"][0]["i_sim_card"],
        )
        i_account: int = made["i_account"]
        while True:
            found = self._running.timeline.where("i_account", i_account)
            if found and all(each.final for each in found):
                return found[-1].event_id, i_account
            time.sleep(0.1)

    def measure(self, event_id: str, times: int) -> dict[str, Any]:
        """Milliseconds of each page: median, and the slowest. The first look is not counted: the
        embedded Firestore makes its indexes then, which elsewhere grow with the history."""
        figures = {}
        requests.get(f"{self._url}/", headers=self._headers, timeout=300)
        for name, path, pause in (
            ("overview, figures asked anew", "/", REMEMBERED_SECONDS),
            ("overview, figures up to 5 s old", "/", 0.0),
            ("event", f"/events/{event_id}", 0.0),
            ("events", "/events", 0.0),
            ("events of one outcome", f"/events?handler={HANDLER}&outcome=rejected", 0.0),
        ):
            took, size = [], 0
            for _ in range(times if not pause else min(times, 8)):
                time.sleep(pause)
                ms, size = self._page(path)
                took.append(ms)
            figures[name] = {
                "median ms": round(statistics.median(took), 1),
                "slowest ms": round(max(took), 1),
                "KB": round(size / 1000, 1),
            }
        return figures

    def _page(self, path: str) -> tuple[float, int]:
        answer = requests.get(self._url + path, headers=self._headers, timeout=60)
        answer.raise_for_status()
        return float(answer.headers["Server-Timing"].rpartition("=")[2]), len(answer.content)


def _times(events: int) -> Iterator[tuple[str, datetime]]:
    """Ids, and moments over the last three months, half of them in the last day."""
    now = datetime.now(UTC)
    for number in range(events):
        span = timedelta(days=1) if number % 2 else timedelta(days=DAYS)
        yield str(uuid.uuid4()), now - span * (number / events)


def _copy(event: Mapping[str, Any], at: datetime, i_account: int) -> dict[str, Any]:
    moments = {"opened_at": at, "received_at": at.isoformat(), "enriched_at": at}
    return {**event, **moments, "i_account": i_account, "owner": f"account:{i_account}"}


def _delivery(delivery: Mapping[str, Any], at: datetime, number: int) -> dict[str, Any]:
    outcome = "rejected" if number % REJECTED_OF == 0 else "delivered"
    moments = {"begun_at": at, "last_at": at, "finished_at": at}
    return {**delivery, **moments, "outcome": outcome, "t": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}/x"}


if __name__ == "__main__":
    sys.exit(main())
