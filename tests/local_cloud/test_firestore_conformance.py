"""What the real client sees of Firestore: the same of our server and of Google's emulator."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore import And, FieldFilter, Or
from google.cloud.firestore_v1.vector import Vector
from google.protobuf.timestamp_pb2 import Timestamp
from nsps_testing.waiting import wait_for

from tests.local_cloud.firestore_kit import GOOGLE_PACKAGE, client, embedded, google, ids

GOOGLE_DIFFERS = {
    "test_create_twice_in_one_commit": "INVALID_ARGUMENT: cannot insert then insert",
    "test_commit_time_of_an_empty_commit": "answers without a commit time",
    "test_names_over_6_kib": "stores any",
    "test_more_than_40000_index_entries": "stores any",
    "test_more_than_500_transforms_of_a_document": "stores any",
    "test_text_that_is_no_utf8": "UNKNOWN, without a reason",
    "test_aggregations_that_are_refused: six": "UNKNOWN, without a reason",
    "test_lists_at_a_time_that_cannot_be": "lists at any time",
    "test_numeric_ids_come_last_downwards": "FAILED_PRECONDITION: no descending key scans",
    "test_queries: down by name": "FAILED_PRECONDITION: no descending key scans",
}
"""Where Google's emulator does otherwise than the embedded server: test, what it does."""


