"""The control port of the embedded Firestore: counters, faults, the clock; and expiry."""

from __future__ import annotations

import datetime
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore import FieldFilter
from nsps_local.firestore import FirestoreServer
from nsps_testing.waiting import wait_for

from tests.local_cloud.firestore_kit import client, embedded, get, ids, post


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FirestoreServer]:
    with embedded(tmp_path) as running:
        yield running


@pytest.fixture
def db(server: FirestoreServer) -> firestore.Client:
    return client(server.target)


def test_counts_are_what_is_billed(server: Any, db: Any) -> None:
    for n in range(3):
        db.document(f"a/{n}").set({"n": n})
    db.document("a/0").get()
    db.document("a/missing").get()
    ids(db.collection("a"))
    ids(db.collection("a").where(filter=FieldFilter("n", "==", 99)))
    db.collection("a").count().get()
    db.document("b/x").set({"n": firestore.Increment(1)})
    db.document("b/x").delete()
    metrics = get(f"{server.control_url}/metrics")
    assert metrics["total"] == {
        "reads": 2 + 3 + 1 + 1,
        "writes": 4,
        "deletes": 1,
        "transactions": 0,
        "aborts": 0,
    }
    assert metrics["groups"] == {"a": {"reads": 7, "writes": 3}, "b": {"writes": 1, "deletes": 1}}
    post(f"{server.control_url}/metrics/reset")
    assert get(f"{server.control_url}/metrics")["total"]["reads"] == 0


def test_counts_by_caller_and_transactions(server: Any) -> None:
    db = client(server.target)
    db._rpc_metadata.append(("x-goog-api-client", "nsps-enrichment"))
    ref = db.document("a/b")
    one, two = db.transaction(), db.transaction()
    for transaction in (one, two):
        transaction._begin()
        ref.get(transaction=transaction)
        transaction.set(ref, {"by": transaction._id})
    one._commit()
    with pytest.raises(exceptions.Aborted):
        two._commit()
    metrics = get(f"{server.control_url}/metrics")
    assert metrics["callers"] == {
        "nsps-enrichment": {"transactions": 2, "reads": 2, "writes": 1, "aborts": 1}
    }


def test_aborted_commits_are_run_again(server: Any, db: Any) -> None:
    post(f"{server.control_url}/faults", {"abort_percent": 50, "seed": 1})
    ref = db.document("a/b")

    @firestore.transactional
    def increment(transaction: Any) -> None:
        found = ref.get(transaction=transaction).to_dict() or {"n": 0}
        transaction.set(ref, {"n": found["n"] + 1})

    for _ in range(20):
        increment(db.transaction(max_attempts=50))
    assert ref.get().get("n") == 20
    assert get(f"{server.control_url}/metrics")["total"]["aborts"] > 5
    post(f"{server.control_url}/faults", {"abort_percent": 100})
    with pytest.raises(exceptions.Aborted):
        ref.set({"n": 0})
    assert ref.get().get("n") == 20


def test_lost_answers_are_applied(server: Any, db: Any) -> None:
    post(f"{server.control_url}/faults", {"lost_percent": 100})
    ref = db.document("a/b")
    with pytest.raises(exceptions.ServiceUnavailable):
        ref.set({"n": 1}, retry=None)
    post(f"{server.control_url}/faults")
    assert ref.get().get("n") == 1


def test_lost_answer_of_create_reads_as_already_exists_when_tried_again(
    server: Any, db: Any
) -> None:
    post(f"{server.control_url}/faults", {"lost_percent": 50, "seed": 3})
    outcomes = set()
    for n in range(12):
        try:
            db.document(f"a/{n}").create({})
            outcomes.add("created")
        except exceptions.AlreadyExists:
            outcomes.add("exists")
    assert outcomes == {"created", "exists"}
    assert len(ids(db.collection("a"))) == 12


def test_unavailable_is_nothing_done(server: Any, db: Any) -> None:
    ref = db.document("a/b")
    post(f"{server.control_url}/faults", {"unavailable_percent": 100})
    with pytest.raises(exceptions.ServiceUnavailable):
        ref.set({"n": 1}, retry=None)
    with pytest.raises(exceptions.ServiceUnavailable):
        ref.get(retry=None)
    with pytest.raises(exceptions.ServiceUnavailable):
        list(db.collection("a").stream(retry=None))
    post(f"{server.control_url}/faults", {})
    assert not ref.get().exists


def test_faults_of_one_collection_group(server: Any, db: Any) -> None:
    post(f"{server.control_url}/faults", {"unavailable_percent": 100, "collection_group": "ledger"})
    db.document("history/a").set({})
    with pytest.raises(exceptions.ServiceUnavailable):
        db.document("x/y/ledger/a").set({}, retry=None)
    batch = db.batch()
    batch.set(db.document("history/b"), {})
    batch.set(db.document("ledger/b"), {})
    with pytest.raises(exceptions.ServiceUnavailable):
        batch.commit(retry=None)
    assert ids(db.collection("history")) == ["a"]


