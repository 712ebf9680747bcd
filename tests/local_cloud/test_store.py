"""The store's transactions, and those that build on what an earlier one knew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from unittest import mock

import pytest
from google.api_core.exceptions import InvalidArgument
from google.cloud.firestore import DocumentReference, Increment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nsps.cloud.store import Known, StoreUnavailable, Tx
from nsps_local.firestore import FirestoreServer

from tests.local_cloud.firestore_kit import get, new_store, post


class Rig:
    """A store with two documents of which one is there, and what its server counts."""

    def __init__(self, server: FirestoreServer) -> None:
        self.seconds = 100.0
        self.store = new_store(server.target, clock=lambda: self.seconds)
        self.url = server.control_url
        self.there = self.store.client.document("things", "there")
        self.new = self.store.client.document("things", "new")
        self.there.set({"n": 1, "other": "stays"})
        self.runs = 0
        self.knew, known = self.store.transact_on(None, self.look)
        assert known is not None
        self.known: Known = known

    def look(self, tx: Tx) -> dict[str, Any]:
        """Reads both, writes one."""
        found = tx.read([self.there, self.new])
        tx.merge(self.there, {"n": 2, "seen": Increment(1)})
        return found

    def add(self, *references: DocumentReference) -> Callable[[Tx], list[int]]:
        """A body that counts each of these up."""

        def body(tx: Tx) -> list[int]:
            self.runs += 1
            found = tx.read(references)
            before = [int((found[each.path] or {}).get("n", 0)) for each in references]
            for each, number in zip(references, before, strict=True):
                tx.merge(each, {"n": number + 1})
            return before

        return body

    def counted(self, what: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
        before = get(f"{self.url}/metrics")["total"]
        result = what()
        after = get(f"{self.url}/metrics")["total"]
        return result, {name: after[name] - before[name] for name in after}

    def fields(self, reference: DocumentReference) -> dict[str, Any] | None:
        return self.store.read(reference)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirestoreServer]:
    with FirestoreServer(tmp_path_factory.mktemp("firestore")) as running:
        yield running


@pytest.fixture
def rig(server: FirestoreServer) -> Iterator[Rig]:
    yield Rig(server)
    post(f"{server.control_url}/faults", {})


def test_what_is_known_is_not_read_again(rig: Rig) -> None:
    both = rig.add(rig.there, rig.new)
    (before, known), done = rig.counted(lambda: rig.store.transact_on(rig.known, both))
    assert before == [2, 0]
    assert (done["reads"], done["writes"], done["transactions"]) == (0, 2, 0)
    assert rig.fields(rig.there) == {"n": 3, "other": "stays", "seen": 1}
    assert rig.fields(rig.new) == {"n": 1}
    (again, _), done = rig.counted(lambda: rig.store.transact_on(known, both))
    assert again == [3, 1]
    assert done["reads"] == 0


def test_what_has_changed_meanwhile_is_read(rig: Rig) -> None:
    rig.there.update({"n": 40})
    before, _ = rig.store.transact_on(rig.known, rig.add(rig.there, rig.new))
    assert before == [40, 0]
    assert rig.runs == 2
    assert (rig.fields(rig.new) or {})["n"] == 1


def test_a_document_that_has_appeared_meanwhile_is_read(rig: Rig) -> None:
    rig.new.set({"n": 7})
    assert rig.store.transact_on(rig.known, rig.add(rig.there, rig.new))[0] == [2, 7]
    assert (rig.fields(rig.there) or {})["n"] == 3


def test_a_document_that_is_gone_meanwhile_is_read(rig: Rig) -> None:
    rig.there.delete()
    assert rig.store.transact_on(rig.known, rig.add(rig.there))[0] == [0]


def test_a_document_that_is_written_back_as_it_was_counts_as_changed(rig: Rig) -> None:
    rig.there.update({"n": 3})
    rig.there.update({"n": 2})
    rig.store.transact_on(rig.known, rig.add(rig.there))
    assert rig.runs == 2


def test_a_read_that_is_not_written_has_no_condition_hence_a_transaction(rig: Rig) -> None:
    def body(tx: Tx) -> int:
        rig.runs += 1
        tx.read([rig.there, rig.new])
        tx.merge(rig.there, {"n": 9})
        return rig.runs

    assert rig.store.transact_on(rig.known, body)[0] == 2


def test_a_query_and_an_unknown_document_need_a_transaction(rig: Rig) -> None:
    other = rig.store.client.document("things", "other")
    rig.store.transact_on(rig.known, rig.add(other))
    assert rig.runs == 2
    things = rig.store.client.collection("things")
    found, _ = rig.store.transact_on(rig.known, lambda tx: tx.query(things, "n", 2))
    assert rig.there.path in found


def test_a_counter_of_the_server_is_not_known_as_a_number(rig: Rig) -> None:
    fields, _ = rig.known.documents[rig.there.path]
    assert fields == {"n": 2, "other": "stays"}


def test_the_time_goes_on_with_the_clock(rig: Rig) -> None:
    rig.seconds += 7.0
    now, _ = rig.store.transact_on(rig.known, lambda tx: (rig.add(rig.there)(tx), tx.now)[1])
    assert now == rig.known.read_at + timedelta(seconds=7)


def test_an_answer_that_is_lost_leaves_the_commit_in_doubt(rig: Rig) -> None:
    """As with any transaction: whoever runs it again finds what it did."""

    def once(tx: Tx) -> bool:
        found = (tx.read([rig.there])[rig.there.path] or {}).get("by") == "me"
        tx.merge(rig.there, {"by": "me"})
        return found

    post(f"{rig.url}/faults", {"lost_percent": 100, "seed": 1})
    with pytest.raises(StoreUnavailable):
        rig.store.transact_on(rig.known, once)
    post(f"{rig.url}/faults", {})
    assert rig.store.transact_on(rig.known, once)[0]


def test_an_aborted_commit_becomes_a_transaction(rig: Rig) -> None:
    ages = replace(rig.known, documents={})
    assert rig.store.transact_on(ages, rig.add(rig.there))[0] == [2]


def test_a_transaction_begins_with_its_first_read(rig: Rig) -> None:
    channel = rig.store.documents._channel
    with mock.patch.object(channel, "call", wraps=channel.call) as call:
        _, done = rig.counted(lambda: rig.store.transact(rig.add(rig.there, rig.new)))
    assert [given.args[0].name for given in call.call_args_list] == ["BatchGetDocuments", "Commit"]
    assert (done["reads"], done["writes"], done["transactions"]) == (2, 2, 1)


def test_what_changes_between_read_and_commit_is_read_again(rig: Rig) -> None:
    def body(tx: Tx) -> list[int]:
        found = rig.add(rig.there)(tx)
        if rig.runs == 1:
            rig.there.update({"n": 40})
        return found

    assert rig.store.transact(body) == [40]
    assert (rig.fields(rig.there) or {})["n"] == 41


def test_a_commit_that_is_always_aborted_is_given_up(rig: Rig) -> None:
    post(f"{rig.url}/faults", {"abort_percent": 100})
    with pytest.raises(StoreUnavailable, match="Aborted, 3 times"):
        rig.store.transact(rig.add(rig.there), attempts=3)
    assert rig.runs == 3


def test_a_body_that_fails_ends_its_transaction(rig: Rig) -> None:
    """Else its locks would hold others up until the transaction expires."""
    begun: list[Any] = []

    def body(tx: Any) -> None:
        tx.read([rig.there])
        begun.append(tx._transaction)
        raise LookupError

    with pytest.raises(LookupError):
        rig.store.transact(body)
    with pytest.raises(InvalidArgument, match="no longer valid"):
        rig.store.documents.commit([], begun[0])


_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _TEXT | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner.filter(lambda v: not isinstance(v, list)), max_size=3)
        | st.dictionaries(_TEXT, inner, max_size=3)
    ),
    max_leaves=6,
)
_FIELDS = st.dictionaries(st.sampled_from(["state", "results", "retry"]), _VALUES, min_size=1)


def _look(tx: Tx, at: DocumentReference) -> None:
    tx.read([at])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=_FIELDS, then=_FIELDS)
def test_both_ways_leave_the_same_document(
    rig: Rig, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """Whatever names and values people's data holds, written anew or over what was there."""
    left = []
    for knows in (False, True):
        document = rig.store.client.collection("pairs").document()
        known = rig.store.transact_on(None, partial(_look, at=document))[1]
        for fields in (first, then):

            def body(tx: Tx, at: DocumentReference = document, new: Any = fields) -> None:
                tx.read([at])
                tx.merge(at, new)

            _, known = rig.store.transact_on(known if knows else None, body)
            assert known is not None
            assert known.documents[document.path][0] == rig.fields(document)
        left.append(rig.fields(document))
    assert left[0] == left[1]