@pytest.fixture(scope="module", params=["embedded", "google"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    state: Path = tmp_path_factory.mktemp("firestore")
    if request.param == "embedded":
        with embedded(state) as server:
            yield server.target
        return
    with google(state / "log") as found:
        if found is None:
            pytest.skip(f"Google's emulator (package {GOOGLE_PACKAGE}) is not installed")
        yield found


@pytest.fixture(autouse=True)
def known_differences(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is None or callspec.params.get("target") != "google":
        return
    name = request.function.__name__
    reason = GOOGLE_DIFFERS.get(name) or GOOGLE_DIFFERS.get(
        f"{name}: {callspec.params.get('name')}"
    )
    if reason:
        request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture
def db(target: str) -> firestore.Client:
    return client(target)


@pytest.fixture
def ref(db: firestore.Client) -> firestore.DocumentReference:
    return db.document("things/a")


def data(ref: firestore.DocumentReference) -> Any:
    return ref.get().to_dict()


# Documents


def test_values_come_back_as_they_were_written(ref: Any) -> None:
    moment = datetime.datetime(2026, 11, 21, 8, 30, 1, 123456, tzinfo=datetime.UTC)
    written = {
        "null": None,
        "bool": True,
        "int": -(2**63),
        "float": 1.5e300,
        "text": "Zürich \0 😀",
        "bytes": b"\0\xff",
        "time": moment,
        "list": [1, "two", {"three": 3}],
        "map": {"a": {"b": {}}, "odd name.": 1},
        "ref": ref,
        "place": firestore.GeoPoint(47.4, 8.5),
        "vector": Vector([1.0, 2.0]),
        "empty": [],
    }
    ref.set(written)
    assert data(ref) == written


def test_get_of_a_missing_document_has_a_read_time(ref: Any) -> None:
    snapshot = ref.get()
    assert not snapshot.exists
    assert snapshot.read_time is not None
    assert snapshot.update_time is None


def test_create_update_and_read_times(ref: Any) -> None:
    first = ref.set({"x": 1}).update_time
    second = ref.set({"x": 2}).update_time
    snapshot = ref.get()
    assert (snapshot.create_time, snapshot.update_time) == (first, second)
    assert first < second <= snapshot.read_time


def test_a_write_that_changes_nothing_keeps_the_update_time(ref: Any) -> None:
    first = ref.set({"x": {"b": 1, "a": [2]}}).update_time
    assert ref.set({"x": {"a": [2], "b": 1}}).update_time == first


def test_create_twice(ref: Any) -> None:
    ref.create({"x": 1})
    with pytest.raises(exceptions.AlreadyExists):
        ref.create({"x": 2})
    assert data(ref) == {"x": 1}


def test_update_of_a_missing_document(ref: Any) -> None:
    with pytest.raises(exceptions.NotFound):
        ref.update({"x": 1})
    assert not ref.get().exists


def test_delete_is_idempotent_unless_it_must_exist(db: Any, ref: Any) -> None:
    ref.delete()
    with pytest.raises(exceptions.NotFound):
        ref.delete(option=db.write_option(exists=True))
    ref.set({})
    ref.delete(option=db.write_option(exists=True))
    assert not ref.get().exists


def test_update_time_precondition(db: Any, ref: Any) -> None:
    old = ref.set({"x": 1}).update_time
    new = ref.set({"x": 2}).update_time
    with pytest.raises(exceptions.FailedPrecondition):
        ref.update({"x": 3}, option=db.write_option(last_update_time=old))
    with pytest.raises(exceptions.FailedPrecondition):
        ref.delete(option=db.write_option(last_update_time=old))
    ref.update({"x": 3}, option=db.write_option(last_update_time=new))
    assert data(ref) == {"x": 3}


def test_update_time_precondition_that_no_document_can_have(db: Any, ref: Any) -> None:
    """Later than the document's last change, or finer than a clock's microsecond: a mistake."""
    now = ref.set({"x": 1}).update_time
    later = db.write_option(last_update_time=now + datetime.timedelta(hours=1))
    with pytest.raises(exceptions.InvalidArgument):
        ref.update({"x": 2}, option=later)
    with pytest.raises(exceptions.InvalidArgument):
        ref.delete(option=later)
    finer = Timestamp(seconds=1_700_000_000, nanos=123_456_789)
    with pytest.raises(exceptions.InvalidArgument):
        ref.delete(option=db.write_option(last_update_time=finer))
    assert data(ref) == {"x": 1}


def test_update_time_precondition_of_a_missing_document(db: Any, ref: Any) -> None:
    old = db.document("things/other").set({"x": 1}).update_time
    with pytest.raises((exceptions.NotFound, exceptions.FailedPrecondition)):
        ref.update({"x": 3}, option=db.write_option(last_update_time=old))


def test_nested_updates_and_deleted_fields(ref: Any) -> None:
    ref.set({"a": {"b": 1, "c": 2}, "d": 3, "e": {"f": {"g": 4}}})
    ref.update({"a.b": 10, "d": firestore.DELETE_FIELD, "e.f.h": 5, "new.deep": 6, "no.such": 1})
    ref.update({"no": firestore.DELETE_FIELD, "not.there": firestore.DELETE_FIELD})
    assert data(ref) == {
        "a": {"b": 10, "c": 2},
        "e": {"f": {"g": 4, "h": 5}},
        "new": {"deep": 6},
    }


def test_update_through_a_field_that_is_no_map_replaces_it(ref: Any) -> None:
    ref.set({"a": 1})
    ref.update({"a.b": 2})
    assert data(ref) == {"a": {"b": 2}}


def test_merge(ref: Any) -> None:
    ref.set({"a": {"b": 1}, "c": 2})
    ref.set({"a": {"d": 3}}, merge=True)
    ref.set({"c": 5, "a": {"x": 1}}, merge=["c"])
    ref.set({}, merge=True)
    assert data(ref) == {"a": {"b": 1, "d": 3}, "c": 5}


def test_merge_makes_the_document(ref: Any) -> None:
    ref.set({"a": 1}, merge=True)
    assert data(ref) == {"a": 1}


def test_odd_field_names(db: Any, ref: Any) -> None:
    ref.set({"a b": 1, "c.d": {"`": 2}, "0": 3})
    ref.update({db.field_path("c.d", "`"): 4, db.field_path("a b"): 5})
    assert data(ref) == {"a b": 5, "c.d": {"`": 4}, "0": 3}
    query = db.collection("things").where(filter=FieldFilter("`c.d`.`\\``", "==", 4))
    assert ids(query) == ["a"]


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (1, firestore.Increment(2), 3),
        (1, firestore.Increment(0.5), 1.5),
        ("text", firestore.Increment(2), 2),
        (2**63 - 1, firestore.Increment(5), 2**63 - 1),
        (-(2**63), firestore.Increment(-5), -(2**63)),
        (3, firestore.Maximum(4), 4),
        (3, firestore.Maximum(3.0), 3),
        (3, firestore.Minimum(2.5), 2.5),
        (None, firestore.Minimum(7), 7),
        ([1, 2], firestore.ArrayUnion([2, 3, 3]), [1, 2, 3]),
        ("text", firestore.ArrayUnion([1]), [1]),
        ([1, 2, 1.0, "1"], firestore.ArrayRemove([1]), [2, "1"]),
        ("text", firestore.ArrayRemove([1]), []),
    ],
)
def test_transforms(ref: Any, before: Any, change: Any, after: Any) -> None:
    ref.set({"x": before, "other": 1})
    ref.update({"x": change})
    assert data(ref) == {"x": after, "other": 1}
    assert type(data(ref)["x"]) is type(after)


def test_transforms_on_a_missing_document(ref: Any) -> None:
    ref.set({"n": firestore.Increment(2), "at": firestore.SERVER_TIMESTAMP}, merge=True)
    found = data(ref)
    assert found["n"] == 2
    assert abs(found["at"] - ref.get().update_time) < datetime.timedelta(seconds=1)


def test_server_timestamps_of_one_commit_are_equal(db: Any, ref: Any) -> None:
    other = db.document("things/b")
    batch = db.batch()
    batch.set(ref, {"at": firestore.SERVER_TIMESTAMP})
    batch.set(other, {"a": {"b": firestore.SERVER_TIMESTAMP}})
    batch.commit()
    assert data(ref)["at"] == data(other)["a"]["b"]
    assert data(ref)["at"].microsecond % 1000 == 0


def test_batch_is_atomic(db: Any, ref: Any) -> None:
    batch = db.batch()
    batch.set(ref, {"x": 1})
    batch.update(db.document("things/missing"), {"x": 1})
    with pytest.raises(exceptions.NotFound):
        batch.commit()
    assert not ref.get().exists


def test_batch_of_500(db: Any) -> None:
    batch = db.batch()
    for n in range(500):
        batch.set(db.document(f"many/{n:03}"), {"n": n})
    results = batch.commit()
    assert len({result.update_time for result in results}) == 1
    assert db.collection("many").count().get()[0][0].value == 500


def test_writes_of_one_batch_see_each_other(db: Any, ref: Any) -> None:
    batch = db.batch()
    batch.set(ref, {"n": 1})
    batch.update(ref, {"n": firestore.Increment(1), "m": 1})
    batch.commit()
    assert data(ref) == {"n": 2, "m": 1}


def test_delete_and_set_in_one_commit_is_a_new_document(db: Any, ref: Any) -> None:
    first = ref.set({"n": 1}).update_time
    batch = db.batch()
    batch.delete(ref)
    batch.set(ref, {"m": 1})
    batch.commit()
    snapshot = ref.get()
    assert snapshot.to_dict() == {"m": 1}
    assert snapshot.update_time > first


def test_create_twice_in_one_commit(db: Any, ref: Any) -> None:
    batch = db.batch()
    batch.create(ref, {})
    batch.create(ref, {})
    with pytest.raises(exceptions.AlreadyExists):
        batch.commit()


def test_commit_time_of_an_empty_commit(db: Any) -> None:
    batch = db.batch()
    batch.commit()
    assert batch.commit_time.timestamp() > 0


def test_bulk_writer_reports_each_write(db: Any) -> None:
    db.document("bulk/there").set({})
    failed: list[str] = []
    writer = db.bulk_writer()

    def note(failure: Any, _: Any) -> bool:
        failed.append(failure.operation.reference.id)
        return False

    writer.on_write_error(note)
    for name in ("one", "there", "two"):
        writer.create(db.document(f"bulk/{name}"), {"x": 1})
    writer.close()
    assert sorted(ids(db.collection("bulk"))) == ["one", "there", "two"]
    assert failed == ["there"]


@pytest.mark.parametrize(
    "bad",
    [
        {"x": [[1]]},
        {"__x__": 1},
        {"x": "a" * 1_048_577},
        {"x": "a" * 700_000, "y": "b" * 700_000},
        {"x" * 1501: 1},
        {"x" * 750: {"y" * 750: 1}},
        {"x" * 750: [{"y" * 750: 1}]},
    ],
    ids=[
        "array in array",
        "reserved name",
        "long value",
        "large document",
        "long name",
        "long path",
        "long path in an array",
    ],
)
def test_documents_that_are_refused(ref: Any, bad: Any) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        ref.set(bad)
    assert not ref.get().exists


def test_nearly_1_mib_is_stored(ref: Any) -> None:
    ref.set({"x": "a" * 1_040_000})
    assert len(data(ref)["x"]) == 1_040_000


@pytest.mark.parametrize(
    "name", ["__x__", "x" * 1501, "..", "__id007__", "__id0__", f"__id{2**63}__"]
)
def test_ids_that_are_refused(db: Any, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        db.collection("things").document(name).set({})


def test_a_collection_has_no_numeric_id(db: Any) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        db.document("__id5__/a").set({})


@pytest.mark.parametrize(
    "ask",
    [
        lambda c, path: c.document("a").update({path: 1}),
        lambda c, path: c.document("a").set({"x" * 750: {"y" * 750: 1}}, merge=[path]),
        lambda c, path: ids(c.where(filter=F(path, "==", 1))),
        lambda c, path: ids(c.order_by(path)),
        lambda c, path: c.sum(path).get(),
    ],
    ids=["update", "merge", "filter", "order", "sum"],
)
def test_field_paths_over_1500_bytes(db: Any, ask: Callable[[Any, str], Any]) -> None:
    col = fill(db, "paths", {"a": {"x" * 749: {"y" * 749: 1}}})
    col.document("a").update({f"{'x' * 749}.{'z' * 749}": 1})
    with pytest.raises(exceptions.InvalidArgument):
        ask(col, f"{'x' * 750}.{'y' * 750}")


def test_names_over_6_kib(db: Any) -> None:
    db.document("/".join(["n" * 1000] * 6)).set({"x": 1})
    with pytest.raises(exceptions.InvalidArgument):
        db.document("/".join(["n" * 1100] * 6)).set({"x": 1})


def test_more_than_40000_index_entries(ref: Any) -> None:
    """An array has an entry for each of its elements, and one each way for itself."""
    ref.set({"list": list(range(39_998))})
    with pytest.raises(exceptions.InvalidArgument):
        ref.set({"list": list(range(39_999))})
    with pytest.raises(exceptions.InvalidArgument):
        ref.set({"map": {f"f{n}": n for n in range(20_000)}})
    assert len(data(ref)["list"]) == 39_998


def increments(first: int, last: int) -> dict[str, Any]:
    return {f"f{n}": firestore.Increment(1) for n in range(first, last)}


def test_more_than_500_transforms_of_a_document(db: Any, ref: Any) -> None:
    ref.set(increments(0, 500))
    with pytest.raises(exceptions.InvalidArgument):
        ref.set(increments(0, 501))
    batch = db.batch()
    batch.update(ref, increments(0, 300))
    batch.set(db.document("things/other"), increments(0, 300))
    batch.commit()
    batch = db.batch()
    batch.update(ref, increments(0, 300))
    batch.update(ref, increments(300, 600))
    with pytest.raises(exceptions.InvalidArgument):
        batch.commit()
    assert data(ref)["f299"] == 2
    assert "f500" not in data(ref)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("GetDocument", "unary_unary"),
        ("RunQuery", "unary_stream"),
        ("Listen", "stream_stream"),
    ],
)
def test_text_that_is_no_utf8(db: Any, method: str, kind: str) -> None:
    """As a client of another language may send it; this one refuses it by itself."""
    channel = db._firestore_api.transport.grpc_channel
    call = getattr(channel, kind)(f"/google.firestore.v1.Firestore/{method}")
    raw = b"\x0a\x02\xff\xfe"  # the first field of each: a name
    request = iter([raw]) if kind == "stream_stream" else raw
    with pytest.raises(grpc.RpcError) as refused:
        list(call(request, metadata=db._rpc_metadata))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_get_all_and_projection(db: Any, ref: Any) -> None:
    ref.set({"a": {"b": 1, "c": 2}, "d": 3})
    missing = db.document("things/missing")
    found = {snap.id: snap for snap in db.get_all([ref, missing], field_paths=["a.b"])}
    assert found["a"].to_dict() == {"a": {"b": 1}}
    assert not found["missing"].exists
    assert found["a"].read_time == found["missing"].read_time


