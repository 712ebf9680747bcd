"""The status model's scenarios on the real outbox and Poster, over the embedded Firestore.

Statuses are noted in transactions, posters post them at once or by ticks; ESPF loses answers, says
"not now", refuses; posters crash and are slow; everything may happen during a post. At the end ESPF
has been told the newest outcome.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import status_model
from nsps.cloud.store import Known, Store, Tx
from nsps.domain.event import SnapshotTime
from nsps.domain.outcome import NoAnswer, Outcome, Terminal, Transient
from nsps.espf import outbox
from nsps.espf.poster import Poster, note_status
from nsps_local.firestore import FirestoreServer

from tests.local_cloud.firestore_kit import new_store, post

SEEDS = int(os.environ.get("NSPS_LEDGER_SEEDS", "12"))
FIRST = int(os.environ.get("NSPS_LEDGER_FIRST_SEED", "1"))
I_ACCOUNT = 1001
OUTCOMES = {
    "OK": Outcome.DELIVERED,
    "FAILED": Outcome.REJECTED,
    "IN_PROGRESS": Outcome.ACCEPTED,
    "RETRY": Outcome.RETRYING,
    "": Outcome.SUPERSEDED,
}
PAST_A_LEASE, PAST_A_REFUSAL = 60.0, 7200.0
FAULTS = [{"lost_percent": 100}, {"lost_percent": 50, "abort_percent": 50}, {"abort_percent": 60}]


class Crash(BaseException):
    """The poster's process dies."""


class Played:
    """One scenario by one seed, in a group of its own."""

    def __init__(self, name: str, store: Store, url: str, seed: int, *, shaken: bool) -> None:
        self.seconds = 0.0
        """The instances' monotonic clock: it goes on with the server's."""
        store = replace(store, clock=lambda: self.seconds)
        self.store, self.url, self.shaken = store, url, shaken
        self.group = f"{name}/{seed}/{shaken}"
        self.dice = random.Random(self.group)
        self.poster = Poster(store, lambda: self)
        deliveries = status_model.SCENARIOS[name.rpartition("/")[2]]
        self.left = [(number, list(each.reports)) for number, each in enumerate(deliveries)]
        self.deliveries = deliveries
        self.faults = 3
        self.calling = False
        self.depth = 0
        self.espf: tuple[str, str] = ("", "")
        self.newest: tuple[int, int] = (0, -1)
        self.last: tuple[str, str] = ("", "")
        self.noted: list[tuple[str, str]] = []
        self.known: tuple[str, str] | None = None
        self.history: list[str] = []

    def tell(self, what: str) -> None:
        self.history.append("  " * self.depth + what)

    # ---- ESPF ------------------------------------------------------------------------------------

    def post(self, i_account: int, group: str, status: str, message: str) -> None:
        """ESPF's status call, during which anything else may happen."""
        self.tell(f"posts {status} {message}")
        assert (i_account, group) == (I_ACCOUNT, self.group)
        assert not self.calling, "two posters at once"
        if not self.shaken:
            assert self.known != (status, message), "ESPF is known to have it"
        self.known, noted = None, len(self.noted) - 1
        self.calling = True
        self._meanwhile()
        what = self.dice.choice(["taken"] * 5 + list(MISHAPS) * (self.faults > 0))
        self.tell(f"ESPF: {what}")
        self.calling = False
        if what in ("taken", "taken, no answer", "taken, crash", "taken, slow"):
            self.espf = (status, message)
        self.faults -= what != "taken"
        if what == "taken, slow":
            self._clock(PAST_A_LEASE)
        self._meanwhile()
        mishap = MISHAPS.get(what)
        if mishap is not None:
            raise mishap("it went wrong")
        if what == "taken" and set(self.noted[noted:]) == {(status, message)}:
            self.known = (status, message)

    def _meanwhile(self) -> None:
        self.depth += 1
        while self.depth < 4 and self.dice.random() < 0.35:
            self.step()
        self.depth -= 1

    # ---- those who note, and the tick ------------------------------------------------------------

    def step(self) -> None:
        can: list[Callable[[], None]] = [self._tick]
        if any(reports for _, reports in self.left):
            can += [self._report] * 3
        with contextlib.suppress(Crash):
            self.dice.choice(can)()

    def _report(self) -> None:
        number, reports = self.dice.choice([each for each in self.left if each[1]])
        delivery = self.deliveries[number]
        report = reports.pop(self.dice.randrange(len(reports)) if delivery.racing else 0)
        while True:  # a commit in doubt is run again
            try:
                with self._firestore():
                    noted, known = self._note(delivery.t, report)
                break
            except Transient as error:
                self.tell(f"noting {report} is in doubt: {error}")
        if self.dice.random() < 0.15:
            self.tell("crashes before its post")
            return
        if noted is not None and self.faults and self.dice.random() < 0.1:
            self.faults -= 1
            self.tell("is slow before its post")
            self._clock(PAST_A_LEASE)
            self._meanwhile()
        self._send(noted, known)

    def _note(self, t: int, report: str) -> tuple[outbox.Post | None, Known | None]:
        status, _, message = report.partition(": ")
        time = SnapshotTime(f"2026-11-21T00:00:0{t}.000000Z/e")
        reference = self.store.status(I_ACCOUNT, self.group)

        def body(tx: Tx) -> outbox.Post | None:
            found = tx.read([reference])
            outcome = OUTCOMES[status]
            return note_status(self.store, tx, found, I_ACCOUNT, self.group, time, outcome, message)

        noted, known = self.store.transact_on(None, body)
        self.tell(f"t{t} notes {report}")
        if status and (t, status_model.phase_of(status)) >= self.newest:
            self.newest = (t, status_model.phase_of(status))
            if self.last != (status, message):
                self.known = None
            self.last = (status, message)
            self.noted.append(self.last)
        return noted, known

    def _tick(self) -> None:
        self.tell("tick")
        with contextlib.suppress(Transient), self._firestore():
            self.poster.send_due()

    def _send(self, noted: outbox.Post | None, known: Known | None) -> None:
        with self._firestore():
            self.poster.send(noted, known)

    @contextlib.contextmanager
    def _firestore(self) -> Iterator[None]:
        """Now and then it loses answers or aborts."""
        if not self.shaken or self.dice.random() < 0.7:
            yield
            return
        fault = self.dice.choice(FAULTS)
        post(f"{self.url}/faults", {**fault, "seed": self.dice.random()})
        try:
            yield
        finally:
            post(f"{self.url}/faults", {})

    def _clock(self, seconds: float) -> None:
        post(f"{self.url}/clock", {"advance": seconds})
        self.seconds += seconds

    # ---- the end ---------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while any(reports for _, reports in self.left):
                self.step()
            self.faults, self.shaken = 0, False
            self.known = None
            for _ in range(3):
                self._clock(PAST_A_REFUSAL)
                self.poster.send_due()
            status = outbox.Status.read(self.store.read(self.store.status(I_ACCOUNT, self.group)))
            assert not status.due, status
            assert self.espf == self.last, f"ESPF was told {self.espf}, the newest is {self.last}"
        except AssertionError as error:
            raise AssertionError("\n".join([*self.history, f"BROKEN: {error}"])) from error


