"""The flow of enrichment: an event in, its snapshot read, one enriched message out.

History entry first (its commit time is the event's time of receipt), then one read of PortaBilling
for all handlers that want the event, then the publish, then the record. Cut off anywhere, the
event comes again and the ledger tells copies apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from nsps.cloud.messages import EnrichedMessage, MalformedMessage, Publisher, RawEventMessage
from nsps.cloud.store import StoreRefused, StoreUnavailable
from nsps.delivery.history import Entry, History
from nsps.domain.event import EspfEvent, InvalidWebhook, Owner, UnreadableOwner, owner_of
from nsps.domain.outcome import DeliveryError, Transient
from nsps.domain.routing import wants
from nsps.domain.snapshot import Block, PbData
from nsps.flows.reading import Reading
from nsps.portabilling.freshness import Fresh, FreshReads
from nsps.portabilling.reader import Reader
from nsps.runtime import log
from nsps.runtime.settings import HandlerSummary

_log = log.get(__name__)


class Enrichment:
    """Enriches events; one per instance, safe to share between threads."""

    def __init__(
        self,
        handlers: Sequence[HandlerSummary],
        topic: str,
        history: History,
        publisher: Publisher,
        reader: Callable[[], Reader],
        reads: FreshReads[PbData],
        reading: Reading,
    ) -> None:
        self._handlers, self._topic = handlers, topic
        self._history, self._publisher = history, publisher
        self._reader, self._reads, self._reading = reader, reads, reading

    def handle(self, raw: RawEventMessage) -> None:
        """Enrich one event and publish it; return when the message may be acknowledged.

        Raises Transient when it must come again, MalformedMessage when it is no event.
        """
        try:
            event = raw.event
        except InvalidWebhook as error:
            self._failed(raw, None, (), f"the event cannot be read: {error}")
            raise MalformedMessage(str(error)) from error
        wanted = self._wanted(event, raw)
        try:
            self._enrich(raw, event, wanted)
        except Exception as error:  # whatever it is, it is the event's own failure
            if isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused):
                raise  # it could not be recorded either
            self._failed(raw, event, wanted, _reason(error))
            raise

    def _enrich(
        self, raw: RawEventMessage, event: EspfEvent, wanted: Sequence[HandlerSummary]
    ) -> None:
        entry = self._history.open(raw, event, [handler.name for handler in wanted])
        if not wanted:
            _log.info("no handler wants the event", event_type=event.event_type)
            return
        if entry.enriched:
            _log.info("the event has been enriched before", event_type=event.event_type)
            return
        try:
            owner = owner_of(event, raw.event_id)
        except UnreadableOwner as error:
            self._history.rejected(raw, str(error))
            _log.error("rejected: it cannot be read whom it is about", reason=str(error))
            return
        blocks = frozenset(block for handler in wanted for block in handler.requires)
        started = time.monotonic()
        owner, fresh = self._read(event, owner, blocks, entry)
        read_ms = round((time.monotonic() - started) * 1000, 1)
        self._publish(raw, event, owner, entry, fresh, wanted)
        self._history.enriched(raw, owner, fresh.t, fresh.value, read_ms=read_ms)
        _log.info(
            "enriched",
            event_type=event.event_type,
            handlers=",".join(handler.name for handler in wanted),
            read_ms=read_ms,
        )

    def _wanted(self, event: EspfEvent, raw: RawEventMessage) -> list[HandlerSummary]:
        if raw.handler is not None:  # a parked or replayed event, for its one handler
            return [handler for handler in self._handlers if handler.name == raw.handler]
        return [handler for handler in self._handlers if wants(handler.events, event.event_type)]

    def _read(
        self,
        event: EspfEvent,
        owner: Owner,
        blocks: frozenset[Block],
        entry: Entry,
    ) -> tuple[Owner, Fresh[PbData]]:
        """The snapshot, and whose it is: an event that names only a SIM card or a number speaks of
        the account behind it, or the ledger would hold the same resource under two owners."""
        if not blocks:
            return owner, Fresh(PbData(), entry.t)
        return self._reading.read(owner, lambda: self._snapshot(event, owner, blocks, entry))

    def _snapshot(
        self, event: EspfEvent, owner: Owner, blocks: frozenset[Block], entry: Entry
    ) -> tuple[Owner, Fresh[PbData]]:
        reader = self._reader()
        owner = reader.account_behind(owner)
        fresh = reader.read_fresh(self._reads, event, owner, blocks, entry.t)
        speaks_for = _whose(fresh.value, owner)
        if speaks_for != owner:  # the card was given to an account between the two reads
            owner = speaks_for
            fresh = reader.read_fresh(self._reads, event, owner, blocks, entry.t)
        return owner, fresh

    def _publish(
        self,
        raw: RawEventMessage,
        event: EspfEvent,
        owner: Owner,
        entry: Entry,
        fresh: Fresh[PbData],
        wanted: Sequence[HandlerSummary],
    ) -> None:
        message = EnrichedMessage(
            event_id=raw.event_id,
            event=event,
            pb_data=fresh.value.to_contract(),
            read=fresh.value.read,
            t=fresh.t,
            owner=owner,
            received_at=raw.received_at,
            created_at=entry.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
            updated_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            trace=raw.trace,
            handlers=tuple(handler.name for handler in wanted),
            run=raw.run,
            retry_round=raw.retry_round,
        )
        self._publisher.publish(self._topic, *message.to_pubsub())

    def _failed(
        self,
        raw: RawEventMessage,
        event: EspfEvent | None,
        wanted: Sequence[HandlerSummary],
        reason: str,
    ) -> None:
        """Record the failure; where that fails too, the message comes again all the same."""
        try:
            self._history.failed(raw, event, [handler.name for handler in wanted], reason)
        except Transient as error:
            _log.warning("the failure could not be recorded", reason=str(error))
        except Exception as error:
            _log.error("the failure could not be recorded", error=error)


def _reason(error: Exception) -> str:
    if isinstance(error, DeliveryError):
        return str(error)
    return f"enrichment failed unexpectedly ({type(error).__name__}): its log says where"


def _whose(pb: PbData, owner: Owner) -> Owner:
    """Whom a snapshot turned out to show: an account's state is never claimed by another owner."""
    if owner.kind == "account":
        return owner
    account = pb.account_info if Block.ACCOUNT_INFO in pb.read else None
    sim = pb.sim_info if owner.kind == "sim" and Block.SIM_INFO in pb.read else None
    i_account = account.i_account if account else None
    if i_account is None and sim:
        i_account = sim.i_account
    return owner if i_account is None else Owner("account", str(i_account))
