"""What every operation is made of: one transaction, in which the change and its events are written
together.

So an event never tells of something the API does not answer yet. An operation PortaBilling would
not allow raises Refused and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nsps_local.sandbox.event_queue import EventQueue
from nsps_local.sandbox.events import Change
from nsps_local.sandbox.store import Row, Store
from nsps_local.sandbox.times import Clock

CLOSED = "C"
KEYS = {
    "customers": "i_customer",
    "accounts": "i_account",
    "products": "i_product",
    "access_policies": "i_access_policy",
    "sim_cards": "i_sim_card",
    "invoices": "i_invoice",
}


class Refused(ValueError):
    """PortaBilling would not do that; the text says why."""


class NotFound(Refused):
    """There is no such customer, account, card or product: ``what``, as a fault code names it."""

    def __init__(self, text: str, what: str = "object") -> None:
        super().__init__(text)
        self.what = what


class Changes:
    """What one operation has to tell and to answer."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.result: Row = {"events": []}

    def tell(self, kind: str, **ids: object) -> None:
        self.changes.append(Change(kind, dict(ids)))

    def tell_more(self, kind: str, extra: dict[str, object], **ids: object) -> None:
        self.changes.append(Change(kind, dict(ids), dict(extra)))


class Domain:
    """The ground the operations stand on: looking things up, changing them, telling of it."""

    def __init__(self, store: Store, queue: EventQueue, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock

    @contextmanager
    def _change(self) -> Iterator[Changes]:
        """One operation: what it changes and tells is written, then the sender is woken."""
        done = Changes()
        with self._store.transaction():
            yield done
            done.result["events"] = self._queue.add(done.changes)
        self._queue.announce()

    def _dispatch(self, done: Changes, column: str, value: int, kind: str) -> None:
        """What PortaBilling's dispatchers do: a change above becomes one event for each account
        below.
        """
        for account in self._accounts_of(column, value):
            done.tell(kind, i_account=account["i_account"])

    def _accounts_of(self, column: str, value: int) -> list[Row]:
        return self._store.rows(
            f"SELECT * FROM accounts WHERE {column} = ? AND bill_status <> 'C' ORDER BY i_account",  # noqa: S608
            value,
        )

    def _set(self, table: str, id_: int, values: Mapping[str, object]) -> None:
        """Write the given values into one row; None means: not given."""
        given = {column: value for column, value in values.items() if value is not None}
        if not given:
            raise Refused("Nothing to change: give at least one new value.")
        columns = ", ".join(f"{column} = ?" for column in given)
        self._store.run(
            f"UPDATE {table} SET {columns} WHERE {KEYS[table]} = ?",  # noqa: S608
            *(*given.values(), id_),
        )

    def _free(self, table: str, column: str, value: str) -> None:
        if not value.strip():
            raise Refused(f"The {column} must not be empty.")
        if self._store.row(f"SELECT 1 FROM {table} WHERE {column} = ?", value):  # noqa: S608
            raise Refused(f"There is already one of {table} with {column} {value!r}.")

    def _found(self, table: str, id_: int) -> Row:
        row = self._store.row(f"SELECT * FROM {table} WHERE {KEYS[table]} = ?", id_)  # noqa: S608
        if not row:
            key = KEYS[table]
            raise NotFound(f"There is no {key} {id_}.", key.removeprefix("i_"))
        return row

    def _account(self, i_account: int) -> Row:
        return self._found("accounts", i_account)

    def _open_account(self, i_account: int) -> Row:
        account = self._account(i_account)
        if account["bill_status"] == CLOSED:
            raise Refused(f"Account {i_account} is closed.")
        return account

    def _open_customer(self, i_customer: int) -> Row:
        customer = self._found("customers", i_customer)
        if customer["bill_status"] == CLOSED:
            raise Refused(f"Customer {i_customer} is closed.")
        return customer

    def _product(self, i_product: int, addon: bool) -> Row:
        product = self._found("products", i_product)
        if bool(product["addon_priority"]) is not addon:
            kind = "a main product" if product["addon_priority"] == 0 else "an add-on"
            raise Refused(f"Product {product['name']} is {kind}.")
        return product

    def _card(self, i_sim_card: int) -> Row:
        return self._found("sim_cards", i_sim_card)

    def _card_of(self, i_account: int) -> Row | None:
        return self._store.row("SELECT * FROM sim_cards WHERE i_account = ?", i_account)

    def _number(self, number: str) -> Row:
        known = self._store.row("SELECT * FROM numbers WHERE number = ?", number)
        if not known:
            raise NotFound(f"There is no number {number}.", "number")
        return known

    def _hand_out(self, i_sim_card: int, account: Row) -> None:
        card = self._card(i_sim_card)
        if card["i_account"] is not None or card["status"] == "disposed":
            raise Refused(f"SIM card {i_sim_card} is {card['status']}; take another.")
        values = {"status": "used", "msisdn": account["id"].split("@")[0]}
        self._set("sim_cards", i_sim_card, {**values, "i_account": account["i_account"]})

    def _take_back(self, i_sim_card: int, status: str = "available") -> None:
        self._store.run(
            "UPDATE sim_cards SET i_account = NULL, status = ? WHERE i_sim_card = ?",
            status,
            i_sim_card,
        )
