"""``python -m nsps_local.bench.growth [--documents 10000 1000000] [--seconds 15]``

The same figures with few and with many documents in the ledger and the history: latency at 20
events a second, processor time an event, and one delivery's two steps in the ledger. The documents
are copies of real ones, written into the embedded Firestore's own storage while the stack is down.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, cycle, islice
from pathlib import Path

from nsps.cloud.store import Store as LedgerStore
from nsps.cloud.store import open_store, resource_id
from nsps.delivery.ledger.ledger import Ledger, Stage, Work
from nsps.domain.event import Owner, SnapshotTime
from rich.console import Console

from nsps_local.bench import processor, world
from nsps_local.bench.figures import Section, percentile
from nsps_local.bench.flow import Flow
from nsps_local.bench.world import HANDLER, World
from nsps_local.firestore.names import Key
from nsps_local.firestore.store import Record, Store
from nsps_local.firestore.values import Value

RATE = 20
WARM_SECONDS = 3
STATE_HANDLER = "state"
"""A handler of which there is only the ledger."""
FIRST_COPY = 300_000
"""Accounts of copies begin here; those of the sandbox are below, with as many digits."""
FIRST_OWN = 200_000
"""Accounts of the deliveries that are measured in the ledger alone."""
DELIVERIES = 300
TEMPLATES = 20
CHUNK = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Grow, measure, print; exit status 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=15, help="of events, for each size")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="nsps-growth-") as name:
        folder = Path(name)
        with world.running_in(folder) as running:
            templates = _templates(running)
        copies, own = copies_of(originals(folder, templates)), count(FIRST_OWN)
        for documents in sorted(options.documents):
            took = grow(folder, copies, documents)
            with world.running_in(folder) as running:
                _measure(running, documents, options.seconds, took, own).show(console)
    return 0


# ---- documents -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    """An event that was delivered, and its account."""

    event_id: str
    i_account: int

    def owns(self, key: Key) -> bool:
        of_resource = key.id == resource_id(_resource_key(self.i_account))
        return of_resource or self.event_id in key.path or str(self.i_account) in key.path

    def renamed(self, key: Key, copy: Template) -> Key:
        """The key of the copy's document."""
        if key.id == resource_id(_resource_key(self.i_account)):
            return key._replace(id=resource_id(_resource_key(copy.i_account)))
        names = key.id.replace(self.event_id, copy.event_id)
        return key._replace(id=names.replace(str(self.i_account), str(copy.i_account)))

    def rewritten(self, data: bytes, copy: Template) -> bytes:
        """The copy's document: the names in it are as long as those that they stand for."""
        for ours, theirs in zip(self._names(), copy._names(), strict=True):
            data = data.replace(ours, theirs)
        return data

    def _names(self) -> tuple[bytes, ...]:
        number = Value(integer_value=self.i_account).SerializeToString()
        return self.event_id.encode(), str(self.i_account).encode(), number


Original = tuple[Template, Key, bytes]


def _templates(running: World) -> list[Template]:
    """Events through the whole stack, and the same through the ledger of a handler of a state."""
    drive = Flow(running, running.seed(TEMPLATES))
    drive.step(TEMPLATES, 1)
    store = _store(running)
    found = [
        Template(each.id, (each.to_dict() or {})["i_account"])
        for each in store.client.collection("events").limit(TEMPLATES).stream()
    ]
    ledger = Ledger(store)
    for each in found:
        _deliver(ledger, each.event_id, each.i_account)
    return found


def _store(running: World) -> LedgerStore:
    firestore = running.description["firestore"]
    os.environ["FIRESTORE_EMULATOR_HOST"] = firestore["host"]
    return open_store(running.description["project"], firestore["database"])


