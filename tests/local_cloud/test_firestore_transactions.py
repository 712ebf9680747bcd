"""Transactions are serializable, also against phantoms, and do not starve one another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore import FieldFilter
from nsps_local.firestore import FirestoreServer

from tests.local_cloud.firestore_kit import client, embedded, get


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirestoreServer]:
    with embedded(tmp_path_factory.mktemp("firestore")) as running:
        yield running


@pytest.fixture
def db(server: FirestoreServer) -> firestore.Client:
    return client(server.target)


def together(*tasks: Callable[[], Any]) -> list[BaseException]:
    """Run all at once; what they raised."""
    raised: list[BaseException] = []

    def run(task: Callable[[], Any]) -> None:
        try:
            task()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return raised


@firestore.transactional
def increment(transaction: Any, ref: Any) -> None:
    found = ref.get(transaction=transaction).to_dict() or {"n": 0}
    transaction.set(ref, {"n": found["n"] + 1})


@pytest.mark.parametrize(("threads", "each", "seconds"), [(8, 5, 2), (16, 13, 5), (20, 10, 5)])
def test_increments_of_one_document(db: Any, threads: int, each: int, seconds: float) -> None:
    ref = db.document("hot/counter")

    def work() -> None:
        for _ in range(each):
            increment(db.transaction(), ref)

    began = time.monotonic()
    assert together(*[work] * threads) == []
    assert time.monotonic() - began < seconds
    assert ref.get().to_dict() == {"n": threads * each}


def test_two_documents_in_opposite_orders_do_not_block_each_other(db: Any) -> None:
    first, second = db.document("pair/a"), db.document("pair/b")

    @firestore.transactional
    def move(transaction: Any, refs: Any) -> None:
        found = [ref.get(transaction=transaction).to_dict() or {"n": 0} for ref in refs]
        for ref, was in zip(refs, found, strict=True):
            transaction.set(ref, {"n": was["n"] + 1})

    def work(refs: Any) -> None:
        for _ in range(5):
            move(db.transaction(max_attempts=20), refs)

    orders = [(first, second), (second, first)] * 3
    began = time.monotonic()
    assert together(*[lambda refs=refs: work(refs) for refs in orders]) == []
    assert time.monotonic() - began < 8
    assert first.get().to_dict() == second.get().to_dict() == {"n": 30}


def test_write_skew_is_refused(db: Any) -> None:
    """Each may leave while another is on duty: two at once must not both leave."""
    doctors = [db.document("doctors/a"), db.document("doctors/b")]
    for doctor in doctors:
        doctor.set({"on": True})
    first, second = db.transaction(), db.transaction()
    for transaction, leaving in ((first, doctors[0]), (second, doctors[1])):
        transaction._begin()
        on = [d for d in doctors if d.get(transaction=transaction).get("on")]
        assert len(on) == 2
        transaction.update(leaving, {"on": False})
    first._commit()
    with pytest.raises(exceptions.Aborted):
        second._commit()
    assert doctors[1].get().get("on")


@pytest.mark.parametrize(
    ("change", "conflicts"),
    [
        (lambda col: col.document("new").set({"owner": "x"}), True),
        (lambda col: col.document("old").delete(), True),
        (lambda col: col.document("old").update({"owner": "y"}), True),
        (lambda col: col.document("old").update({"note": 1}), True),
        (lambda col: col.document("other").update({"owner": "x"}), True),
        (lambda col: col.document("new").set({"owner": "y"}), False),
        (lambda col: col.document("other").update({"note": 1}), False),
        (lambda col: col.document("old").update({"owner": "x"}), False),
    ],
    ids=["enters", "deleted", "leaves", "changes", "moves in", "elsewhere", "other", "same"],
)
@pytest.mark.parametrize("ask", ["query", "count"])
def test_phantoms(db: Any, change: Any, conflicts: bool, ask: str) -> None:
    col = db.collection("resources")
    col.document("old").set({"owner": "x"})
    col.document("other").set({"owner": "z"})
    query = col.where(filter=FieldFilter("owner", "==", "x"))
    transaction = db.transaction()
    transaction._begin()
    if ask == "query":
        assert [s.id for s in query.stream(transaction=transaction)] == ["old"]
    else:
        assert query.count().get(transaction=transaction)[0][0].value == 1
    transaction.set(db.document("claims/x"), {"seen": 1})
    change(col)
    if conflicts:
        with pytest.raises(exceptions.Aborted):
            transaction._commit()
    else:
        transaction._commit()
    assert db.document("claims/x").get().exists is not conflicts


def test_phantom_of_a_missing_document(db: Any) -> None:
    ref = db.document("maybe/a")
    transaction = db.transaction()
    transaction._begin()
    assert not ref.get(transaction=transaction).exists
    transaction.set(db.document("claims/a"), {})
    ref.set({})
    with pytest.raises(exceptions.Aborted):
        transaction._commit()


def test_at_most_so_many_by_query_under_contention(db: Any) -> None:
    """16 threads each add a document unless there are 10: the limit holds, and nobody starves."""
    col = db.collection("limited")

    @firestore.transactional
    def add(transaction: Any, name: str) -> None:
        query = col.where(filter=FieldFilter("kind", "==", "x"))
        if len(list(query.stream(transaction=transaction))) < 10:
            transaction.create(col.document(name), {"kind": "x"})

    tasks = [lambda n=n: add(db.transaction(), f"{n}") for n in range(16)]
    assert together(*tasks) == []
    assert len(list(col.stream())) == 10


def test_a_doomed_transaction_still_sees_one_moment(db: Any) -> None:
    a, b = db.document("both/a"), db.document("both/b")
    a.set({"n": 1})
    b.set({"n": -1})
    transaction = db.transaction()
    transaction._begin()
    assert a.get(transaction=transaction).get("n") == 1
    batch = db.batch()
    batch.set(a, {"n": 2})
    batch.set(b, {"n": -2})
    batch.create(db.document("both/c"), {"n": 0})
    batch.commit()
    assert b.get(transaction=transaction).get("n") == -1
    found = {s.id: s.get("n") for s in db.collection("both").stream(transaction=transaction)}
    assert found == {"a": 1, "b": -1}
    transaction.set(a, {"n": 9})
    with pytest.raises(exceptions.Aborted):
        transaction._commit()


def test_a_later_read_sees_the_newest_where_nothing_read_has_changed(db: Any) -> None:
    a, b = db.document("late/a"), db.document("late/b")
    a.set({"n": 1})
    transaction = db.transaction()
    transaction._begin()
    a.get(transaction=transaction)
    b.set({"n": 5})
    assert b.get(transaction=transaction).get("n") == 5
    transaction.set(a, {"n": 2})
    transaction._commit()


def test_abandoned_transactions_block_nobody(db: Any) -> None:
    ref = db.document("hot/abandoned")
    assert together(*[lambda: increment(db.transaction(), ref)] * 8) == []  # now it is hot
    for _ in range(3):
        abandoned = db.transaction()
        abandoned._begin()
        ref.get(transaction=abandoned)
    began = time.monotonic()
    increment(db.transaction(), ref)
    assert time.monotonic() - began < 3
    assert ref.get().to_dict() == {"n": 9}


def test_blind_writes_and_transactions_on_one_document(db: Any) -> None:
    ref = db.document("hot/mixed")
    ref.set({"n": 0, "blind": 0})

    @firestore.transactional
    def change(transaction: Any) -> None:
        found = ref.get(transaction=transaction).get("n")
        transaction.update(ref, {"n": found + 1})

    def blind() -> None:
        for _ in range(30):
            ref.update({"blind": firestore.Increment(1)})

    def careful() -> None:
        for _ in range(10):
            change(db.transaction(max_attempts=20))

    assert together(*[blind] * 4, *[careful] * 4) == []
    assert ref.get().to_dict() == {"n": 40, "blind": 120}


def test_create_has_one_winner(db: Any) -> None:
    won: list[int] = []

    def race() -> None:
        for n in range(20):
            try:
                db.document(f"race/{n}").create({})
                won.append(n)
            except exceptions.AlreadyExists:
                pass

    assert together(*[race] * 8) == []
    assert sorted(won) == list(range(20))


def test_random_transfers_keep_the_sum(db: Any, server: FirestoreServer) -> None:
    """Accounts are summed by query in each transaction: every one sees the whole sum."""
    col = db.collection("accounts")
    for n in range(4):
        col.document(f"{n}").set({"open": True, "n": 100})
    aborts = get(f"{server.control_url}/metrics")["total"]["aborts"]

    @firestore.transactional
    def transfer(transaction: Any, dice: random.Random) -> int:
        query = col.where(filter=FieldFilter("open", "==", True))
        found = {s.reference: s.get("n") for s in query.stream(transaction=transaction)}
        source, goal = dice.sample(sorted(found, key=lambda ref: ref.id), 2)
        amount = dice.randint(1, 50)
        transaction.update(source, {"n": found[source] - amount})
        transaction.update(goal, {"n": found[goal] + amount})
        return int(sum(found.values()))

    sums: list[int] = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(10):
            sums.append(transfer(db.transaction(max_attempts=20), dice))

    assert together(*[lambda seed=seed: work(seed) for seed in range(6)]) == []
    assert set(sums) == {400}
    assert len(sums) == 60
    assert sum(s.get("n") for s in col.stream()) == 400
    assert get(f"{server.control_url}/metrics")["total"]["aborts"] > aborts  # they did collide


def test_commit_times_order_what_happens_one_after_another(db: Any) -> None:
    times: list[Any] = []
    lock = threading.Lock()

    def work(n: int) -> None:
        last = None
        for _ in range(20):
            began = max(times, default=None)
            at = db.document(f"times/{n}").set({"x": random.random()}).update_time
            with lock:
                times.append(at)
            assert last is None or last < at
            assert began is None or began < at
            last = at

    assert together(*[lambda n=n: work(n) for n in range(8)]) == []
    assert len(set(times)) == 160


def test_read_time_of_a_transaction_is_on_the_clock_of_commits(db: Any) -> None:
    ref = db.document("clock/a")
    before = ref.set({"x": 1}).update_time
    transaction = db.transaction()
    transaction._begin()
    read = ref.get(transaction=transaction).read_time
    transaction._rollback()
    after = ref.set({"x": 2}).update_time
    assert before <= read < after


def test_transactions_of_different_databases_are_apart(server: FirestoreServer) -> None:
    one, two = client(server.target, "apart", "one"), client(server.target, "apart", "two")
    transaction = one.transaction()
    transaction._begin()
    request = {"database": two._database_string, "transaction": transaction._id}
    with pytest.raises(exceptions.InvalidArgument):
        two._firestore_api.rollback(request=request, metadata=two._rpc_metadata)


def test_more_changes_than_the_history_keeps(tmp_path: Path) -> None:
    """A transaction whose moment is forgotten is aborted, never served something else."""
    with embedded(tmp_path) as server:
        db = client(server.target)
        ref = db.document("old/a")
        ref.set({"n": 1})
        transaction = db.transaction()
        transaction._begin()
        ref.get(transaction=transaction)
        for n in range(45):
            db.document("big/a").set({"x": f"{n:03}" + "x" * 900_000})
        transaction.set(ref, {"n": 2})
        with pytest.raises(exceptions.Aborted):
            transaction._commit()
        increment(db.transaction(), ref)
        assert ref.get().get("n") == 2