MISHAPS: dict[str, type[BaseException] | None] = {
    "not taken, no answer": NoAnswer,
    "taken, no answer": NoAnswer,
    "not now": Transient,
    "refused": Terminal,
    "not taken, crash": Crash,
    "taken, crash": Crash,
    "taken, slow": None,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirestoreServer]:
    state: Path = tmp_path_factory.mktemp("firestore")
    with FirestoreServer(state) as running:
        yield running


@pytest.fixture
def store(server: FirestoreServer) -> Store:
    return new_store(server.target)


@pytest.mark.timeout(60 + 5 * SEEDS)
@pytest.mark.parametrize("shaken", [False, True], ids=["", "firestore misbehaves"])
@pytest.mark.parametrize("name", list(status_model.SCENARIOS))
def test_espf_is_told_the_newest_outcome(
    name: str, shaken: bool, store: Store, server: FirestoreServer
) -> None:
    for seed in range(FIRST, FIRST + max(1, SEEDS // (4 if shaken else 1))):
        Played(name, store, server.control_url, seed, shaken=shaken).run()


_note, _take, _posted = outbox.note, outbox.take, outbox.posted
MUTANTS: dict[str, tuple[str, Any]] = {
    "check": ("Post.may_start", lambda *_: True),
    "order": ("note", lambda doc, t, *more: _note(replace(doc, t=min(t, doc.t)), t, *more)),
    "phase": ("note", lambda doc, *more: _note(replace(doc, phase=-1), *more)),
    "same": ("note", lambda doc, *more: _note(replace(doc, status="(another)"), *more)),
    "lease": ("take", lambda doc, *more: _take(replace(doc, lease=None), *more)),
    "revision": ("posted", lambda doc, _, token: _posted(doc, doc.revision, token)),
}


@pytest.mark.parametrize("rule", list(MUTANTS))
def test_a_rule_left_out_of_the_outbox_breaks_a_promise(
    rule: str, store: Store, server: FirestoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, mutant = MUTANTS[rule]
    monkeypatch.setattr(f"nsps.espf.outbox.{function}", mutant)
    with pytest.raises(AssertionError, match="BROKEN"):
        for seed in range(1000, 1060):
            for name in status_model.SCENARIOS:
                Played(f"{rule}/{name}", store, server.control_url, seed, shaken=False).run()