def test_databases_and_projects_are_apart(target: str) -> None:
    first, second = client(target, "one"), client(target, "one", "named")
    first.document("things/apart").set({"x": 1})
    second.document("things/apart").set({"x": 2})
    assert data(first.document("things/apart")) == {"x": 1}
    assert data(second.document("things/apart")) == {"x": 2}
    assert not client(target, "two").document("things/apart").get().exists


def test_collections_missing_parents_and_recursive_delete(db: Any) -> None:
    db.document("top/a/below/b").set({"x": 1})
    db.document("top/a/below/b/deep/c").set({"x": 1})
    db.document("top/z").set({"x": 1})
    db.document("top-2/a").set({"x": 1})
    assert sorted(c.id for c in db.collections()) == ["top", "top-2"]
    assert [c.id for c in db.document("top/a").collections()] == ["below"]
    assert [d.id for d in db.collection("top").list_documents()] == ["a", "z"]
    assert ids(db.collection("top")) == ["z"]
    assert db.recursive_delete(db.collection("top")) > 0
    assert [c.id for c in db.collections()] == ["top-2"]


def test_recursive_query_and_delete_find_every_document(db: Any) -> None:
    names = ["0", "7up", "A", "Zz", "_a", "__id5__", "a", "z", "\x01"]
    fill(db, "tree", {name: {"n": 1} for name in names})
    fill(db, "tree/Q/branch", {name: {"n": 2} for name in names})
    fill(db, "trees", {"A": {}})
    assert len(ids(db.collection("tree").recursive())) == 18
    assert len(ids(db.collection("tree/Q/branch").recursive())) == 9
    assert db.recursive_delete(db.collection("tree")) == 18
    assert [c.id for c in db.collections()] == ["trees"]