def _deliver(ledger: Ledger, event_id: str, i_account: int) -> tuple[float, float]:
    """One delivery that writes one resource; milliseconds of its two steps."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    key = _resource_key(i_account)
    work = Work(
        handler=STATE_HANDLER,
        delivery=event_id,
        event_id=event_id,
        owner=Owner("account", str(i_account)),
        i_account=i_account,
        t=SnapshotTime(f"{now}/{event_id}"),
        wanted={key: "ab" * 16},
        visible={key: {"msisdn": "447700900001", "status": "active"}},
        group="State",
        call_seconds=30.0,
    )
    began = time.perf_counter()
    progress = ledger.begin(work, {"handler": STATE_HANDLER})
    begun = time.perf_counter()
    if progress.at is not Stage.CALL:
        raise RuntimeError(f"the ledger does not begin a new delivery: {progress.at}")
    ledger.done(work, progress, {}, changed=True)
    return (begun - began) * 1000, (time.perf_counter() - begun) * 1000


def _resource_key(i_account: int) -> str:
    return f"account-{i_account}"


@contextmanager
def _storage(folder: Path) -> Iterator[Store]:
    """The documents of a stack that is down."""
    store = Store(folder / "state" / "firestore")
    try:
        yield store
    finally:
        store.close()


def originals(folder: Path, templates: Sequence[Template]) -> list[list[Original]]:
    """By template, the documents that belong to its event and its account."""
    found: dict[Template, list[Original]] = {each: [] for each in templates}
    with _storage(folder) as store:
        for _, db in store.databases():
            for key, record in store.group(db, ""):
                for each, documents in found.items():
                    if each.owns(key):
                        documents.append((each, key, record.data))
    return list(found.values())


def copies_of(documents_of: Sequence[Sequence[Original]]) -> Iterator[tuple[Key, bytes]]:
    """Documents of further events, each about an account of its own, for ever."""
    for i_account, documents in zip(count(FIRST_COPY), cycle(documents_of), strict=False):
        copy = Template(str(uuid.uuid4()), i_account)
        for original, key, data in documents:
            yield original.renamed(key, copy), original.rewritten(data, copy)


def grow(folder: Path, copies: Iterator[tuple[Key, bytes]], documents: int) -> float:
    """Add copies until there are so many documents; the seconds that it took."""
    began = time.monotonic()
    with _storage(folder) as store:
        there = sum(1 for _, db in store.databases() for _ in store.keys(db))
        while there < documents:
            with store.transaction(store.clock.next()) as now:
                for key, data in islice(copies, min(CHUNK, documents - there)):
                    store.put(key, None, Record(0, now, now, data))
                    there += 1
    return time.monotonic() - began


# ---- figures -------------------------------------------------------------------------------------


def _measure(
    running: World, documents: int, seconds: float, took: float, own: Iterator[int]
) -> Section:
    """``own``: accounts of which the ledger has nothing."""
    running.slow_down_reads()
    drive = Flow(running, running.seed(round(RATE * (WARM_SECONDS + seconds)) + 1))
    drive.step(RATE, WARM_SECONDS)
    step = drive.step(RATE, seconds)
    section = Section(f"{documents:,} documents (made in {took:.0f} s)")
    times = [each * 1000 for each in step.provisioned]
    section.add(f"{RATE} events/s, median", percentile(times, 0.5), "ms")
    section.add(f"{RATE} events/s, 99th percentile", percentile(times, 0.99), "ms")
    for part in ("enrichment", HANDLER, "firestore"):
        section.add(f"processor time an event, {part}", step.cost[part], "ms")
    ledger, groups = Ledger(_store(running)), running.groups()
    _deliver(ledger, str(uuid.uuid4()), next(own))  # the first query of a kind makes its index
    before = processor.seconds_of(groups)["firestore"]
    steps = [_deliver(ledger, str(uuid.uuid4()), each) for each in islice(own, DELIVERIES)]
    spent = (processor.seconds_of(groups)["firestore"] - before) * 1000 / DELIVERIES
    section.add("the ledger's begin, median", statistics.median(each for each, _ in steps), "ms")
    section.add("its last step, median", statistics.median(each for _, each in steps), "ms")
    section.add("processor time of both in Firestore", spent, "ms")
    section.add("resident memory of Firestore", processor.resident_mib(groups["firestore"]), "MiB")
    return section


if __name__ == "__main__":
    sys.exit(main())
