"""Every query of the code runs with the indexes that the program declares, and with no fewer.

The embedded Firestore is started with the recorded indexes, as the local stack starts it; like
production it refuses a query whose composite index is not declared.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.api_core.exceptions import FailedPrecondition
from google.cloud.firestore import FieldFilter
from nsps.cloud.store import Store
from nsps.console.api import overview
from nsps.console.by_outcome import ByOutcome
from nsps.console.erase import _Search
from nsps.console.jobs import Job, Jobs
from nsps.console.overview import Overview
from nsps.console.parked import Parked
from nsps.console.replay import Replay
from nsps.console.requests import AuditQuery
from nsps.delivery import switch
from nsps.delivery.ledger.orders import Orders
from nsps.delivery.switch import Switches
from nsps.delivery.timeline import Timeline, Wanted
from nsps.domain.outcome import Transient
from nsps_local.recording import Topology
from nsps_local.stack.emulators import Emulators
from nsps_local.stack.ports import Ports

from tests.infra.conftest import ROOT
from tests.local_cloud.firestore_kit import embedded, new_store

NOW = datetime.now(UTC)
NOBODY = cast(Any, None)


def _replay(**spec: Any) -> Callable[[Store], object]:
    def ask(store: Store) -> object:
        job = cast(Job, _Spec(spec))
        query = Replay(store, NOBODY, NOBODY)._query(job)
        query.count().get()
        return list(query.order_by("opened_at").order_by("__name__").limit(1).stream())

    return ask


class _Spec:
    """As much of a job as its query looks at."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.created_at = spec, NOW


def _parked(store: Store) -> object:
    mine = store.client.collection("parked").where(filter=FieldFilter("stage", "==", "hss"))
    due = mine.where(filter=FieldFilter("next_try", "<=", NOW)).order_by("next_try")
    return list(due.limit(1).stream())


def _resources(name: str, op: str, value: Any) -> Callable[[Store], object]:
    def ask(store: Store) -> object:
        resources = store.client.collection("handlers", "hss", "resources")
        return store.find(resources.where(filter=FieldFilter(name, op, value)).limit(1))

    return ask


def _by_name(store: Store) -> object:
    resources = store.client.collection("handlers", "hss", "resources")
    return store.find(resources.order_by("__name__").limit(1))


def _timeline(field: str, value: Any) -> Callable[[Store], object]:
    return lambda store: Timeline(store, {}).where(field, value)


def _wanted(**what: Any) -> Callable[[Store], object]:
    return lambda store: Timeline(store, {}).page(Wanted(**what), 1)


def _by_outcome(since: datetime | None = None, after: str = "") -> Callable[[Store], object]:
    every = frozenset({"rejected", "expired", "accepted", "retrying", "parked"})
    wanted = Wanted(since=since, outcomes=every)
    return lambda store: ByOutcome(store, Timeline(store, {})).page(wanted, ["hss"], 1, after)


def _around(store: Store) -> object:
    event = {"owner": "account:1", "opened_at": NOW}
    store.event("around").set(event)
    (history,) = Timeline(store, {}).find("around")
    return Timeline(store, {}).around(history, 1)


def _overview(store: Store) -> object:
    """Of a handler that is paused: then the most is asked."""
    switch.pause(store, "hss", "me", "a test")
    store.client.document("handlers/hss/deliveries/e").set(
        {"outcome": "rejected", "finished_at": datetime.now(UTC), "begun_at": NOW}
    )
    handler = SimpleNamespace(connector="c", kind="state", group=None)
    handlers = cast(Any, SimpleNamespace(by_name={"hss": handler}))
    try:
        return Overview(store, handlers, Switches(store), list, dict).read()
    finally:
        switch.resume(store, "hss", "me", "a test")


def _audit(**query: Any) -> Callable[[Store], object]:
    def ask(store: Store) -> object:
        context = cast(Any, SimpleNamespace(store=store))
        return overview._audit_page(context, AuditQuery(**query), None)

    return ask


def _event_of_number(store: Store) -> object:
    query = store.events().where(filter=FieldFilter("i_event", "==", "1")).limit(1)
    return store.find(query)


def _erase(store: Store) -> _Search:
    return _Search(store, 1, held=False)


def _findings_of(store: Store) -> object:
    store.client.document("jobs", "j").set({"state": "done"})
    return list(_erase(store)._findings())