NUMBERED = [f"__id{number}__" for number in (-(2**63), -3, 5, 10, 2**63 - 1)]
NAMED = ["\0x", "\x01", "1", "A", "__ide", "_a", "z"]


def test_numeric_ids_come_before_texts(db: Any) -> None:
    sorted_names = NUMBERED + NAMED
    col = fill(db, "numbered", {name: {"n": 1} for name in reversed(sorted_names)})
    assert ids(col) == ids(col.order_by("__name__")) == sorted_names
    assert ids(col.where(filter=F("n", "==", 1))) == sorted_names
    for at, name in enumerate(sorted_names):
        after = col.order_by("__name__").start_after({"__name__": name})
        assert ids(after) == sorted_names[at + 1 :]
        upto = col.where(filter=F("__name__", "<=", col.document(name)))
        assert ids(upto) == sorted_names[: at + 1]
    listed = [document.id for document in col.list_documents(page_size=2)]
    assert listed == sorted_names
    down = col.order_by("n").order_by("__name__", direction="DESCENDING")
    assert ids(down) == sorted_names[::-1]


def test_numeric_ids_come_last_downwards(db: Any) -> None:
    col = fill(db, "downwards", {name: {} for name in NUMBERED + NAMED})
    assert ids(col.order_by("__name__", direction="DESCENDING")) == (NUMBERED + NAMED)[::-1]


def test_names_compare_by_segment(db: Any) -> None:
    """An exclamation mark sorts before the slash, yet a longer id sorts after the shorter."""
    col = fill(db, "segments", {"a": {}, "a!": {}, "b": {}})
    below = db.document("segments/a/deep/x")
    assert ids(col.where(filter=F("__name__", ">", below))) == ["a!", "b"]
    assert ids(col.where(filter=F("__name__", "<", below))) == ["a"]


def test_lists_at_a_time(db: Any) -> None:
    fill(db, "kept", {"a": {"n": 1}, "b": {"n": 1}})
    db.document("kept/only-below/deep/x").set({"n": 1})
    db.document("gone/a").set({})
    moment = db.document("kept/a").get().read_time
    db.document("kept/a").set({"n": 2})
    db.document("kept/c").set({"n": 2})
    db.document("kept/b").delete()
    db.document("kept/only-below/deep/x").delete()
    db.document("gone/a").delete()
    db.document("new/a").set({})
    col = db.collection("kept")
    assert [d.id for d in col.list_documents()] == ["a", "c"]
    assert [d.id for d in col.list_documents(read_time=moment)] == ["a", "b", "only-below"]
    assert [d.id for d in col.list_documents(page_size=1, read_time=moment)] == [
        "a",
        "b",
        "only-below",
    ]
    assert [c.id for c in db.collections()] == ["kept", "new"]
    assert [c.id for c in db.collections(read_time=moment)] == ["gone", "kept"]
    below = db.document("kept/only-below")
    assert [c.id for c in below.collections()] == []
    assert [c.id for c in below.collections(read_time=moment)] == ["deep"]


def test_lists_at_a_time_that_cannot_be(db: Any) -> None:
    db.document("kept/a").set({})
    moment = db.document("kept/a").get().read_time
    for wrong, refusal in (
        (moment + datetime.timedelta(hours=1), exceptions.InvalidArgument),
        (moment - datetime.timedelta(days=30), exceptions.FailedPrecondition),
    ):
        with pytest.raises(refusal):
            list(db.collection("kept").list_documents(read_time=wrong))
        with pytest.raises(refusal):
            list(db.collections(read_time=wrong))


def test_list_documents_in_pages(db: Any) -> None:
    for n in range(7):
        db.document(f"paged/{n}").set({})
    assert [d.id for d in db.collection("paged").list_documents(page_size=3)] == list("0123456")


