"""Queries that production refuses without an index; queries by index equal queries by scan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore import FieldFilter, Or
from nsps_local.firestore import FirestoreServer, plan

from tests.local_cloud.firestore_kit import client, embedded, ids

F = FieldFilter
DOWN = "DESCENDING"
UP = "ASCENDING"


def index(group: str, *fields: str, scope: str = "COLLECTION") -> dict[str, Any]:
    parts = []
    for text in fields:
        path, _, how = text.partition(" ")
        kind = "arrayConfig" if how == "CONTAINS" else "order"
        parts.append({"fieldPath": path, kind: how or UP})
    return {"collectionGroup": group, "queryScope": scope, "fields": parts}


DECLARED = {
    "indexes": [
        index("c", "a", "t DESCENDING"),
        index("c", "b", "t DESCENDING"),
        index("c", "tags CONTAINS", "t"),
        index("c", "x", "y DESCENDING"),
        index("c", "g", "t", scope="COLLECTION_GROUP"),
        index("c", "a", "n"),
    ],
    "fieldOverrides": [
        {"collectionGroup": "c", "fieldPath": "blob", "indexes": []},
        {
            "collectionGroup": "c",
            "fieldPath": "wide",
            "indexes": [
                {"order": "ASCENDING", "queryScope": "COLLECTION"},
                {"order": "ASCENDING", "queryScope": "COLLECTION_GROUP"},
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[firestore.Client]:
    state: Path = tmp_path_factory.mktemp("firestore")
    (state / "indexes.json").write_text(json.dumps(DECLARED))
    with embedded(state, indexes=state / "indexes.json") as server:
        yield client(server.target)


def where(*terms: Any) -> Any:
    def ask(query: Any) -> Any:
        for term in terms:
            query = query.where(filter=F(*term))
        return query

    return ask


def both(*asks: Any) -> Any:
    def ask(query: Any) -> Any:
        for one in asks:
            query = one(query)
        return query

    return ask


def order(path: str, direction: str = UP) -> Callable[[Any], Any]:
    return lambda query: query.order_by(path, direction=direction)


SERVED = {
    "everything": where(),
    "one equality": where(("z", "==", 1)),
    "equalities merge": where(("z", "==", 1), ("q", "==", 2), ("tags", "array_contains", 1)),
    "in": where(("z", "in", [1, 2])),
    "range": where(("z", ">", 1), ("z", "<", 5)),
    "order": order("z", DOWN),
    "range and order of one field": both(where(("z", ">", 1)), order("z", DOWN)),
    "not equal": where(("z", "!=", 1)),
    "equality, by name": both(where(("z", "==", 1)), order("__name__")),
    "declared": both(where(("a", "==", 1)), order("t", DOWN)),
    "declared, read backwards": both(where(("a", "==", 1)), order("t")),
    "declared, merged": both(where(("a", "==", 1), ("b", "==", 1)), order("t", DOWN)),
    "declared with a range": where(("a", "==", 1), ("t", ">", 1)),
    "in, declared": both(where(("a", "in", [1, 2])), order("t", DOWN)),
    "contains, declared": both(where(("tags", "array_contains", 1)), order("t")),
    "two orders": both(order("x"), order("y", DOWN)),
    "two orders backwards": both(order("x", DOWN), order("y")),
    "order by the field compared": both(where(("z", "==", 1)), order("z")),
    "override": where(("wide", "==", 1)),
}
REFUSED = {
    "equality and order": (both(where(("z", "==", 1)), order("t")), "z ASCENDING, t ASCENDING"),
    "equality and range": (where(("z", "==", 1), ("t", ">", 1)), "z ASCENDING, t ASCENDING"),
    "one of two not covered": (
        both(where(("a", "==", 1), ("z", "==", 1)), order("t", DOWN)),
        "a ASCENDING, z ASCENDING, t DESCENDING",
    ),
    "two orders, other way": (both(order("x"), order("y")), "x ASCENDING, y ASCENDING"),
    "two ranges": (where(("x", ">", 1), ("z", ">", 1)), "x ASCENDING, z ASCENDING"),
    "contains and order": (
        both(where(("tags", "array_contains", 1)), order("z")),
        "tags CONTAINS, z ASCENDING",
    ),
    "exempted": (where(("blob", "==", 1)), "blob ASCENDING"),
    "by name downwards": (order("__name__", DOWN), "__name__ DESCENDING"),
    "one branch of an or": (
        both(lambda q: q.where(filter=Or([F("a", "==", 1), F("z", "==", 1)])), order("t")),
        "z ASCENDING, t ASCENDING",
    ),
}


@pytest.mark.parametrize("name", SERVED)
def test_served(db: Any, name: str) -> None:
    assert ids(SERVED[name](db.collection("c"))) == []


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_the_fields_named(db: Any, name: str) -> None:
    ask, fields = REFUSED[name]
    with pytest.raises(exceptions.FailedPrecondition) as refusal:
        ids(ask(db.collection("c")))
    text = refusal.value.message
    assert text.startswith(f"The query requires an index on c: {fields}.")
    declared = json.loads(text[text.index("{") :])
    assert declared["collectionGroup"] == "c"
    assert (
        ", ".join(
            f"{f['fieldPath']} {f.get('order') or f['arrayConfig']}" for f in declared["fields"]
        )
        == fields
    )


def test_the_index_named_is_the_one_that_helps(db: Any, tmp_path: Path) -> None:
    declared_before: Any = DECLARED["indexes"]
    for ask, _ in REFUSED.values():
        with pytest.raises(exceptions.FailedPrecondition) as refusal:
            ids(ask(db.collection("c")))
        text = refusal.value.message
        declared = json.loads(text[text.index("{") :])
        if len(declared["fields"]) == 1 and declared["fields"][0]["fieldPath"] != "__name__":
            continue  # a single field is declared by an override
        extended = {**DECLARED, "indexes": [*declared_before, declared]}
        (tmp_path / "indexes.json").write_text(json.dumps(extended))
        state = tmp_path / f"{len(text)}"
        with embedded(state, indexes=tmp_path / "indexes.json") as server:
            assert ids(ask(client(server.target).collection("c"))) == []


def test_collection_groups_have_no_automatic_indexes(db: Any) -> None:
    group = db.collection_group("c")
    assert ids(group) == []
    assert ids(where(("wide", "==", 1))(group)) == []
    assert ids(both(where(("g", "==", 1)), order("t"))(group)) == []
    with pytest.raises(exceptions.FailedPrecondition, match="requires an index"):
        ids(where(("z", "==", 1))(group))


def test_sum_needs_the_field_in_the_index(db: Any) -> None:
    col: Any = db.collection("c")
    assert col.sum("n").get()[0][0].value == 0
    assert where(("a", "==", 1))(col).sum("n").get()[0][0].value == 0
    with pytest.raises(exceptions.FailedPrecondition, match="requires an index"):
        where(("z", "==", 1))(col).sum("n").get()


@pytest.mark.parametrize("text", ["[", "[]", '{"indexes": [{"fields": []}]}'])
def test_file_that_declares_no_indexes(tmp_path: Path, text: str) -> None:
    (tmp_path / "indexes.json").write_text(text)
    with pytest.raises(ValueError, match="does not declare indexes"):
        FirestoreServer(tmp_path, indexes=tmp_path / "indexes.json").start()


# How queries are answered

ASKS: dict[str, Any] = {
    "equality": where(("owner", "==", 7)),
    "two equalities": where(("owner", "==", 7), ("kind", "==", "k1")),
    "range": where(("n", ">=", 100), ("n", "<", 120)),
    "equality, ordered down": both(where(("kind", "==", "k1")), order("n", DOWN)),
    "contains": where(("tags", "array_contains", 3)),
    "in, ordered": both(where(("owner", "in", [7, 8])), order("n")),
    "mixed directions": both(order("owner", DOWN), order("n")),
    "nested": where(("m.x", "==", 5)),
    "not equal": both(where(("owner", "!=", 7)), order("owner", DOWN)),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with embedded(tmp_path_factory.mktemp("firestore")) as server:
        db = client(server.target)
        col = db.collection("many")
        batch = db.batch()
        for n in range(400):
            fields = {"owner": n % 40, "kind": f"k{n % 3}", "n": n * 7 % 400, "m": {"x": n % 9}}
            batch.set(col.document(f"{n:03}"), {**fields, "tags": [n % 5, n % 7]})
        batch.commit()
        yield col


@pytest.mark.parametrize("name", ASKS)
def test_by_index_and_by_scan_are_the_same(
    filled: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query: Any = ASKS[name](filled)
    pages: list[Any] = [lambda q: q, lambda q: q.limit(7), lambda q: q.offset(3).limit(5)]
    indexed = [ids(page(query)) for page in pages]
    counted = query.count().get()[0][0].value
    monkeypatch.setattr(plan, "_worth_it", lambda *_: False)
    assert [ids(page(query)) for page in pages] == indexed
    assert len(indexed[0]) == counted > 0


def test_index_follows_writes(filled: Any) -> None:
    query = where(("owner", "==", 999))(filled)
    assert ids(query) == []
    filled.document("moves").set({"owner": 999})
    assert ids(query) == ["moves"]
    filled.document("moves").update({"owner": 998})
    assert ids(query) == []
    filled.document("moves").set({"owner": 999, "x": 1})
    filled.document("moves").delete()
    assert ids(query) == []


def test_paging_with_cursors_meets_every_document_once(filled: Any) -> None:
    for query in (filled.order_by("n", direction=DOWN), filled.order_by("__name__"), filled):
        seen: list[str] = []
        page = list(query.limit(37).stream())
        while page:
            seen += [s.id for s in page]
            page = list(query.start_after(page[-1]).limit(37).stream())
        assert len(seen) == len(set(seen)) == 400


def test_indexes_survive_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SCAN_LIMIT", 0)
    with embedded(tmp_path) as server:
        col = client(server.target, "p").collection("c")
        col.document("a").set({"x": 1})
        assert ids(where(("x", "==", 1))(col)) == ["a"]
    with embedded(tmp_path) as server:
        col = client(server.target, "p").collection("c")
        col.document("b").set({"x": 1})
        col.document("a").update({"x": 2})
        assert ids(where(("x", "==", 1))(col)) == ["b"]


def test_index_entries_of_an_exempted_field_do_not_count(db: firestore.Client) -> None:
    """A field within an exempted map is exempted too; `wide` sorts two ways, without elements."""
    many = list(range(60_000))
    db.document("c/exempted").set({"blob": many, "wide": many})
    db.document("c/exempted").set({"blob": {"deep": {"list": many}}})
    with pytest.raises(exceptions.InvalidArgument, match="60,002 index entries"):
        db.document("c/indexed").set({"other": many})
    with pytest.raises(exceptions.InvalidArgument):
        db.document("d/indexed").set({"blob": many})


def test_index_entries_of_composite_indexes_count(db: firestore.Client) -> None:
    """The index on tags and t has an entry for each tag, beside that of tags alone."""
    tags = list(range(30_000))
    db.document("c/tagged").set({"tags": tags})
    with pytest.raises(exceptions.InvalidArgument, match="60,004 index entries"):
        db.document("c/tagged").set({"tags": tags, "t": 1})


def test_a_field_within_an_exempted_map_cannot_be_asked_for(db: firestore.Client) -> None:
    with pytest.raises(exceptions.FailedPrecondition):
        ids(db.collection("c").where(filter=F("blob.deep", "==", 1)))
