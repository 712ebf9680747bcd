"""Our own way to Firestore against Google's client: what a call costs the process that makes it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from datetime import UTC, datetime

from google.cloud.firestore import Client, DocumentReference, Transaction, transactional
from nsps.cloud.documents import Write
from nsps.cloud.store import Tx, open_store

from nsps_local.bench import processor
from nsps_local.bench.figures import Section
from nsps_local.bench.world import World

FIELDS = {
    "handler": "hss",
    "owner": "account:277001",
    "attempts": 3,
    "begun_at": datetime(2026, 11, 27, 10, tzinfo=UTC),
    "state": '{"msisdn":"447700900001","cs":true,"ps":true}',
    "digest": "ab" * 16,
    "lease": None,
    "results": {"ok": True, "took": 0.25},
}
"""A document of the ledger's size."""

Work = Callable[[], object]


def measure(world: World, rounds: int, calls: int) -> Section:
    """Rounds of each in turn; medians. The load on other cores does not count."""
    firestore = world.description["firestore"]
    os.environ["FIRESTORE_EMULATOR_HOST"] = firestore["host"]
    store = open_store(world.description["project"], firestore["database"])
    places = [store.client.document("bench", str(number)) for number in range(3)]
    section = Section(f"Processor time of a Firestore call ({rounds} rounds of {calls} in turns)")
    pairs: list[tuple[str, Work, Work]] = [
        (
            "a commit of three writes",
            lambda: _client_commits(store.client, places),
            lambda: store.documents.commit([Write(at.path, FIELDS) for at in places]),
        ),
        (
            "a transaction: three reads, three writes",
            lambda: _client_transacts(store.client, places),
            lambda: store.transact(lambda tx: _touch(tx, places)),
        ),
    ]
    for name, theirs, ours in pairs:
        spent: list[tuple[float, float]] = []
        for _ in range(rounds):
            spent.append((_cost(theirs, calls), _cost(ours, calls)))
        medians = [statistics.median(each) for each in zip(*spent, strict=True)]
        section.add(f"{name}, Google's client", medians[0], "ms")
        section.add(f"{name}, ours", medians[1], "ms", None, f"{medians[1] / medians[0]:.2f} of it")
    return section


def _cost(work: Work, calls: int) -> float:
    """Milliseconds of this process's processor time for each call."""
    work()
    before = processor.own_seconds()
    for _ in range(calls):
        work()
    return (processor.own_seconds() - before) / calls * 1000


def _client_commits(client: Client, places: list[DocumentReference]) -> None:
    batch = client.batch()
    for place in places:
        batch.set(place, FIELDS, merge=list(FIELDS))
    batch.commit()


def _client_transacts(client: Client, places: list[DocumentReference]) -> None:
    @transactional
    def body(transaction: Transaction) -> None:
        for snapshot in transaction.get_all(places):
            snapshot.to_dict()
        for place in places:
            transaction.set(place, FIELDS, merge=list(FIELDS))

    body(client.transaction())


def _touch(tx: Tx, places: list[DocumentReference]) -> None:
    tx.read(places)
    for place in places:
        tx.merge(place, FIELDS)