# Queries

ORDERED = [
    None,
    False,
    True,
    math.nan,
    -math.inf,
    -1.5,
    0,
    2**53,
    2**53 + 1,
    1e300,
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "",
    "a",
    "a\0",
    "ab",
    "Ω",
    "😀",
    b"",
    b"a",
    firestore.GeoPoint(-1, 3),
    firestore.GeoPoint(1, 2),
    [],
    [1],
    [1, 0],
    ["a"],
    {},
    {"a": 1},
    {"a": 1, "b": 0},
    {"a": 2},
    {"b": 0},
]
"""One value of each kind and more, in Firestore's order across types."""


def fill(db: firestore.Client, name: str, documents: dict[str, Any]) -> Any:
    batch = db.batch()
    for key, fields in documents.items():
        batch.set(db.collection(name).document(key), fields)
    batch.commit()
    return db.collection(name)


def test_order_across_types(db: Any) -> None:
    names = [f"{n:02}" for n in range(len(ORDERED))]
    rows = {name: {"v": value} for name, value in zip(names, ORDERED, strict=True)}
    col = fill(db, "ordered", {**dict(reversed(rows.items())), "99": {"other": 1}})
    assert ids(col.order_by("v")) == names
    assert ids(col.order_by("v", direction="DESCENDING")) == names[::-1]


VALUES = {
    "null": None,
    "true": True,
    "nan": math.nan,
    "one": 1,
    "one.0": 1.0,
    "two": 2.5,
    "s": "s",
    "bytes": b"b",
    "list": [1, 2],
    "map": {"a": 1},
}
FILTERS = [
    ("<", 2, "one one.0"),
    ("<=", 1, "one one.0"),
    (">", 1, "two"),
    (">=", "r", "s"),
    ("!=", 1, "bytes list map nan s true two"),
    ("==", None, "null"),
    ("!=", None, "bytes list map nan one one.0 s true two"),
    ("==", math.nan, "nan"),
    ("!=", math.nan, "bytes list map one one.0 s true two"),
    ("==", 1.0, "one one.0"),
    ("not-in", [1, "s"], "bytes list map nan true two"),
    ("not-in", [None], ""),
    ("in", [1, None], "one one.0"),
    ("in", [1, "s"], "one one.0 s"),
    (">=", False, "true"),
    ("<", True, ""),
    ("array_contains", 1, "list"),
    ("array_contains", 3, ""),
    ("array_contains_any", [2, 9], "list"),
    (">", [1], "list"),
    (">", {"a": 0}, "map"),
    ("==", {"a": 1}, "map"),
    ("==", [1, 2], "list"),
]


@pytest.fixture(scope="module")
def values(target: str) -> Any:
    return fill(client(target), "values", {name: {"v": value} for name, value in VALUES.items()})


@pytest.mark.parametrize(("op", "value", "found"), FILTERS, ids=lambda part: repr(part)[:20])
def test_filters(values: Any, op: str, value: Any, found: str) -> None:
    assert sorted(ids(values.where(filter=FieldFilter("v", op, value)))) == found.split()


