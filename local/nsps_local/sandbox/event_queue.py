"""The event queue of the sandbox: rows that survive everything, and what became of each.

States of an event: ``waiting`` (with the time of the next try), ``sending``, ``done`` (answered
200), ``dropped`` (answered 4xx: never sent again), ``given_up`` (the limit of attempts is reached),
``coalesced`` (a later event of the same kind for the same account or customer was sent in its
place).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nsps_local.sandbox.events import COALESCED, Change, Form, event_types, variables
from nsps_local.sandbox.store import Row, Store
from nsps_local.sandbox.times import Clock, moment

ANSWER_KEPT = 2000

# An event is left out when a later one of its kind waits for the same account or customer.
COALESCE = f"""
UPDATE events SET state = 'coalesced', finished = ?
 WHERE state = 'waiting' AND kind IN ({",".join("?" * len(COALESCED))}) AND EXISTS (
   SELECT 1 FROM events AS later WHERE later.state = 'waiting' AND later.kind = events.kind
    AND later.entity = events.entity AND later.event_type = events.event_type
    AND later.i_event > events.i_event)
"""  # noqa: S608 - only placeholders are put in


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver: when (Unix seconds), how long, and the answer or why there was none."""

    at: float
    seconds: float
    status: int | None
    answer: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one attempt means for its event: its next state and, if it waits, the time of the next
    try.
    """

    state: str
    next_try: float | None = None


class EventQueue:
    def __init__(self, store: Store, form: Form, clock: Clock) -> None:
        self.form = form
        self.enabled = True
        self._store = store
        self._clock = clock
        self._on_new: Callable[[], None] = lambda: None
        # What was under way when the process died is sent again, under its old number.
        store.run("UPDATE events SET state = 'waiting' WHERE state = 'sending'")

    def on_new(self, wake: Callable[[], None]) -> None:
        """Have `wake` called after new events became visible."""
        self._on_new = wake

    def add(self, changes: list[Change]) -> list[Row]:
        """Write the events of these changes; call it inside the transaction that makes the changes.

        Returns [{"i_event", "event_type"}], none while the handler is switched off.
        """
        if not self.enabled:
            return []
        now = self._clock()
        written = []
        for change in changes:
            for event_type in event_types(change, self.form.vocabulary):
                content = variables(change, event_type, self.form, moment(now))
                i_event = self._store.run(
                    "INSERT INTO events (event_type, variables, kind, entity, created, next_try)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    *(event_type, json.dumps(content), change.kind, change.entity, now, now),
                )
                written.append({"i_event": i_event, "event_type": event_type})
        return written

    def announce(self) -> None:
        """Wake the sender; call it after the transaction is over."""
        self._on_new()

    def claim(self) -> Row | None:
        """Take the next due event for sending; its attempts count from then on."""
        now = self._clock()
        with self._store.transaction():
            self._store.run(COALESCE, now, *COALESCED)
            event = self._store.row(
                "SELECT * FROM events WHERE state = 'waiting' AND next_try <= ?"
                " ORDER BY next_try, i_event LIMIT 1",
                now,
            )
            if event:
                self._store.run(
                    "UPDATE events SET state = 'sending' WHERE i_event = ?", event["i_event"]
                )
        return event

    def next_due(self) -> float | None:
        due: float | None = self._store.value(
            "SELECT min(next_try) FROM events WHERE state = 'waiting'"
        )
        return due

    def body(self, event: Row) -> dict[str, Any]:
        """The webhook's body; the same on every re-send."""
        i_event = str(event["i_event"]) if self.form.ids_as_strings else event["i_event"]
        content = {"i_event": i_event, **json.loads(event["variables"])}
        return {"event_type": event["event_type"], "variables": content}

    def settle(self, i_event: int, attempt: Attempt, verdict: Verdict) -> None:
        """Record an attempt and what it means."""
        with self._store.transaction():
            number = 1 + self._store.value("SELECT attempts FROM events WHERE i_event = ?", i_event)
            self._store.run(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(i_event, number, attempt.at, attempt.seconds, attempt.status),
                *(attempt.answer[:ANSWER_KEPT], attempt.error),
            )
            finished = None if verdict.state == "waiting" else self._clock()
            self._store.run(
                "UPDATE events SET state = ?, attempts = ?, finished = ?,"
                " next_try = coalesce(?, next_try) WHERE i_event = ?",
                *(verdict.state, number, finished, verdict.next_try, i_event),
            )

    def give_back(self, i_event: int) -> None:
        """An event that was taken but never sent (the sender stops) waits again."""
        self._store.run(
            "UPDATE events SET state = 'waiting' WHERE i_event = ? AND state = 'sending'", i_event
        )

    def resend(self, i_event: int) -> bool:
        """Send an event once more, whatever became of it; False when there is none."""
        now = self._clock()
        with self._store.transaction():
            if not self._store.row("SELECT 1 FROM events WHERE i_event = ?", i_event):
                return False
            self._store.run(
                "UPDATE events SET state = 'waiting', finished = NULL, next_try = ?"
                " WHERE i_event = ? AND state <> 'sending'",
                *(now, i_event),
            )
        self.announce()
        return True

    def counts(self) -> dict[str, int]:
        rows = self._store.rows("SELECT state, count(*) AS n FROM events GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def events(self, limit: int = 200, after: int = 0, state: str | None = None) -> list[Row]:
        """Events with their attempts, newest first; `after`: only those with a greater number."""
        rows = self._store.rows(
            "SELECT * FROM events WHERE i_event > ? AND (? IS NULL OR state = ?)"
            " ORDER BY i_event DESC LIMIT ?",
            *(after, state, state, limit),
        )
        return [self._described(row) for row in rows]

    def event(self, i_event: int) -> Row | None:
        row = self._store.row("SELECT * FROM events WHERE i_event = ?", i_event)
        return self._described(row) if row else None

    def _described(self, row: Row) -> Row:
        attempts = self._store.rows(
            "SELECT attempt, at, seconds, status, answer, error FROM attempts WHERE i_event = ?"
            " ORDER BY attempt",
            row["i_event"],
        )
        return {
            "i_event": row["i_event"],
            "event_type": row["event_type"],
            "kind": row["kind"],
            "variables": self.body(row)["variables"],
            "state": row["state"],
            "created": row["created"],
            "finished": row["finished"],
            "next_try": row["next_try"] if row["state"] == "waiting" else None,
            "attempts": attempts,
        }
