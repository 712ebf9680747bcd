"""Commits and queries compared with a model in a few lines of Python."""

from __future__ import annotations

import copy
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore import And, FieldFilter, Or
from google.cloud.firestore_v1 import _helpers
from google.cloud.firestore_v1.order import Order
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nsps_local.firestore import FirestoreServer, plan

from tests.local_cloud.firestore_kit import client, ids

NAMES = st.sampled_from("abcdef")
FIELDS = st.sampled_from(["x", "y", "m.k"])
SCALARS = st.sampled_from([None, False, True, 0, 1, 1.5, 2, "", "a", "b", b"a"])
VALUES = st.one_of(SCALARS, st.lists(st.sampled_from([0, 1, "a"]), max_size=3))
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "x": VALUES,
        "y": VALUES,
        "m": st.fixed_dictionaries({}, optional={"k": SCALARS, "o": SCALARS}),
    },
)
OPERATORS = ["==", "!=", "<", "<=", ">", ">=", "in", "not-in", "array_contains"]
MISSING = object()


def look(fields: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(fields, dict) or name not in fields:
            return MISSING
        fields = fields[name]
    return fields


def compare(left: Any, right: Any) -> int:
    return Order.compare(_helpers.encode_value(left), _helpers.encode_value(right))


def kind(value: Any) -> str:
    name: str = _helpers.encode_value(value)._pb.WhichOneof("value_type")
    return {"integer_value": "number", "double_value": "number"}.get(name, name)


def meets(fields: Any, path: str, op: str, value: Any) -> bool:
    found = look(fields, path)
    if found is MISSING:
        return False
    if op == "array_contains":
        return isinstance(found, list) and any(same(part, value) for part in found)
    if op == "==":
        return same(found, value)
    if op == "in":
        return any(same(found, part) for part in value if part is not None)
    if op in ("!=", "not-in"):
        excluded = value if op == "not-in" else [value]
        if found is None or (op == "not-in" and None in value):
            return False
        return not any(same(found, part) for part in excluded)
    order = compare(found, value)
    tests = {"<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0}
    return kind(found) == kind(value) and tests[op]


def same(left: Any, right: Any) -> bool:
    return kind(left) == kind(right) and compare(left, right) == 0


class Commits(RuleBasedStateMachine):
    """Writes of every kind; after each the collection equals the model."""

    server: FirestoreServer

    def __init__(self) -> None:
        super().__init__()
        self.db = client(self.server.target)
        self.col = self.db.collection("model")
        self.model: dict[str, dict[str, Any]] = {}
        self.last: Any = None

    def commit(self, *writes: tuple[Any, ...]) -> None:
        """Each write: a name of a batch method, a document, arguments. Model: all or nothing."""
        batch = self.db.batch()
        wanted = copy.deepcopy(self.model)
        failure: type[Exception] | None = None
        for method, name, *arguments in writes:
            getattr(batch, method)(self.col.document(name), *arguments)
            failure = failure or self.expect(wanted, method, name, *arguments)
        if failure is not None:
            with pytest.raises(failure):
                batch.commit()
            return
        batch.commit()
        assert self.last is None or self.last < batch.commit_time
        self.last = batch.commit_time
        self.model = wanted

    def expect(self, model: Any, method: str, name: str, *arguments: Any) -> Any:
        if method == "create" and name in model:
            return exceptions.AlreadyExists
        if method == "update" and name not in model:
            return exceptions.NotFound
        if method == "delete":
            model.pop(name, None)
        elif method == "update":
            for path, value in arguments[0].items():
                place(model[name], path.split("."), value)
        elif arguments[1:]:
            merge(model.setdefault(name, {}), arguments[0])
        else:
            model[name] = copy.deepcopy(arguments[0])
        return None

    @rule(name=NAMES, fields=DOCUMENTS)
    def set(self, name: str, fields: Any) -> None:
        self.commit(("set", name, fields))

    @rule(name=NAMES, fields=DOCUMENTS)
    def merge(self, name: str, fields: Any) -> None:
        self.commit(("set", name, fields, True))

    @rule(name=NAMES, path=FIELDS, value=st.one_of(VALUES, st.just(firestore.DELETE_FIELD)))
    def update(self, name: str, path: str, value: Any) -> None:
        self.commit(("update", name, {path: value}))

    @rule(name=NAMES, path=FIELDS, value=st.sampled_from([1, 0.5]))
    def increment(self, name: str, path: str, value: Any) -> None:
        self.commit(("update", name, {path: firestore.Increment(value)}))

    @rule(
        writes=st.lists(
            st.tuples(st.sampled_from(["set", "create", "delete"]), NAMES, DOCUMENTS),
            min_size=2,
            max_size=4,
        )
    )
    def batch(self, writes: Any) -> None:
        self.commit(*(w[:2] if w[0] == "delete" else w for w in writes))

    @rule(
        filters=st.lists(
            st.tuples(FIELDS, st.sampled_from(OPERATORS), SCALARS, SCALARS), min_size=0, max_size=3
        ),
        either=st.booleans(),
        order=st.lists(st.tuples(FIELDS, st.booleans()), max_size=2, unique_by=lambda o: o[0]),
        limit=st.one_of(st.none(), st.integers(0, 4)),
        offset=st.integers(0, 2),
    )
    def query(self, filters: Any, either: bool, order: Any, limit: Any, offset: int) -> None:
        terms = [
            (path, op, [value, other] if op in ("in", "not-in") else value)
            for path, op, value, other in filters
            if not (value is None and op not in ("==", "!=", "in", "not-in"))
        ]
        query: Any = self.col
        if terms:
            parts: list[Any] = [FieldFilter(*term) for term in terms]
            query = query.where(
                filter=parts[0] if len(parts) == 1 else (Or if either else And)(parts)
            )
        for path, down in order:
            query = query.order_by(path, direction="DESCENDING" if down else "ASCENDING")
        wanted = self.wanted(terms, either, order)
        query = query if limit is None else query.limit(limit)
        try:
            found = ids(query.offset(offset))
            counted = query.count().get()[0][0].value
        except exceptions.InvalidArgument:
            assert refused(terms, either)
            return
        assert found == wanted[offset : None if limit is None else offset + limit]
        assert counted == len(wanted if limit is None else wanted[:limit])

    def wanted(self, terms: Any, either: bool, order: Any) -> list[str]:
        down = order[-1][1] if order else False
        unequal = {path for path, op, _ in terms if op in ("!=", "not-in", "<", "<=", ">", ">=")}
        order = [*order, *((p, down) for p in sorted(unequal - {path for path, _ in order}))]
        found = [
            name
            for name, fields in self.model.items()
            if (not terms or (any if either else all)(meets(fields, *term) for term in terms))
            and all(look(fields, path) is not MISSING for path, _ in order)
        ]

        def precedes(left: str, right: str) -> int:
            for path, descending in order:
                sign = compare(look(self.model[left], path), look(self.model[right], path))
                if sign:
                    return -sign if descending else sign
            return ((left > right) - (left < right)) * (-1 if down else 1)

        return sorted(found, key=functools.cmp_to_key(precedes))

    @invariant()
    def equals_the_model(self) -> None:
        assert {s.id: s.to_dict() for s in self.col.stream()} == self.model

    @precondition(lambda self: self.model)
    @rule()
    def types_survive(self) -> None:
        for snapshot in self.col.stream():
            assert repr(sort(snapshot.to_dict())) == repr(sort(self.model[snapshot.id]))


def sort(fields: Any) -> Any:
    return {k: sort(fields[k]) for k in sorted(fields)} if isinstance(fields, dict) else fields


def refused(terms: Any, either: bool) -> bool:
    """Whether production refuses the query.

    Two exclusions, or two array_contains, in one AND; not-in beside an in or within an OR.
    """
    ops = [op for _, op, _ in terms]
    if "not-in" in ops and ("in" in ops or (either and len(ops) > 1)):
        return True
    exclusions = sum(op in ("!=", "not-in") for op in ops)
    return not either and (exclusions > 1 or ops.count("array_contains") > 1)


def merge(into: Any, fields: Any) -> None:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            if not isinstance(into.get(name), dict):
                into[name] = {}
            merge(into[name], value)
        else:
            into[name] = copy.deepcopy(value)


def place(fields: Any, path: list[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        if not isinstance(fields.get(name), dict):
            if value is firestore.DELETE_FIELD:
                return
            fields[name] = {}
        fields = fields[name]
    if value is firestore.DELETE_FIELD:
        fields.pop(last, None)
    elif isinstance(value, firestore.Increment):
        was = fields.get(last)
        number = was if isinstance(was, int | float) and not isinstance(was, bool) else None
        fields[last] = value.value if number is None else number + value.value
    else:
        fields[last] = copy.deepcopy(value)


@pytest.mark.parametrize("scan_limit", [200, 0], ids=["scanning", "by index"])
def test_commits_and_queries(scan_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SCAN_LIMIT", scan_limit)
    with tempfile.TemporaryDirectory() as state, FirestoreServer(Path(state)) as server:

        class Run(Commits):
            pass

        Run.server = server
        case = Run.TestCase
        examples = int(os.environ.get("FIRESTORE_MODEL_EXAMPLES", "25"))
        case.settings = settings(
            max_examples=examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case("runTest").runTest()
