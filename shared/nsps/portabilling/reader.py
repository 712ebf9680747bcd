"""What is read from PortaBilling for an event: only the blocks that are needed, side by side.

The snapshot of an owner depends on the owner alone, so that events of one owner can share it
("newest wins" compares snapshots of an owner, and handlers derive what they want from them). What
an event's own variables name (the previous SIM of a swap) is read for that event alone and laid
beside the shared part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from nsps.domain.event import EspfEvent, Owner, SnapshotTime
from nsps.domain.snapshot import (
    AccountInfo,
    Block,
    CustomerInfo,
    PbData,
    SimInfo,
    VdCounter,
    as_integer,
)
from nsps.portabilling import mapping
from nsps.portabilling.body import LOST
from nsps.portabilling.client import ServicePaths
from nsps.portabilling.errors import Fault, NotFound, OtherAnswer, Reading
from nsps.portabilling.freshness import Fresh, FreshReads
from nsps.runtime import log

T = TypeVar("T")

_log = log.get(__name__)
_DAMAGED: ContextVar[set[str]] = ContextVar("damaged")
"""The damaged answers of the read at hand; its threads share the set."""

READ_THREADS = 8

# Members under which an answer has been seen to hold its object.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "account_info": ("account_info",),
    "sim_card_info": ("card_info", "sim_card_info", "sim_info"),
    "access_policy_info": ("access_policy_info",),
    "product_info": ("product_info",),
    "full_vd_counter_info": ("full_vd_counter_info", "vd_counter_info", "vd_counter_list"),
    "customer_info": ("customer_info",),
    "number_info": ("number_info", "did_number_info"),
    "invoice_info": ("invoice_info",),
}
_NEED_ACCOUNT = frozenset(
    {Block.ACCOUNT_INFO, Block.PRODUCT_INFO, Block.ACCESS_POLICY_INFO, Block.CUSTOMER_INFO}
)
_PREVIOUS = (
    ("i_sim_card", "prev_i_sim_card"),
    ("iccid", "prev_iccid"),
    ("imsi", "prev_imsi"),
    ("msisdn", "prev_msisdn"),
)


class Client(Protocol):
    """Answers reading calls by their names in ServicePaths: PortaBilling, or lists of it."""

    @property
    def services(self) -> ServicePaths: ...

    def call(self, what: str, params: Mapping[str, Any]) -> Reading: ...


class Reader:
    """Reads snapshots through one client. ``threads``: how many reads go out beside the callers."""

    def __init__(self, client: Client, threads: int = READ_THREADS) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="portabilling-read")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, event: EspfEvent, owner: Owner, blocks: Iterable[Block]) -> PbData:
        """The owner's blocks and what the event itself names. An owner that is gone has none."""
        wanted = frozenset(blocks)
        return self.with_event_part(self.read_owner(owner, wanted), event, owner, wanted)

    def read_fresh(
        self,
        reads: FreshReads[PbData],
        event: EspfEvent,
        owner: Owner,
        blocks: Iterable[Block],
        received: SnapshotTime,
    ) -> Fresh[PbData]:
        """As ``read``; the owner's part comes from a read that began after ``received``, shared
        with other events of the owner that want the same blocks."""
        wanted = frozenset(blocks)
        shared = reads.get((owner, wanted), received, lambda: self.read_owner(owner, wanted))
        return Fresh(self.with_event_part(shared.value, event, owner, wanted), shared.t)

    def read_owner(self, owner: Owner, blocks: frozenset[Block]) -> PbData:
        """The part that depends on the owner alone. Raises what PortaBilling.call raises, except
        NotFound: what is gone is None, and so is a block that this kind of owner does not have."""
        blocks = blocks - {Block.PREV_SIM_INFO}
        if not blocks:
            return PbData()
        return _noting_damage(lambda: self._found(owner, blocks).read_as(blocks))

    def _found(self, owner: Owner, blocks: frozenset[Block]) -> PbData:
        match owner.kind:
            case "account":
                return self._of_account(owner.id, blocks)
            case "customer":
                return self._of_customer(owner.id, blocks)
            case "sim":
                return self._of_sim(owner.id, blocks)
            case "did":
                return self._behind("number_info", {"number": owner.id}, blocks)
            case "invoice":
                return self._behind("invoice_info", {"i_invoice": _id(owner.id)}, blocks)
            case _:
                return PbData()

    def with_event_part(
        self, shared: PbData, event: EspfEvent, owner: Owner, blocks: frozenset[Block]
    ) -> PbData:
        """The shared part with what only this event names: its previous SIM; and its SIM where the
        owner is not one that has SIMs. An account's sim_info is never taken from an event."""
        return _noting_damage(lambda: self._with_event_part(shared, event, owner, blocks))

    def _with_event_part(
        self, shared: PbData, event: EspfEvent, owner: Owner, blocks: frozenset[Block]
    ) -> PbData:
        if Block.PREV_SIM_INFO in blocks:
            previous = self._previous_sim(event)
            now = shared.sim_info if Block.SIM_INFO in shared.read else None
            if previous and _in_use(previous, owner, now):
                previous = None
            shared = shared.with_blocks(prev_sim_info=previous)
        named = event.entity("i_sim_card")
        if Block.SIM_INFO in blocks and named and owner.kind not in ("account", "sim"):
            shared = shared.with_blocks(sim_info=self._sim({"i_sim_card": _id(named)}))
        return shared

    def account_behind(self, owner: Owner) -> Owner:
        """The account that a SIM or a number belongs to now, as owner; else the owner itself.

        For an event that names only a SIM or a number: what is written for it should be owned by
        the account, whose later events will have to change or remove it.
        """
        if owner.kind == "sim":
            sim = self._sim({"i_sim_card": _id(owner.id)})
            i_account = sim.i_account if sim else None
        elif owner.kind == "did":
            raw = self._object("number_info", {"number": owner.id})
            i_account = as_integer(raw.get("i_account")) if raw else None
        else:
            return owner
        return Owner("account", str(i_account)) if i_account is not None else owner

    # --- owners ----------------------------------------------------------------------------------

    def _of_account(self, ident: str, blocks: frozenset[Block]) -> PbData:
        key = {"i_account": _id(ident)}
        sim = counters = None
        if Block.SIM_INFO in blocks:
            sim = self._beside(lambda: self._sim(key))
        if Block.FULL_VD_COUNTER_INFO in blocks:
            counters = self._beside(lambda: self._counters(key))
        account = self._with_account(ident, blocks) if blocks & _NEED_ACCOUNT else PbData()
        return account.with_blocks(
            sim_info=sim.result() if sim else None,
            full_vd_counter_info=counters.result() if counters else None,
        )

    def _with_account(self, ident: str, blocks: frozenset[Block]) -> PbData:
        """The account, and what can only be asked for once the account is known."""
        account = self._account(ident)
        if account is None:
            return PbData()
        policy = product = customer = None
        i_policy = mapping.access_policy_id(account)
        if Block.ACCESS_POLICY_INFO in blocks and i_policy is not None:
            policy = self._beside(
                lambda: mapping.access_policy_info(
                    self._object("access_policy_info", {"i_access_policy": i_policy})
                )
            )
        if Block.PRODUCT_INFO in blocks and account.i_product is not None:
            product = self._beside(
                lambda: mapping.product_info(
                    self._object("product_info", {"i_product": account.i_product})
                )
            )
        if Block.CUSTOMER_INFO in blocks and account.i_customer is not None:
            customer = self._beside(lambda: self._customer(account.i_customer))
        return PbData(
            account_info=account,
            access_policy_info=policy.result() if policy else None,
            product_info=product.result() if product else None,
            customer_info=customer.result() if customer else None,
        )

    def _of_customer(self, ident: str, blocks: frozenset[Block]) -> PbData:
        if Block.CUSTOMER_INFO not in blocks:
            return PbData()
        return PbData(customer_info=self._customer(_id(ident)))

    def _of_sim(self, ident: str, blocks: frozenset[Block]) -> PbData:
        sim = self._sim({"i_sim_card": _id(ident)})
        rest = blocks - {Block.SIM_INFO}
        behind = PbData()
        if sim is not None and sim.i_account is not None and rest:
            behind = self._of_account(str(sim.i_account), rest)
        return behind.with_blocks(sim_info=sim)

    def _behind(self, what: str, key: Mapping[str, Any], blocks: frozenset[Block]) -> PbData:
        """The account, or else the customer, that a number or an invoice belongs to."""
        raw = self._object(what, key)
        if raw is None:
            return PbData()
        i_account, i_customer = as_integer(raw.get("i_account")), as_integer(raw.get("i_customer"))
        if i_account is not None:
            return self._of_account(str(i_account), blocks)
        return self._of_customer(str(i_customer), blocks) if i_customer is not None else PbData()

    # --- blocks ----------------------------------------------------------------------------------

    def _account(self, ident: str) -> AccountInfo | None:
        params = {"i_account": _id(ident), "detailed_info": 1, "get_service_features": 1}
        raw = self._object("account_info", params)
        account = mapping.account_info(raw, datetime.now(UTC))
        if account is not None and str(account.i_account) != ident:
            raise OtherAnswer(
                f"PortaBilling {self._client.services.account_info}: the answer is of another "
                "account than was asked for, or of none"
            )
        if account is not None:
            where = f"PortaBilling {self._client.services.account_info}"
            _check_readable(where, id=account.id, bill_status=account.bill_status)
        return account

    def _sim(self, key: Mapping[str, Any]) -> SimInfo | None:
        """The card that has this id, or that this account has; never one that says otherwise, nor
        one without a number of its own, which would read as a card that nothing is known of."""
        sim = mapping.sim_info(self._object("sim_card_info", key))
        where = f"PortaBilling {self._client.services.sim_card_info}"
        if sim is not None:
            _check_readable(where, imsi=sim.imsi, iccid=sim.iccid, msisdn=sim.msisdn)
        if sim is not None and not (sim.imsi or sim.iccid):
            raise OtherAnswer(
                f"{where}: a card with neither IMSI nor ICCID: check the service path "
                "sim_card_info, and what the API user may see"
            )
        for name, asked in key.items():
            given = getattr(sim, name, None)
            if given is not None and str(given) != str(asked):
                raise OtherAnswer(
                    f"{where}: asked by {name}, it answered with another card: check the service "
                    "path sim_card_info"
                )
        return sim

    def _counters(self, key: Mapping[str, Any]) -> tuple[VdCounter, ...] | None:
        raw = self._member("full_vd_counter_info", key, list)
        return None if raw is None else mapping.vd_counters(raw)

    def _customer(self, i_customer: object) -> CustomerInfo | None:
        raw = self._object("customer_info", {"i_customer": i_customer})
        customer = mapping.customer_info(raw)
        if customer is not None and str(customer.i_customer) != str(i_customer):
            raise OtherAnswer(
                f"PortaBilling {self._client.services.customer_info}: the answer is of another "
                "customer than was asked for, or of none"
            )
        return customer

    def _previous_sim(self, event: EspfEvent) -> SimInfo | None:
        """The SIM that the event says was there before, as PortaBilling has it now. What cannot be
        read (the card is gone) is what the event says of it."""
        named = {name: event.entity(variable) for name, variable in _PREVIOUS}
        i_sim_card = named["i_sim_card"]
        sim = self._sim({"i_sim_card": _id(i_sim_card)}) if i_sim_card else None
        for name in ("iccid", "imsi"):
            if sim is None and named[name]:
                sim = self._sim_by(name, named[name])
        return sim or (mapping.sim_info(named) if any(named.values()) else None)

    def _sim_by(self, name: str, value: object) -> SimInfo | None:
        """A card by a key that not every release knows: one that does not says so with a fault."""
        try:
            return self._sim({name: value})
        except Fault as fault:
            if type(fault) is not Fault:
                raise
            return None

    # --- calls -----------------------------------------------------------------------------------

    def _object(self, what: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._member(what, params, dict)

    def _member(self, what: str, params: Mapping[str, Any], kind: type[T]) -> T | None:
        """The one member that matters of an answer; None if what was asked for is not there.

        "Not there" has to be said: by what nsps.portabilling.absence takes for it, or by a member
        that is null or an empty object (an empty list is a list). An answer of another shape means
        a wrong service path, never "gone".
        """
        try:
            reading = self._client.call(what, params)
        except NotFound:
            return None
        answer = reading.members
        if reading.damaged:
            _log.warning("an answer of PortaBilling is damaged", call=what)
            _DAMAGED.get(set()).add(what)
        name = next((name for name in _KEYS[what] if name in answer), None)
        value = answer.get(name) if name else None
        if name is not None and (value is None or value == {}):
            return None
        if name is None or not isinstance(value, kind):
            raise OtherAnswer(
                f"PortaBilling {getattr(self._client.services, what)}: the answer has no usable "
                f"{_KEYS[what][0]}: check the service path {what} in the configuration"
            )
        return value

    def _beside(self, read: Callable[[], T]) -> Future[T]:
        """Run a read in the pool. Only callers wait for it, never another read: no deadlock."""
        return self._pool.submit(copy_context().run, read)


def _check_readable(where: str, **texts: str | None) -> None:
    """Raise OtherAnswer for a damaged text that decides who is served, or under which number."""
    for name, text in texts.items():
        if text is not None and LOST in text:
            raise OtherAnswer(
                f"{where}: {name} has letters that cannot be read: correct it in PortaBilling"
            )


def _noting_damage(read: Callable[[], PbData]) -> PbData:
    """What ``read`` reads, with the names of the calls whose answers were damaged."""
    damaged: set[str] = set()
    before = _DAMAGED.set(damaged)
    try:
        pb = read()
    finally:
        _DAMAGED.reset(before)
    return pb.with_damage(damaged)


def _in_use(card: SimInfo, owner: Owner, now: SimInfo | None) -> bool:
    """Whether a previous SIM card is somebody's again: what a system is told of as previous, it
    removes. ``now``: the owner's own card, where that was read."""
    same = now is not None and any(
        getattr(card, name) is not None and getattr(card, name) == getattr(now, name)
        for name in ("i_sim_card", "imsi", "iccid")
    )
    if card.i_account is None:
        return same
    return same or now is None or owner != Owner("account", str(card.i_account))


def _id(text: str) -> int | str:
    """An id as the API wants it: a number where it is one."""
    number = as_integer(text)
    return text if number is None else number