PEOPLE = {
    "ann": {"age": 30, "city": "Oslo", "tags": ["a", "b"], "home": {"zip": 1}},
    "bob": {"age": 25, "city": "Rome", "tags": ["b"], "home": {"zip": 2}},
    "cid": {"age": 30, "city": "Rome", "tags": [], "home": {"zip": 3}},
    "dee": {"age": 41, "city": "Oslo", "tags": ["c", "a"]},
    "eve": {"age": 25, "city": "Bern"},
    "fay": {"city": "Oslo"},
}
F = FieldFilter
Ask = Callable[[Any], Any]
QUERIES: dict[str, tuple[Ask, str]] = {
    "all": (lambda c: c, "ann bob cid dee eve fay"),
    "two equalities": (
        lambda c: c.where(filter=F("age", "==", 30)).where(filter=F("city", "==", "Rome")),
        "cid",
    ),
    "nested": (lambda c: c.where(filter=F("home.zip", ">=", 2)), "bob cid"),
    "order": (lambda c: c.order_by("age"), "bob eve ann cid dee"),
    "order down": (lambda c: c.order_by("age", direction="DESCENDING"), "dee cid ann eve bob"),
    "order by two": (
        lambda c: c.order_by("age", direction="DESCENDING").order_by("city"),
        "dee ann cid eve bob",
    ),
    "limit": (lambda c: c.order_by("age").limit(2), "bob eve"),
    "limit to last": (lambda c: c.order_by("age").limit_to_last(2), "cid dee"),
    "limit 0": (lambda c: c.limit(0), ""),
    "offset": (lambda c: c.order_by("age").offset(1).limit(2), "eve ann"),
    "offset beyond": (lambda c: c.offset(9), ""),
    "start at": (lambda c: c.order_by("age").start_at({"age": 30}), "ann cid dee"),
    "start after": (lambda c: c.order_by("age").start_after({"age": 25}), "ann cid dee"),
    "end at": (lambda c: c.order_by("age").end_at({"age": 30}), "bob eve ann cid"),
    "end before": (lambda c: c.order_by("age").end_before({"age": 30}), "bob eve"),
    "start after document": (
        lambda c: c.order_by("age").start_after(c.document("ann").get()),
        "cid dee",
    ),
    "down from a document to a value": (
        lambda c: (
            c.order_by("age", direction="DESCENDING")
            .start_at(c.document("cid").get())
            .end_at({"age": 26})
        ),
        "cid ann",
    ),
    "down by name": (lambda c: c.order_by("__name__", direction="DESCENDING").limit(2), "fay eve"),
    "name range": (
        lambda c: c.where(filter=F("__name__", ">", c.document("bob"))).limit(2),
        "cid dee",
    ),
    "name in": (
        lambda c: c.where(filter=F("__name__", "in", [c.document("fay"), c.document("ann")])),
        "ann fay",
    ),
    "after a name": (lambda c: c.order_by("__name__").start_after({"__name__": "dee"}), "eve fay"),
    "equal and ordered": (
        lambda c: c.where(filter=F("city", "==", "Oslo")).order_by("age", direction="DESCENDING"),
        "dee ann",
    ),
    "equal and range": (
        lambda c: c.where(filter=F("city", "==", "Oslo")).where(filter=F("age", "<", 40)),
        "ann",
    ),
    "two ranges": (
        lambda c: c.where(filter=F("age", ">", 25)).where(filter=F("city", ">", "Bern")),
        "ann cid dee",
    ),
    "in, ordered": (
        lambda c: c.where(filter=F("city", "in", ["Rome", "Bern"])).order_by("age").limit(2),
        "bob eve",
    ),
    "not in": (lambda c: c.where(filter=F("city", "not-in", ["Rome", "Oslo"])), "eve"),
    "not equal, ordered": (
        lambda c: c.where(filter=F("age", "!=", 30)).order_by("age", direction="DESCENDING"),
        "dee eve bob",
    ),
    "contains": (lambda c: c.where(filter=F("tags", "array_contains", "a")), "ann dee"),
    "contains any, and equal": (
        lambda c: c.where(filter=F("tags", "array_contains_any", ["b", "c"])).where(
            filter=F("age", "==", 30)
        ),
        "ann",
    ),
    "or": (
        lambda c: c.where(filter=Or([F("age", "==", 41), F("city", "==", "Bern")])),
        "dee eve",
    ),
    "or that overlaps": (
        lambda c: c.where(filter=Or([F("age", "==", 30), F("city", "==", "Rome")])),
        "ann bob cid",
    ),
    "and of ors": (
        lambda c: c.where(
            filter=And(
                [
                    Or([F("age", "==", 30), F("age", "==", 25)]),
                    Or([F("city", "==", "Rome"), F("city", "==", "Bern")]),
                ]
            )
        ),
        "bob cid eve",
    ),
    "or, ordered and limited": (
        lambda c: (
            c.where(filter=Or([F("age", "==", 30), F("age", "==", 25)])).order_by("city").limit(3)
        ),
        "eve ann bob",
    ),
    "or of ranges": (
        lambda c: c.where(filter=Or([F("age", ">", 40), F("age", "<", 30)])),
        "bob eve dee",
    ),
    "or of ranges of two fields": (
        lambda c: c.where(filter=Or([F("age", ">", 40), F("home.zip", "==", 1)])),
        "ann dee",
    ),
}


@pytest.fixture(scope="module")
def people(target: str) -> Any:
    db = client(target)
    db.document("elsewhere/x/people/zoe").set({"age": 30, "city": "Rome"})
    return fill(db, "people", PEOPLE)


@pytest.mark.parametrize("name", QUERIES)
def test_queries(people: Any, name: str) -> None:
    ask, found = QUERIES[name]
    assert [snapshot.id for snapshot in ask(people).get()] == found.split()


def test_select(people: Any) -> None:
    query = people.where(filter=F("age", "==", 41))
    assert [s.to_dict() for s in query.select(["city", "home.zip"]).stream()] == [{"city": "Oslo"}]
    assert [s.to_dict() for s in query.select([]).stream()] == [{}]


def test_collection_group(people: Any) -> None:
    group = people._client.collection_group("people")
    assert ids(group.where(filter=F("city", "==", "Rome")).order_by("age")) == ["bob", "zoe", "cid"]
    assert len(ids(group)) == 7


def test_subcollection_is_not_the_collection_of_that_name(people: Any) -> None:
    assert ids(people._client.collection("elsewhere/x/people")) == ["zoe"]


def test_aggregations(people: Any) -> None:
    (row,) = people.count(alias="n").get()
    assert [(part.alias, part.value) for part in row] == [("n", 6)]
    (row,) = people.sum("age", alias="s").avg("age", alias="a").get()
    assert {part.alias: part.value for part in row} == {"s": 151, "a": 30.2}
    (row,) = people.where(filter=F("city", "==", "Oslo")).count(alias="n").get()
    assert row[0].value == 3
    (row,) = people.limit(4).count(alias="n").get()
    assert row[0].value == 4
    (row,) = people.where(filter=F("city", "==", "Nowhere")).sum("age", alias="s").get()
    assert row[0].value == 0


def test_a_count_of_several_values_counts_each_document_once(db: Any) -> None:
    """More documents than are looked through one by one: here and there indexes count."""
    many = db.collection("counted")
    batch = db.batch()
    for n in range(300):
        batch.set(many.document(f"d{n}"), {"kind": f"k{n % 3}", "n": n})
    batch.commit()
    kinds = F("kind", "in", ["k0", "k1", "k0", "none"])
    for query in (
        many.where(filter=kinds),
        many.where(filter=kinds).where(filter=F("n", ">=", 100)),
        many.where(filter=kinds).where(filter=F("n", ">=", 100)).limit(7),
        many.where(filter=Or([F("kind", "==", "k0"), F("n", "==", 3)])),
        many.where(filter=Or([F("kind", "==", "k0"), F("n", ">=", 290)])),
    ):
        assert query.count().get()[0][0].value == len(list(query.stream()))


