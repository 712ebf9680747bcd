"""The product with one rule left out, in each way that the machine must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from nsps.cloud.messages import Publisher
from nsps.connector.kinds import MessageKind
from nsps.delivery.history import History, unpacked
from nsps.delivery.ledger import protocol
from nsps.delivery.ledger.documents import Watermark
from nsps.delivery.ledger.ledger import Ledger, Work
from nsps.delivery.ledger.protocol import CallEnd
from nsps.domain.event import BEFORE_ALL
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import PbData
from nsps.espf import outbox
from nsps.flows.callbacks import Answers
from nsps.flows.enrichment import Enrichment
from nsps.flows.retries import Retries
from nsps.portabilling.freshness import Fresh, FreshReads

from tests.unit.ledger.test_protocol_is_the_model import MUTANTS as PROTOCOL

Patch = tuple[Any, str, Callable[[Any], Any]]


def _published_or_not(real: Callable[..., str]) -> Callable[..., str]:
    def publish(self: Publisher, *given: Any, **named: Any) -> str:
        try:
            return real(self, *given, **named)
        except Transient:
            return "never mind"

    return publish


def _from_the_history(self: Enrichment, raw: Any, event: Any, owner: Any, *rest: Any) -> Any:
    """What a replayed event said when it came first is sent again."""
    if raw.run is not None:
        kept = self._history._store.read(self._history._store.event(raw.event_id)) or {}
        snapshot = unpacked(kept.get("snapshot"))
        if snapshot is not None:
            return owner, Fresh(PbData.from_contract(snapshot), rest[-1].t)
    return _read(self, raw, event, owner, *rest)


def _for_all(real: Callable[..., None]) -> Callable[..., None]:
    """A replay marks the event as enriched, as if it had reached every handler."""

    def enriched(self: History, raw: Any, *given: Any, **named: Any) -> None:
        real(self, replace(raw, run=None), *given, **named)

    return enriched


def _any_cached(self: FreshReads[Any], key: Any, received: Any, read: Callable[[], Any]) -> Any:
    """A plain cache: what was read a moment ago will do."""
    cached = self._cached(key)
    return _get(self, key, received, read) if cached is None else cached


def _not_advanced(self: Retries, tx: Any, name: str, token: str, tries: int) -> None:
    tx.merge(self._store.parked(name), {"next_try": None})


def _without_followers(self: Answers, handler: str, delivery: str) -> None:
    """Whoever waited behind an order is forgotten."""


def _note_any(doc: Any, t: Any, status: str, message: str) -> Any:
    return _note(replace(doc, t=BEFORE_ALL, phase=-1), t, status, message)


def _posted_now(doc: Any, revision: int, token: str) -> Any:
    return _posted(doc, doc.revision, token)


def _lease_is_given_back(self: Ledger, *given: Any, **named: Any) -> Any:
    return _not_done(self, *given, **{**named, "call": CallEnd.NOT_DONE})


def _without_a_watermark(delivery: Any, watermark: Any, t: Any, **_: Any) -> Any:
    return _begin(delivery, Watermark(), t)


def _whatever_is_newer(step: Any, resource: Any, _: Any, *given: Any, **named: Any) -> Any:
    return _take(step, replace(resource, claim_t=BEFORE_ALL), Watermark(), *given, **named)


def _any_newer_takes_over(real: Callable[..., Work]) -> Callable[..., Work]:
    """As if the data were all that counts, whatever the type of the event."""
    return lambda self, event: replace(real(self, event), meaning=None)


def _as_if_new(delivery: Any, watermark: Any, t: Any, **_: Any) -> Any:
    return _begin(replace(delivery, outcome=None), watermark, t)


def _as_if_asked(*given: Any, **named: Any) -> Any:
    return _take(*given, **{**named, "asked": True})


def _orders_at_once(pending: Any, lease: Any) -> bool:
    return True


_begin, _take = protocol.begin, protocol.take
_read, _get = Enrichment._read, FreshReads.get
_note, _posted, _not_done = outbox.note, outbox.posted, Ledger.not_done

FLOWS: Mapping[str, Sequence[Patch]] = {
    "200 before Pub/Sub has confirmed": [(Publisher, "publish", _published_or_not)],
    "a replay sends what was read then": [(Enrichment, "_read", lambda _: _from_the_history)],
    "a replay marks only its own delivery": [(History, "enriched", _for_all)],
    "a plain cache of PortaBilling": [(FreshReads, "get", lambda _: _any_cached)],
    "an older snapshot is written": [
        (protocol, "begin", lambda _: _without_a_watermark),
        (protocol, "take", lambda _: _whatever_is_newer),
    ],
    "the lease is given back without an answer": [
        (Ledger, "not_done", lambda _: _lease_is_given_back)
    ],
    "a message that was sent is sent again": [
        (protocol, "begin", lambda _: _as_if_new),
        (protocol, "take", lambda _: _as_if_asked),
    ],
    "another type's message takes no event's place": [(MessageKind, "work", _any_newer_takes_over)],
    "a status in any order": [(outbox, "note", lambda _: _note_any)],
    "posted whatever was noted since": [(outbox, "posted", lambda _: _posted_now)],
    "a parked event is forgotten once sent": [(Retries, "_advance", lambda _: _not_advanced)],
    "two orders at once for a SIM card": [(protocol, "_may_order", lambda _: _orders_at_once)],
    "who waits behind an order is forgotten": [
        (Answers, "send_again", lambda _: _without_followers)
    ],
}
"""What is patched, and by what, made of the real one."""


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Inside, the product does without this rule."""
    if name in FLOWS:
        patches = FLOWS[name]
    else:
        what, instead = PROTOCOL[name.removeprefix("ledger: ")]
        patches = [(protocol, what, lambda _: instead)]
    with ExitStack() as stack:
        for where, what, make in patches:
            patch = mock.patch.object(where, what, make(getattr(where, what)))
            stack.enter_context(patch)
        yield