def test_delay(server: Any, db: Any) -> None:
    post(f"{server.control_url}/faults", {"delay_seconds": 0.2})
    began = time.monotonic()
    db.document("a/b").get()
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize(
    "body",
    [
        {"abort_percent": 101},
        {"abort_percent": "all"},
        {"abort_percent": True},
        {"delay_seconds": -1},
        {"abort_precent": 5},
        {"collection_group": 7},
    ],
)
def test_faults_that_make_no_sense_change_nothing(server: Any, db: Any, body: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        post(f"{server.control_url}/faults", body)
    assert refusal.value.code == 400
    assert "error" in json.load(refusal.value)
    db.document("a/b").set({})


def test_unknown_route_names_the_known(server: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        get(f"{server.control_url}/metric")
    assert refusal.value.code == 404
    assert "GET /metrics" in json.load(refusal.value)["error"]


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /faults HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /faults HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        b"POST /faults HTTP/1.1\r\nContent-Length: 1\r\n\r\n[",
        b"POST /faults HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_bytes_that_are_no_request_get_400(server: Any, raw: bytes) -> None:
    host, port = server.control_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw)
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert get(f"{server.control_url}/health") == {"status": "ok"}


def test_clock_moves_ahead_and_stays_there(tmp_path: Path) -> None:
    with embedded(tmp_path) as server:
        ref = client(server.target, "p").document("a/b")
        before = ref.set({"n": 1}).update_time
        post(f"{server.control_url}/clock", {"advance": 7200})
        after = ref.set({"n": 2}).update_time
        assert datetime.timedelta(hours=2) < after - before < datetime.timedelta(hours=2.01)
        assert ref.get().read_time > after
        for wrong in ({"advance": -1}, {"advance": "1"}, {"back": 1}):
            with pytest.raises(urllib.error.HTTPError):
                post(f"{server.control_url}/clock", wrong)
    with embedded(tmp_path) as server:
        ref = client(server.target, "p").document("a/b")
        assert ref.set({"n": 3}).update_time > after


def test_expired_documents_are_deleted(tmp_path: Path) -> None:
    with embedded(tmp_path, ttl=["history.expire_at", "parked.meta.until"]) as server:
        db = client(server.target)
        now = datetime.datetime.now(datetime.UTC)

        def later(hours: float) -> datetime.datetime:
            return now + datetime.timedelta(hours=hours)

        db.document("history/soon").set({"expire_at": later(1)})
        db.document("history/later").set({"expire_at": later(100)})
        db.document("history/never").set({"expire_at": "soon"})
        db.document("history/none").set({})
        db.document("x/y/history/below").set({"expire_at": later(1)})
        db.document("parked/a").set({"meta": {"until": later(1)}})
        db.document("other/a").set({"expire_at": later(-1)})
        db.document("history/past").set({"expire_at": later(-1)})
        wait_for(lambda: not db.document("history/past").get().exists)
        assert ids(db.collection("history")) == ["later", "never", "none", "soon"]

        post(f"{server.control_url}/clock", {"advance": 2 * 3600})
        assert ids(db.collection("history")) == ["later", "never", "none"]
        assert ids(db.collection("parked")) == ids(db.collection("x/y/history")) == []
        assert ids(db.collection("other")) == ["a"]
        assert get(f"{server.control_url}/metrics")["callers"]["ttl"] == {"deletes": 4}


def test_requests_that_make_no_sense(db: Any) -> None:
    api = db._firestore_api
    for name in ("", "projects/p", "projects/p/databases/d/documents/a", "x/p/y/d/documents/a/b"):
        with pytest.raises(exceptions.InvalidArgument):
            api.get_document(request={"name": name})
    with pytest.raises(exceptions.InvalidArgument):
        api.commit(request={"database": db._database_string, "writes": [{}]})
    with pytest.raises(exceptions.InvalidArgument):
        name = "projects/other/databases/d/documents/a/b"
        api.commit(request={"database": db._database_string, "writes": [{"delete": name}]})
    with pytest.raises(exceptions.InvalidArgument):
        api.rollback(request={"database": db._database_string, "transaction": b"nonsense"})


def test_commit_over_10_mib(db: Any) -> None:
    batch = db.batch()
    for n in range(12):
        batch.set(db.document(f"a/{n}"), {"x": "x" * 1_000_000})
    with pytest.raises(exceptions.InvalidArgument, match="exceeds the limit"):
        batch.commit()
    assert ids(db.collection("a")) == []


def test_batch_write_over_10_mib(db: Any) -> None:
    """The writes of a BatchWrite succeed or fail one by one, but not those of a refused request."""
    root = f"{db._database_string}/documents"
    writes = [
        {"update": {"name": f"{root}/big/{n}", "fields": {"x": {"string_value": "a" * 999_999}}}}
        for n in range(11)
    ]
    request = {"database": db._database_string, "writes": writes}
    with pytest.raises(exceptions.InvalidArgument, match="10485760"):
        db._firestore_api.batch_write(request=request, metadata=db._rpc_metadata)
    assert not ids(db.collection("big"))
    request = {"database": db._database_string, "writes": writes[:10]}
    answer = db._firestore_api.batch_write(request=request, metadata=db._rpc_metadata)
    assert [status.code for status in answer.status] == [0] * 10


def test_create_update_delete_document_methods(db: Any) -> None:
    api = db._firestore_api
    parent = f"{db._database_string}/documents"
    made = api.create_document(
        request={"parent": parent, "collection_id": "a", "document": {"fields": {}}}
    )
    assert len(made.name.rsplit("/", 1)[1]) == 20
    value = {"x": {"integer_value": 3}, "y": {"integer_value": 4}}
    request: dict[str, Any] = {"document": {"name": made.name, "fields": value}}
    answer = api.update_document(request={**request, "mask": {"field_paths": ["y"]}})
    assert list(answer.fields) == ["y"]
    request["update_mask"] = {"field_paths": ["x"]}
    assert api.update_document(request=request).fields["y"].integer_value == 4
    api.delete_document(request={"name": made.name})
    with pytest.raises(exceptions.NotFound):
        api.get_document(request={"name": made.name})