def test_count_beside_a_sum_counts_what_has_the_field(people: Any) -> None:
    (row,) = people.count(alias="n").sum("age", alias="s").get()
    assert {part.alias: part.value for part in row} == {"n": 5, "s": 151}


def aggregate(query: Any, *aggregations: dict[str, Any]) -> dict[str, Any]:
    """What the service answers to aggregations as they are on the wire, which the client checks."""
    db = query._client
    asked = {"structured_query": query._to_protobuf(), "aggregations": aggregations}
    request = {
        "parent": f"{db._database_string}/documents",
        "structured_aggregation_query": asked,
    }
    (answer,) = db._firestore_api.run_aggregation_query(request=request, metadata=db._rpc_metadata)
    return {name: value.integer_value for name, value in answer.result.aggregate_fields.items()}


def total(path: str, alias: str) -> dict[str, Any]:
    return {"sum": {"field": {"field_path": path}}, "alias": alias}


@pytest.fixture(scope="module")
def numbers(target: str) -> Any:
    rows = {f"d{n}": {"v": v, "w": n} for n, v in enumerate([9, 1, 8, 2, 7])}
    return fill(client(target), "numbers", {**rows, "without": {"w": -1}})


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (lambda c: c.limit(2).sum("v"), 3),
        (lambda c: c.limit(2).avg("v"), 1.5),
        (lambda c: c.order_by("w").limit(2).sum("v"), 10),
        (lambda c: c.order_by("w", direction="DESCENDING").limit(2).sum("v"), 9),
        (lambda c: c.where(filter=F("w", ">", 1)).limit(2).sum("v"), 10),
        (lambda c: c.where(filter=F("v", ">", 1)).limit(2).sum("v"), 9),
        (lambda c: c.offset(3).limit(1).sum("v"), 8),
    ],
    ids=["sum", "avg", "ordered", "down", "other range", "own range", "offset"],
)
def test_an_aggregated_field_sorts_what_is_limited(numbers: Any, ask: Ask, found: float) -> None:
    ((row,),) = ask(numbers).get()
    assert row.value == found


def test_aggregated_fields_sort_by_their_names(numbers: Any) -> None:
    limited = numbers.limit(2)
    assert aggregate(limited, total("v", "a"), total("w", "b")) == {"a": 3, "b": 4}
    assert aggregate(limited, total("w", "b"), total("v", "a")) == {"a": 3, "b": 4}


def test_aggregations_without_an_alias_are_numbered(numbers: Any) -> None:
    five = aggregate(numbers.limit(3), {"count": {}}, {"count": {}, "alias": "x y"}, {"count": {}})
    assert five == {"field_1": 3, "x y": 3, "field_2": 3}


REFUSED_AGGREGATIONS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "doubled alias": [{"count": {}, "alias": "n"}, total("v", "n")],
    "doubled number": [{"count": {}, "alias": "field_1"}, {"count": {}}],
    "six": [{"count": {}, "alias": str(n)} for n in range(6)],
    "reserved alias": [{"count": {}, "alias": "__n__"}],
    "long alias": [{"count": {}, "alias": "n" * 1501}],
    "up to -1": [{"count": {"up_to": -1}}],
    "of the name": [total("__name__", "n")],
    "no operator": [{"alias": "n"}],
}


