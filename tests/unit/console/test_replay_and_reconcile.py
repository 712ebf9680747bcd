"""Which events are replayed and which owners compared, page by page; what has expired is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from google.cloud.firestore import DELETE_FIELD
from nsps.cloud.store import Store
from nsps.console import reconcile
from nsps.console.find import Finding
from nsps.console.handlers import Handlers
from nsps.console.jobs import Job, JobState, Page, Worker
from nsps.console.reconcile import Reconcile
from nsps.console.replay import Replay
from nsps.console.sending import Sending
from nsps.delivery.resend import Resend
from nsps.delivery.timeline import Timeline
from nsps.domain.event import RECONCILE, Owner
from nsps.domain.outcome import Terminal
from nsps.portabilling.lists import Lists
from nsps.runtime.settings import HandlerSummary
from nsps.transport.http import Http

NOW = datetime.now(UTC)


@dataclass
class RecordedHandlers(Handlers):
    """Two handlers whose functions answer as they are told."""

    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    keys: tuple[str, ...] | None = None
    """What each system holds that NSPS did not write; None: it cannot list."""
    accounts: list[int] = field(default_factory=list)
    """Those of PortaBilling's list; ``most`` at once, whatever is asked for."""
    most: int = 1000
    singly: tuple[int, ...] = ()
    """Accounts that are right, but read singly."""

    def __post_init__(self) -> None:
        summaries = [
            HandlerSummary(name=name, connector="x", events=("SIM/*",)) for name in ("hss", "crm")
        ]
        super().__init__(summaries, {}, Http())

    def ask(self, name: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.requests.append((name, path, body))
        if path == "/keys" and self.keys is None:
            raise Terminal("cannot list")
        if path == "/keys":
            page = [each for each in self.keys or () if each > body["after"]][: body["limit"]]
            return {"foreign": page, "last": page[-1] if len(page) == body["limit"] else None}
        if path == "/preview":
            return {"owner": "account:1", "resources": [], "message": None}
        if "page" in body:
            return self.page(body["page"])
        return {"owners": [self.compared(owner) for owner in body["owners"]]}

    def page(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        offset = asked["offset"]
        ids = self.accounts[offset : offset + min(asked["limit"], self.most)]
        wrong = [each for each in ids if self.what(f"account:{each}") != "same"]
        singly = [each for each in ids if each in self.singly]
        return {
            "accounts": ids,
            "total": len(self.accounts),
            "more": offset + len(ids) < len(self.accounts),
            "owners": [self.compared(f"account:{each}") for each in wrong + singly],
            "same": len(ids) - len(wrong) - len(singly),
            "singly": {"account_list gives no email": len(singly)} if singly else {},
        }

    def compared(self, owner: str) -> dict[str, Any]:
        return {"owner": owner, "resources": [{"key": owner, "what": self.what(owner)}]}

    def what(self, owner: str) -> str:
        return str(self.answers.get(owner, {}).get("what", "same"))


class Sent(Sending):
    """Remembers what is sent."""

    def __init__(self) -> None:
        self.repairs: list[str] = []

    def reconcile(self, job: str, owner: Owner, handler: str) -> None:
        self.repairs.append(str(owner))


class Resent(Resend):
    """Remembers what is replayed."""

    def __init__(self) -> None:
        self.replays: list[tuple[str, str | None, int | None]] = []

    def send(
        self,
        event_id: str,
        body: bytes,
        handler: str | None,
        kept: Mapping[str, Any],
        *,
        run: int | None = None,
        retry_round: int | None = None,
    ) -> None:
        assert json.loads(body)["variables"] == {"i_account": 1}
        self.replays.append((event_id, handler, run))


class NoLists(Lists):
    """None is asked for."""

    def __init__(self) -> None: ...


def job(spec: Mapping[str, Any], ident: str = "j1", **more: Any) -> Job:
    usual: dict[str, Any] = {
        "kind": "x",
        "by": "ops@acme.example",
        "created_at": datetime.now(UTC) + timedelta(seconds=1),
        "dry_run": False,
        "fix": False,
        "rate": 100.0,
        "state": JobState.RUNNING,
        "cursor": {},
        "slice": 1,
        "total": None,
    }
    return Job(id=ident, spec=spec, **{**usual, **more})


def whole(worker: Any, first: Job, size: int) -> list[Page]:
    """All pages of a job."""
    from dataclasses import replace

    pages = [cast(Worker, worker).page(first, size)]
    while pages[-1].cursor is not None:
        pages.append(worker.page(replace(first, cursor=dict(pages[-1].cursor)), size))
        assert len(pages) < 500
    return pages


def put(store: Store, ident: str, minutes_ago: float, **more: Any) -> None:
    opened = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    entry = {
        "event_type": "SIM/Updated",
        "variables": '{"i_account": 1}',
        "i_event": ident,
        "i_account": 1,
        "owner": "account:1",
        "handlers": ["hss", "crm"],
        "state": "enriched",
        "opened_at": opened,
        "expire_at": opened + timedelta(days=92),
        **more,
    }
    store.event(ident).set(entry)


@pytest.fixture
def events(store: Store) -> Store:
    for number in range(7):
        put(store, f"e{number}", 100 - number)
    put(store, "blocked", 50, event_type="Account/Blocked", handlers=["crm"])
    put(store, "other", 40, i_account=2, owner="account:2")
    put(store, "repair", 30, event_type=RECONCILE, handlers=["hss"])
    put(store, "old", 20, expire_at=NOW - timedelta(days=1))
    return store


def replayed(store: Store, size: int = 3, **spec: Any) -> list[str]:
    sent = Resent()
    whole(Replay(store, RecordedHandlers(), sent), job(spec), size)
    return sorted(ident for ident, _, _ in sent.replays)


def test_each_event_once_by_pages_of_any_size(events: Store) -> None:
    wanted = [f"e{n}" for n in range(7)] + ["other"]
    for size in (1, 3, 100):
        sent = Resent()
        ident = f"by-{size}"
        whole(Replay(events, RecordedHandlers(), sent), job({"handler": "hss"}, ident), size)
        assert sorted(each for each, _, _ in sent.replays) == wanted


def test_what_is_chosen(events: Store) -> None:
    assert replayed(events, account=2) == ["other", "other"]  # both its handlers
    assert replayed(events, handler="crm", event_type="Account/*") == ["blocked"]
    since = (datetime.now(UTC) - timedelta(minutes=95.5)).isoformat()
    until = (datetime.now(UTC) - timedelta(minutes=93.5)).isoformat()
    assert replayed(events, handler="hss", since=since, until=until) == ["e5", "e6"]
    assert replayed(events, event="repair") == ["repair"]  # only when it is named
    with pytest.raises(Terminal):
        replayed(events, event="nothing")


def test_an_event_whose_variables_were_never_kept_cannot_be_replayed(events: Store) -> None:
    events.event("e3").update({"variables": DELETE_FIELD})
    with pytest.raises(Terminal, match="e3 cannot be replayed: it failed before its variables"):
        replayed(events, event="e3")
    assert "e3" not in replayed(events, handler="hss") and "e4" in replayed(events, handler="hss")


def test_by_outcome_of_the_newest_run(events: Store) -> None:
    events.delivery("hss", "e1").set({"outcome": "rejected"})
    events.delivery("hss", "e2").set({"outcome": "rejected"})
    events.delivery("hss", "e2.1").set({"outcome": "delivered"})
    events.event("e2").set({"runs": {"hss": {"n": 1, "job": "x"}}}, merge=True)
    assert replayed(events, handler="hss", outcomes=["rejected"]) == ["e1"]


@pytest.mark.parametrize("state", ["parked", "expired"])
def test_by_outcome_finds_an_event_that_was_never_read(events: Store, state: str) -> None:
    events.event("e3").set({"state": state}, merge=True)
    assert replayed(events, handler="hss", outcomes=[state]) == ["e3"]
    events.event("e3").set({"runs": {"hss": {"n": 1, "job": "x"}}}, merge=True)
    assert replayed(events, handler="hss", outcomes=[state]) == []  # a replay is on its way


def test_a_job_that_is_done_again_makes_no_second_run(events: Store) -> None:
    sent = Resent()
    worker = Replay(events, RecordedHandlers(), sent)
    for ident in ("j1", "j1", "j2"):
        worker.page(job({"event": "e1", "handler": "hss"}, ident), 10)
    assert sent.replays == [("e1", "hss", 1), ("e1", "hss", 1), ("e1", "hss", 2)]


def test_a_dry_run_changes_nothing(events: Store) -> None:
    before = events.read(events.event("e1"))
    sent, handlers = Resent(), RecordedHandlers()
    page = Replay(events, handlers, sent).page(job({"event": "e1"}, dry_run=True), 10)
    assert sorted(name for name, _, _ in handlers.requests) == ["crm", "hss"]
    assert page.sent == 0
    assert sent.replays == []
    assert events.read(events.event("e1")) == before


def test_expired_events_never_show(events: Store) -> None:
    timeline = Timeline(events, {})
    assert timeline.find("old") == []
    assert "old" not in {history.event_id for history in timeline.latest(100)}
    assert "old" not in {history.event_id for history in timeline.where("i_account", 1)}
    finding = Finding(events, RecordedHandlers(), NoLists)
    subject = finding.owner(Owner("account", "1"))
    assert "old" not in {history.event_id for history in subject.events}


# ---- reconcile -----------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1000, 250, 7])
@pytest.mark.parametrize("size", [1, 30, 100])
def test_every_account_is_compared_once_however_much_is_listed_at_once(
    store: Store, most: int, size: int
) -> None:
    ids = list(range(500, 1000 if size > 1 else 540))
    handlers, sent = RecordedHandlers(accounts=ids, most=most), Sent()
    worker = Reconcile(store, handlers, NoLists(), sent)
    pages = whole(worker, job({"handler": "hss"}), size)
    assert sum(page.done for page in pages) == pages[0].total == len(ids)
    assert sum(page.found.get("same", 0) for page in pages) == len(ids)
    assert [n for page in pages for n in page.seen] == ids


def test_what_was_read_singly_is_in_the_report(store: Store) -> None:
    handlers = RecordedHandlers(accounts=list(range(8)), singly=(1, 2))
    (page, *_) = whole(Reconcile(store, handlers, NoLists(), Sent()), job({"handler": "hss"}), 9)
    assert page.found == {"same": 8}
    assert page.singly == {"account_list gives no email": 2}


def test_repairs_go_to_what_is_wrong_and_no_other(store: Store) -> None:
    wrong = ["missing", "different", "left over", "unrecorded"]
    fine = ["same", "waiting", "rejected", "unread"]
    answers = {f"account:{n}": {"what": w} for n, w in enumerate(wrong + fine)}
    handlers = RecordedHandlers(answers, accounts=list(range(8)))
    for fix in (False, True):
        sent = Sent()
        worker = Reconcile(store, handlers, NoLists(), sent)
        (page, *_) = whole(worker, job({"handler": "hss"}, fix=fix), 100)
        assert page.sent == len(sent.repairs) == (4 if fix else 0)
        assert sorted(sent.repairs) == [f"account:{n}" for n in range(4 if fix else 0)]
        assert len(page.findings) == 7


@pytest.mark.parametrize(("documents", "owners"), [(2, 100), (1000, 1), (1000, 100), (6, 1)])
def test_what_the_ledger_knows_and_portabilling_does_not(
    store: Store, monkeypatch: pytest.MonkeyPatch, documents: int, owners: int
) -> None:
    monkeypatch.setattr(reconcile, "AT_MOST", documents)
    monkeypatch.setattr(reconcile, "MAX_OWNERS", owners)
    for number in range(5):
        data = {"key": f"k{number}", "owner": f"account:{number}"}
        store.resource("hss", f"k{number}").set(data)
    store.resource("hss", "gone").set({"key": "gone", "owner": None})
    seen = store.client.document("jobs", "j1", "seen", "0")
    seen.set({"bits": bytes([0b10110])})  # accounts 1, 2 and 4
    handlers = RecordedHandlers({})
    worker = Reconcile(store, handlers, NoLists(), Sent())
    whole(worker, job({"handler": "hss"}, cursor={"phase": "ledger"}), 2)
    asked = [q["owners"] for _, path, q in handlers.requests if path == "/compare"]
    assert sorted(each for some in asked for each in some) == ["account:0", "account:3"]
    assert max(map(len, asked)) <= owners


@pytest.mark.parametrize("at_once", [2, 1000])
def test_what_nsps_did_not_write_is_named_by_no_number_of_a_subscriber(
    store: Store, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(reconcile, "AT_MOST", at_once)
    keys = ("001010000000001", "001010000000002", "001010000000003")
    worker = Reconcile(store, RecordedHandlers(keys=keys), NoLists(), Sent())
    pages = whole(worker, job({"handler": "hss"}, cursor={"phase": "system"}), 2)
    found = {name: each for page in pages for name, each in page.findings.items()}
    assert [found[name]["resources"][0]["key"] for name in sorted(found)] == list(keys)
    assert not any(key in name for key in keys for name in found)