QUERIES: dict[str, list[Callable[[Store], object]]] = {
    "cloud/store._where": [
        lambda store: store.find(store.resources_of("hss", "account:1")),
        lambda store: store.find(store.statuses_due()),
    ],
    "cloud/store.resources_of_owners": [
        lambda store: store.find(store.resources_of_owners("hss", ["account:1", "account:2"]))
    ],
    "delivery/ledger/orders.due": [lambda store: Orders(store).due("oms", NOW)],
    "delivery/ledger/orders._of_id": [lambda store: store.find(Orders(store)._of_id("oms", "1"))],
    "flows/retries._due": [_parked],
    "delivery/timeline.where": [
        _timeline("i_event", "1"),
        _timeline("i_account", 1),
        _timeline("owner", "customer:1"),
    ],
    "delivery/timeline._wanted": [
        _wanted(handler="hss"),
        _wanted(handler="hss", since=NOW),
        _wanted(since=NOW, until=NOW),
        _wanted(account=1),
        _wanted(account=1, since=NOW),
    ],
    "delivery/timeline.around": [_around],
    "console/by_outcome._places": [_by_outcome()],
    "console/by_outcome._parked": [_by_outcome()],
    "console/by_outcome._stream": [
        _by_outcome(since=NOW),
        _by_outcome(after="2026-11-21T10:00Z~e"),
        _by_outcome(since=NOW, after="2026-11-21T10:00Z~e"),
    ],
    "delivery/timeline.latest": [lambda store: Timeline(store, {}).latest(1)],
    "console/replay._one": [_event_of_number],
    "console/replay._read": [_replay()],
    "console/replay._query": [
        _replay(account=1),
        _replay(since=NOW.isoformat()),
        _replay(account=1, since=NOW.isoformat(), until=NOW.isoformat()),
    ],
    "console/jobs.latest": [
        lambda store: Jobs(store, NOBODY, "", NOBODY).latest(1, "2026-11-21T10:00Z~j")
    ],
    "console/jobs.findings": [
        lambda store: Jobs(store, NOBODY, "", NOBODY).findings("j", 1, after="a"),
        lambda store: Jobs(store, NOBODY, "", NOBODY).findings("j", 1, after="a", what="missing"),
    ],
    "console/reconcile._ledger": [_by_name],
    "console/find._resources": [
        _resources("find", "array_contains", "001010000000001"),
        _resources("owner", "==", "account:1"),
    ],
    "console/parked.page": [
        lambda store: Parked(store).page("hss", 1, "2026-11-21T10:00Z~hss.e"),
        lambda store: Parked(store).page(None, 1, "2026-11-21T10:00Z~hss.e"),
    ],
    "console/erase._deliveries": [lambda store: list(_erase(store)._deliveries("hss", "e"))],
    "console/erase._ledger": [lambda store: list(_erase(store)._ledger("hss"))],
    "console/erase._findings": [_findings_of],
    "console/erase._where": [
        lambda store: _erase(store)._where("events", "i_account", 1),
        lambda store: _erase(store)._where("statuses", "i_account", 1),
    ],
    "console/api/overview._audit_page": [_audit(), _audit(since=NOW), _audit(since=NOW, until=NOW)],
    **{
        where: [_overview]
        for where in (
            "console/overview._ask_handler",
            "console/overview._ask_shared",
            "console/overview._to_mend",
            "console/overview._unread_since",
            "console/overview._newest",
            "console/overview._parked",
        )
    },
}
"""Where a query is made in shared/nsps, and each form that it takes."""


@pytest.fixture(scope="module")
def options(acme: Topology, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The indexes as the local stack hands them to its Firestore."""
    state = tmp_path_factory.mktemp("recorded")
    emulators = Emulators("embedded", Ports(20000), state)
    emulators._database_options(acme)
    read: dict[str, Any] = json.loads((state / "firestore.indexes.json").read_text("utf-8"))
    return read


def _store(folder: Path, options: dict[str, Any]) -> Iterator[Store]:
    file = folder / "indexes.json"
    file.write_text(json.dumps(options), encoding="utf-8")
    with embedded(folder, indexes=file) as server:
        yield new_store(server.target)


@pytest.fixture(scope="module")
def store(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield from _store(tmp_path_factory.mktemp("declared"), options)


def _all() -> list[tuple[str, Callable[[Store], object]]]:
    return [(where, ask) for where, asks in QUERIES.items() for ask in asks]


def _named(value: object) -> str:
    """A name that is the same in each process that collects the tests."""
    return value if isinstance(value, str) else getattr(value, "__name__", "ask")


@pytest.mark.parametrize(("where", "ask"), _all(), ids=_named)
def test_the_query_runs_with_the_declared_indexes(
    store: Store, where: str, ask: Callable[[Store], object]
) -> None:
    ask(store)


def test_every_place_that_makes_a_query_is_listed() -> None:
    """A new one must be added above, and its index, if it needs one, to infra/firestore.yaml."""
    found = set()
    for file in sorted((ROOT / "shared" / "nsps").rglob("*.py")):
        if "transport" in file.parts:  # it knows SQL, and nothing of Firestore
            continue
        module = file.relative_to(ROOT / "shared" / "nsps").with_suffix("").as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and _asks(node):
                found.add(f"{module}.{node.name}")
    assert found == set(QUERIES)


def _asks(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr == "order_by"
            or (node.func.attr == "where" and any(k.arg == "filter" for k in node.keywords))
        )
        for node in ast.walk(function)
    )


def test_without_any_one_of_the_indexes_a_query_is_refused(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """So the refusal works, and no index is declared for nothing.

    Indexes over the same fields in another direction stand in for each other here.
    """
    assert options["indexes"]
    for number, left_out in enumerate({_fields(index) for index in options["indexes"]}):
        folder = tmp_path / str(number)
        folder.mkdir()
        rest = [index for index in options["indexes"] if _fields(index) != left_out]
        for store in _store(folder, {**options, "indexes": rest}):
            refused = [where for where, ask in _all() if _refuses(store, ask)]
            assert refused, f"no query needs {left_out}"


def _fields(index: dict[str, Any]) -> tuple[str, ...]:
    return (index["collectionGroup"], *(field["fieldPath"] for field in index["fields"]))


def test_a_field_without_an_index_cannot_be_asked_for(store: Store) -> None:
    for field in ("expire_at", "variables"):
        query = store.events().where(filter=FieldFilter(field, "==", 1)).limit(1)
        with pytest.raises(FailedPrecondition):
            list(query.stream())


def _refuses(store: Store, ask: Callable[[Store], object]) -> bool:
    try:
        ask(store)
    except FailedPrecondition:
        return True
    except Transient as error:
        return isinstance(error.__cause__, FailedPrecondition)
    return False