@pytest.mark.parametrize("name", REFUSED_AGGREGATIONS)
def test_aggregations_that_are_refused(numbers: Any, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        aggregate(numbers.limit(3), *REFUSED_AGGREGATIONS[name])


def test_an_aggregated_field_behind_the_name_is_refused(numbers: Any) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        numbers.order_by("__name__").sum("v").get()


def compared(col: Any, op: str, count: int) -> Any:
    for n in range(count):
        col = col.where(filter=F(f"f{n}", op, n))
    return col


REFUSED_QUERIES: dict[str, Ask] = {
    "in 31": lambda c: c.where(filter=F("v", "in", list(range(31)))),
    "in 0": lambda c: c.where(filter=F("v", "in", [])),
    "not-in 11": lambda c: c.where(filter=F("v", "not-in", list(range(11)))),
    "two exclusions": lambda c: c.where(filter=F("v", "!=", 1)).where(filter=F("v", "not-in", [1])),
    "two contains": lambda c: c.where(filter=F("v", "array_contains", 1)).where(
        filter=F("v", "array_contains", 2)
    ),
    "36": lambda c: c.where(filter=F("v", "in", list(range(6)))).where(
        filter=F("w", "in", list(range(6)))
    ),
    "limit": lambda c: c.limit(-1),
    "offset": lambda c: c.offset(-1),
    "not-in, in": lambda c: c.where(filter=F("v", "not-in", [1])).where(filter=F("w", "in", [1])),
    "not-in, contains any": lambda c: c.where(filter=F("v", "not-in", [1])).where(
        filter=F("w", "array_contains_any", [1])
    ),
    "not-in, or": lambda c: c.where(
        filter=And([F("v", "not-in", [1]), Or([F("w", "==", 1), F("w", "==", 2)])])
    ),
    "or of not-in": lambda c: c.where(filter=Or([F("v", "not-in", [1]), F("w", "==", 2)])),
    "11 inequalities": lambda c: compared(c, ">", 11),
    "11 exclusions": lambda c: compared(c, ">", 10).where(filter=F("v", "not-in", [1])),
    "101 filters": lambda c: compared(c, "==", 101),
    "100 filters, ordered": lambda c: compared(c, "==", 100).order_by("v"),
    "100 filters, of a subcollection": lambda c: compared(
        c.document("x").collection("c"), "==", 100
    ),
}


@pytest.mark.parametrize("name", REFUSED_QUERIES)
def test_queries_that_are_refused(db: Any, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        ids(REFUSED_QUERIES[name](db.collection("c")))


def test_queries_just_within_the_limits(db: Any) -> None:
    col = db.collection("c")
    assert ids(compared(col, ">", 10)) == []
    assert ids(compared(col, "==", 100)) == []
    assert ids(compared(col, "==", 99).order_by("v")) == []
    assert ids(compared(col.document("x").collection("c"), "==", 99)) == []
    several = col.where(filter=F("v", "!=", 1)).where(filter=F("w", "in", [1, 2]))
    assert ids(several) == []


# Transactions


def test_transaction_commits_and_rolls_back(db: Any, ref: Any) -> None:
    @firestore.transactional
    def change(transaction: Any, fail: bool) -> int:
        found = ref.get(transaction=transaction).to_dict() or {"n": 0}
        transaction.set(ref, {"n": found["n"] + 1})
        if fail:
            raise RuntimeError("changed my mind")
        return int(found["n"])

    assert change(db.transaction(), False) == 0
    with pytest.raises(RuntimeError, match="changed my mind"):
        change(db.transaction(), True)
    assert data(ref) == {"n": 1}


def test_failed_precondition_rolls_back_the_transaction(db: Any, ref: Any) -> None:
    @firestore.transactional
    def change(transaction: Any) -> None:
        transaction.set(ref, {"n": 1})
        transaction.update(db.document("things/missing"), {"n": 1})

    with pytest.raises(exceptions.NotFound):
        change(db.transaction())
    assert not ref.get().exists


def test_read_only_transaction_sees_one_moment(db: Any, ref: Any) -> None:
    col = db.collection("things")
    ref.set({"n": 1})
    transaction = db.transaction(read_only=True)
    transaction._begin()
    assert ref.get(transaction=transaction).to_dict() == {"n": 1}
    ref.set({"n": 2})
    db.document("things/b").set({"n": 1})
    assert ref.get(transaction=transaction).to_dict() == {"n": 1}
    query = col.where(filter=F("n", "==", 1))
    assert [s.id for s in query.stream(transaction=transaction)] == ["a"]
    transaction._rollback()
    assert sorted(ids(query)) == ["b"]


def test_ended_transaction_is_invalid(db: Any, ref: Any) -> None:
    transaction = db.transaction()
    transaction._begin()
    name = transaction._id
    transaction._rollback()
    request = {"database": db._database_string, "writes": [], "transaction": name}
    with pytest.raises(exceptions.InvalidArgument):
        db._firestore_api.commit(request=request, metadata=db._rpc_metadata)


def test_read_at_a_time(db: Any, ref: Any) -> None:
    ref.set({"n": 1})
    moment = ref.get().read_time
    ref.set({"n": 2})
    assert ref.get(read_time=moment).to_dict() == {"n": 1}
    future = moment + datetime.timedelta(hours=1)
    with pytest.raises(exceptions.InvalidArgument):
        ref.get(read_time=future)
    with pytest.raises(exceptions.FailedPrecondition):
        ref.get(read_time=moment - datetime.timedelta(days=30))


# Listeners


class Seen:
    """What on_snapshot was called with: for each call the changes, and the documents in order."""

    def __init__(self, watched: Any) -> None:
        self.calls: list[tuple[list[str], list[Any]]] = []
        self.watch = watched.on_snapshot(self._note)

    def _note(self, documents: Any, changes: Any, _: Any) -> None:
        kinds = [f"{change.type.name} {change.document.id}" for change in changes]
        self.calls.append((kinds, [(s.id, s.to_dict()) for s in documents]))

    def last(self) -> Any:
        return self.calls[-1] if self.calls else None


def test_listening_to_a_query(db: Any) -> None:
    col = db.collection("heard")
    col.document("a").set({"n": 1})
    col.document("z").set({"n": 9})
    seen = Seen(col.where(filter=F("n", "<", 5)).order_by("n"))
    try:
        wait_for(lambda: seen.last() == (["ADDED a"], [("a", {"n": 1})]))
        col.document("b").set({"n": 0})
        wait_for(lambda: seen.last()[0] == ["ADDED b"])
        col.document("a").update({"n": 2})
        wait_for(lambda: seen.last() == (["MODIFIED a"], [("b", {"n": 0}), ("a", {"n": 2})]))
        col.document("b").update({"n": 7})
        wait_for(lambda: seen.last()[0] == ["REMOVED b"])
        col.document("a").delete()
        wait_for(lambda: seen.last() == (["REMOVED a"], []))
        col.document("y").set({"n": 9})
        col.document("c").set({"n": 4})
        wait_for(lambda: seen.last() == (["ADDED c"], [("c", {"n": 4})]))
        assert len(seen.calls) == 6
    finally:
        seen.watch.unsubscribe()


def test_listening_to_a_document(ref: Any) -> None:
    seen = Seen(ref)
    try:
        wait_for(lambda: seen.last() == ([], []))
        ref.set({"n": 1})
        wait_for(lambda: seen.last()[1] == [("a", {"n": 1})])
        ref.update({"n": 2})
        wait_for(lambda: seen.last()[1] == [("a", {"n": 2})])
        ref.delete()
        wait_for(lambda: seen.last()[0] == ["REMOVED a"])
    finally:
        seen.watch.unsubscribe()
