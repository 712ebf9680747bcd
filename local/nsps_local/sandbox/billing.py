"""What can happen to customers, accounts and SIM cards, and which changes PortaBilling notices.

Each operation is one transaction: the change and its events become visible together, so an event
never tells of something the API does not answer yet. An operation PortaBilling would not allow
raises Refused and changes nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from nsps_local.sandbox.event_queue import EventQueue
from nsps_local.sandbox.events import (
    BUNDLE_TOPPED_UP,
    CUSTOMER_CONTACT,
    SIM_ASSIGNMENT,
    SIM_CREATED,
    SIM_DELETED,
    SIM_STATUS,
    Change,
)
from nsps_local.sandbox.store import Row, Store
from nsps_local.sandbox.times import Clock, day, moment

REALM = "@msisdn"
CLOSED = "C"
QUOTA_EVENTS = {
    "voice": "Account/Service/QuotaExceeded",
    "netaccess": "Account/Service/Netaccess/QuotaExceeded",
    "msg": "Account/Service/Msg/QuotaExceeded",
}


class Refused(ValueError):
    """PortaBilling would not do that; the text says why."""


class NotFound(Refused):
    """There is no such customer, account, card or product."""


class Billing:
    """The domain: operations by name, each returning {"…": ids, "events": [{"i_event",
    "event_type"}]}.
    """

    def __init__(self, store: Store, queue: EventQueue, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock

    # ---- customers

    def add_customer(
        self,
        name: str,
        email: str | None = None,
        firstname: str | None = None,
        lastname: str | None = None,
        companyname: str | None = None,
    ) -> Row:
        with self._change() as done:
            self._free("customers", "name", name)
            i_customer = self._store.run(
                "INSERT INTO customers (name, companyname, firstname, lastname, email, creation_date)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                *(name, companyname, firstname, lastname, email, moment(self._clock())),
            )
            done.tell("Customer/New", i_customer=i_customer)
            done.result["i_customer"] = i_customer
        return done.result

    def update_customer(
        self,
        i_customer: int,
        name: str | None = None,
        email: str | None = None,
        firstname: str | None = None,
        lastname: str | None = None,
        phone1: str | None = None,
    ) -> Row:
        with self._change() as done:
            self._open_customer(i_customer)
            given = {"name": name, "email": email, "firstname": firstname}
            self._set("customers", i_customer, {**given, "lastname": lastname, "phone1": phone1})
            if name or firstname or lastname:
                done.tell("Customer/Name/Changed", i_customer=i_customer)
            if email or phone1:
                done.tell(CUSTOMER_CONTACT, i_customer=i_customer)
        return done.result

    def block_customer(self, i_customer: int) -> Row:
        return self._switch_customer(i_customer, "blocked", "Y", "Blocked")

    def unblock_customer(self, i_customer: int) -> Row:
        return self._switch_customer(i_customer, "blocked", "N", "Unblocked")

    def suspend_customer(self, i_customer: int) -> Row:
        return self._switch_customer(i_customer, "bill_status", "S", "Status/Suspended")

    def unsuspend_customer(self, i_customer: int) -> Row:
        return self._switch_customer(i_customer, "bill_status", "O", "Status/SuspensionRemoved")

    def close_customer(self, i_customer: int) -> Row:
        """Terminate a customer and all its accounts; their SIM cards go back to the inventory."""
        with self._change() as done:
            self._open_customer(i_customer)
            for account in self._accounts_of("i_customer", i_customer):
                self._close(account, done)
            self._set("customers", i_customer, {"bill_status": CLOSED})
            done.tell("Customer/Status/Closed", i_customer=i_customer)
        return done.result

    def _switch_customer(self, i_customer: int, column: str, value: str, what: str) -> Row:
        with self._change() as done:
            customer = self._open_customer(i_customer)
            if customer[column] == value:
                return done.result
            self._set("customers", i_customer, {column: value})
            done.tell(f"Customer/{what}", i_customer=i_customer)
            self._dispatch(done, "i_customer", i_customer, f"Account/{what}")
        return done.result

    # ---- accounts

    def add_account(
        self,
        msisdn: str,
        i_customer: int,
        i_product: int,
        i_sim_card: int | None = None,
        firstname: str | None = None,
        lastname: str | None = None,
        email: str | None = None,
    ) -> Row:
        """A mobile subscriber, with its card if one is given."""
        with self._change() as done:
            self._open_customer(i_customer)
            self._product(i_product, addon=False)
            id_ = msisdn if "@" in msisdn else msisdn + REALM
            self._free("accounts", "id", id_)
            now = self._clock()
            i_account = self._store.run(
                "INSERT INTO accounts (id, i_customer, i_product, firstname, lastname, email,"
                " activation_date, h323_password) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                *(id_, i_customer, i_product, firstname, lastname, email),
                *(day(now), secrets.token_urlsafe(9)),
            )
            done.tell("Account/New", i_account=i_account)
            if i_sim_card is not None:
                self._hand_out(i_sim_card, self._account(i_account))
                done.tell(SIM_ASSIGNMENT, i_account=i_account, i_sim_card=i_sim_card)
            done.result.update(i_account=i_account, id=id_)
        return done.result

    def update_account(
        self,
        i_account: int,
        firstname: str | None = None,
        lastname: str | None = None,
        email: str | None = None,
    ) -> Row:
        with self._change() as done:
            self._open_account(i_account)
            given = {"firstname": firstname, "lastname": lastname, "email": email}
            self._set("accounts", i_account, given)
            if firstname or lastname:
                done.tell("Subscriber/Name/Changed", i_account=i_account)
            if email:
                done.tell("Subscriber/ContactInfo/Changed", i_account=i_account)
        return done.result

    def change_account_id(self, i_account: int, msisdn: str) -> Row:
        """Another number for the subscriber; its card takes the number over."""
        with self._change() as done:
            self._open_account(i_account)
            id_ = msisdn if "@" in msisdn else msisdn + REALM
            self._free("accounts", "id", id_)
            self._set("accounts", i_account, {"id": id_})
            self._store.run(
                "UPDATE sim_cards SET msisdn = ? WHERE i_account = ?", id_.split("@")[0], i_account
            )
            done.tell("Account/Id/Changed", i_account=i_account)
        return done.result

    def block_account(self, i_account: int) -> Row:
        return self._switch_account(i_account, "blocked", "Y", "Account/Blocked")

    def unblock_account(self, i_account: int) -> Row:
        return self._switch_account(i_account, "blocked", "N", "Account/Unblocked")

    def suspend_account(self, i_account: int) -> Row:
        return self._switch_account(i_account, "bill_status", "S", "Account/Status/Suspended")

    def unsuspend_account(self, i_account: int) -> Row:
        kind = "Account/Status/SuspensionRemoved"
        return self._switch_account(i_account, "bill_status", "O", kind)

    def close_account(self, i_account: int) -> Row:
        """Terminate an account; its SIM card goes back to the inventory."""
        with self._change() as done:
            self._close(self._open_account(i_account), done)
        return done.result

    def change_product(self, i_account: int, i_product: int) -> Row:
        with self._change() as done:
            account = self._open_account(i_account)
            self._product(i_product, addon=False)
            if account["i_product"] != i_product:
                self._set("accounts", i_account, {"i_product": i_product})
                done.tell("Account/Product/Changed", i_account=i_account)
        return done.result

    def set_service_feature(
        self, i_account: int, name: str, flag: str, attributes: dict[str, str] | None = None
    ) -> Row:
        """Override a service feature of one account ("Y", "N", or "~" to inherit again)."""
        with self._change() as done:
            account = self._open_account(i_account)
            features = json.loads(account["features"])
            features[name] = {"flag": flag, "attributes": attributes or {}}
            if flag == "~":
                del features[name]
            self._set("accounts", i_account, {"features": json.dumps(features)})
            done.tell("Account/ServiceAttribute/Changed", i_account=i_account)
        return done.result

    def exceed_quota(
        self, i_account: int, service: Literal["voice", "netaccess", "msg"] = "netaccess"
    ) -> Row:
        """The volume of a service is used up. Only that of voice is also a SIM event."""
        with self._change() as done:
            self._open_account(i_account)
            done.tell(QUOTA_EVENTS[service], i_account=i_account)
        return done.result

    def _switch_account(self, i_account: int, column: str, value: str, kind: str) -> Row:
        with self._change() as done:
            account = self._open_account(i_account)
            if account[column] != value:
                self._set("accounts", i_account, {column: value})
                done.tell(kind, i_account=i_account)
        return done.result

    def _close(self, account: Row, done: Changes) -> None:
        i_account = account["i_account"]
        card = self._card_of(i_account)
        if card:
            self._take_back(card["i_sim_card"])
            done.tell(SIM_ASSIGNMENT, i_account=i_account, prev_i_sim_card=card["i_sim_card"])
        self._set("accounts", i_account, {"bill_status": CLOSED})
        done.tell("Account/Status/Closed", i_account=i_account)

    # ---- add-ons and bundles

    def add_addon(self, i_account: int, i_product: int, effective_to: str | None = None) -> Row:
        """Give an account an add-on product; with it come the counters of its bundle."""
        with self._change() as done:
            self._open_account(i_account)
            addon = self._product(i_product, addon=True)
            held = "SELECT 1 FROM addons WHERE i_account = ? AND i_product = ?"
            if self._store.row(held, i_account, i_product):
                raise Refused(f"Account {i_account} already has the add-on {addon['name']}.")
            self._store.run(
                "INSERT INTO addons VALUES (?, ?, ?, ?)",
                *(i_account, i_product, moment(self._clock()), effective_to),
            )
            if addon["i_vd_plan"] is not None:
                self._store.run(
                    "INSERT OR IGNORE INTO counters (i_account, i_vd_plan) VALUES (?, ?)",
                    *(i_account, addon["i_vd_plan"]),
                )
            done.tell("Account/ProductAddon/Inserted", i_account=i_account)
        return done.result

    def remove_addon(self, i_account: int, i_product: int) -> Row:
        with self._change() as done:
            self._open_account(i_account)
            held = "SELECT * FROM addons WHERE i_account = ? AND i_product = ?"
            if not self._store.row(held, i_account, i_product):
                raise Refused(f"Account {i_account} has no add-on {i_product}.")
            self._store.run(
                "DELETE FROM addons WHERE i_account = ? AND i_product = ?", i_account, i_product
            )
            plan = self._product(i_product, addon=True)["i_vd_plan"]
            self._store.run(
                "DELETE FROM counters WHERE i_account = ? AND i_vd_plan = ?", i_account, plan
            )
            done.tell("Account/ProductAddon/Deleted", i_account=i_account)
        return done.result

    def top_up_bundle(self, i_account: int, i_vd_plan: int, amount: float) -> Row:
        """More volume for a bundle, in its unit."""
        return self._count(i_account, i_vd_plan, topped_up=amount)

    def use_bundle(self, i_account: int, i_vd_plan: int, amount: float) -> Row:
        """Spend some of a bundle; nothing is told of it, only of the quota (exceed_quota)."""
        return self._count(i_account, i_vd_plan, used=amount)

    def _count(self, i_account: int, i_vd_plan: int, used: float = 0, topped_up: float = 0) -> Row:
        with self._change() as done:
            self._open_account(i_account)
            counter = "i_account = ? AND i_vd_plan = ?"
            if not self._store.row(f"SELECT 1 FROM counters WHERE {counter}", i_account, i_vd_plan):  # noqa: S608
                raise Refused(f"Account {i_account} has no bundle {i_vd_plan}.")
            self._store.run(
                f"UPDATE counters SET used = used + ?, topped_up = topped_up + ? WHERE {counter}",  # noqa: S608
                *(used, topped_up, i_account, i_vd_plan),
            )
            if topped_up:
                done.tell(BUNDLE_TOPPED_UP, i_account=i_account)
        return done.result

    # ---- SIM cards

    def add_sim_card(self, imsi: str, iccid: str, msisdn: str | None = None) -> Row:
        """Upload a card into the inventory."""
        with self._change() as done:
            self._free("sim_cards", "imsi", imsi)
            self._free("sim_cards", "iccid", iccid)
            secret = [secrets.token_hex(16).upper() for _ in ("ki", "opc")]
            digits = [f"{secrets.randbelow(10**n):0{n}d}" for n in (4, 8, 4, 8, 10)]
            i_sim_card = self._store.run(
                "INSERT INTO sim_cards (iccid, imsi, msisdn, ki, opc, pin1, puk1, pin2, puk2,"
                " activation_code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(iccid, imsi, msisdn, *secret, *digits),
            )
            done.tell(SIM_CREATED, i_sim_card=i_sim_card)
            done.result["i_sim_card"] = i_sim_card
        return done.result

    def remove_sim_card(self, i_sim_card: int) -> Row:
        """Delete a card from the inventory; one in use cannot be."""
        with self._change() as done:
            card = self._card(i_sim_card)
            if card["i_account"] is not None:
                raise Refused(f"SIM card {i_sim_card} is in use by account {card['i_account']}.")
            self._store.run("DELETE FROM sim_cards WHERE i_sim_card = ?", i_sim_card)
            done.tell(SIM_DELETED, i_sim_card=i_sim_card)
        return done.result

    def set_sim_status(
        self, i_sim_card: int, status: Literal["available", "reserved", "disposed"]
    ) -> Row:
        with self._change() as done:
            card = self._card(i_sim_card)
            if card["i_account"] is not None:
                raise Refused(f"SIM card {i_sim_card} is in use by account {card['i_account']}.")
            if card["status"] != status:
                self._set("sim_cards", i_sim_card, {"status": status})
                words = {"curr_status": status, "prev_status": card["status"]}
                done.tell_more(SIM_STATUS, words, i_sim_card=i_sim_card)
        return done.result

    def assign_sim(self, i_account: int, i_sim_card: int) -> Row:
        """Give a card from the inventory to an account that has none."""
        with self._change() as done:
            account = self._open_account(i_account)
            if card := self._card_of(i_account):
                raise Refused(
                    f"Account {i_account} already has SIM card {card['i_sim_card']}; swap it."
                )
            self._hand_out(i_sim_card, account)
            done.tell(SIM_ASSIGNMENT, i_account=i_account, i_sim_card=i_sim_card)
        return done.result

    def swap_sim(
        self,
        i_account: int,
        i_sim_card: int,
        old_card: Literal["available", "reserved", "disposed"] = "available",
    ) -> Row:
        """Replace the card of an account by another from the inventory: one event for both cards."""
        with self._change() as done:
            account = self._open_account(i_account)
            old = self._card_of(i_account)
            if not old:
                raise Refused(f"Account {i_account} has no SIM card to swap; assign one.")
            self._take_back(old["i_sim_card"], old_card)
            self._hand_out(i_sim_card, account)
            ids = {"i_sim_card": i_sim_card, "prev_i_sim_card": old["i_sim_card"]}
            done.tell(SIM_ASSIGNMENT, i_account=i_account, **ids)
        return done.result

    def release_sim(self, i_account: int) -> Row:
        """Take the card of an account back into the inventory."""
        with self._change() as done:
            self._open_account(i_account)
            old = self._card_of(i_account)
            if not old:
                raise Refused(f"Account {i_account} has no SIM card.")
            self._take_back(old["i_sim_card"])
            done.tell(SIM_ASSIGNMENT, i_account=i_account, prev_i_sim_card=old["i_sim_card"])
        return done.result

    def move_sim(self, i_sim_card: int, i_account: int) -> Row:
        """Move a card in use to another account; both accounts get an event, in one transaction."""
        with self._change() as done:
            holder = self._card(i_sim_card)["i_account"]
            if holder is None:
                raise Refused(f"SIM card {i_sim_card} is not in use; assign it.")
            if holder == i_account:
                raise Refused(f"Account {i_account} already has SIM card {i_sim_card}.")
            account = self._open_account(i_account)
            displaced = self._card_of(i_account)
            ids = {"i_sim_card": i_sim_card}
            if displaced:
                self._take_back(displaced["i_sim_card"])
                ids["prev_i_sim_card"] = displaced["i_sim_card"]
            self._take_back(i_sim_card)
            self._hand_out(i_sim_card, account)
            done.tell(SIM_ASSIGNMENT, i_account=holder, prev_i_sim_card=i_sim_card)
            done.tell(SIM_ASSIGNMENT, i_account=i_account, **ids)
        return done.result

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

    # ---- products and access policies

    def set_access_policy_attribute(
        self, i_access_policy: int, group_name: str, name: str, value: str
    ) -> Row:
        """Change what a policy says; every account whose product has it is told."""
        with self._change() as done:
            policy = self._found("access_policies", i_access_policy)
            attributes = [
                a
                for a in json.loads(policy["attributes"])
                if (a["group_name"], a["name"]) != (group_name, name)
            ]
            attributes.append({"group_name": group_name, "name": name, "values": [value]})
            self._set("access_policies", i_access_policy, {"attributes": json.dumps(attributes)})
            done.tell("AccessPolicy/Changed", i_access_policy=i_access_policy)
            for product in self._store.rows(
                "SELECT i_product FROM products WHERE i_access_policy = ?", i_access_policy
            ):
                i_product = product["i_product"]
                self._dispatch(done, "i_product", i_product, "Account/AccessPolicy/Changed")
        return done.result

    def set_product_access_policy(self, i_product: int, i_access_policy: int) -> Row:
        """Give a product another access policy; every account with the product is told."""
        with self._change() as done:
            self._found("access_policies", i_access_policy)
            self._product(i_product, addon=False)
            self._set("products", i_product, {"i_access_policy": i_access_policy})
            done.tell("Product/AccessPolicy/Changed", i_product=i_product)
            self._dispatch(done, "i_product", i_product, "Account/AccessPolicy/Changed")
        return done.result

    # ---- numbers and invoices

    def add_number(self, number: str) -> Row:
        with self._change() as done:
            self._free("numbers", "number", number)
            self._store.run("INSERT INTO numbers (number) VALUES (?)", number)
            done.tell("DID/New", number=number)
        return done.result

    def assign_number(self, number: str, i_account: int) -> Row:
        with self._change() as done:
            self._open_account(i_account)
            known = self._number(number)
            values = (i_account, "assigned", number)
            self._store.run(
                "UPDATE numbers SET i_account = ?, status = ? WHERE number = ?", *values
            )
            moved = known["i_account"] is not None
            done.tell(f"DID/Status/{'Moved' if moved else 'Assigned'}", number=number)
        return done.result

    def release_number(self, number: str) -> Row:
        with self._change() as done:
            if self._number(number)["i_account"] is None:
                raise Refused(f"Number {number} is not assigned to an account.")
            values = ("available", number)
            self._store.run(
                "UPDATE numbers SET i_account = NULL, status = ? WHERE number = ?", *values
            )
            done.tell("DID/Status/Unassigned", number=number)
        return done.result

    def remove_number(self, number: str) -> Row:
        with self._change() as done:
            if self._number(number)["i_account"] is not None:
                raise Refused(f"Number {number} is assigned to an account; release it first.")
            self._store.run("DELETE FROM numbers WHERE number = ?", number)
            done.tell("DID/Deleted", number=number)
        return done.result

    def issue_invoice(self, i_customer: int, amount: float) -> Row:
        with self._change() as done:
            self._open_customer(i_customer)
            i_invoice = self._store.run(
                "INSERT INTO invoices (i_customer, amount, issue_date) VALUES (?, ?, ?)",
                *(i_customer, amount, day(self._clock())),
            )
            done.tell("Invoice/New", i_customer=i_customer, i_invoice=i_invoice)
            done.result["i_invoice"] = i_invoice
        return done.result

    def pay_invoice(self, i_invoice: int, amount: float) -> Row:
        with self._change() as done:
            invoice = self._found("invoices", i_invoice)
            self._store.run(
                "UPDATE invoices SET paid = paid + ? WHERE i_invoice = ?", amount, i_invoice
            )
            i_customer = invoice["i_customer"]
            done.tell("Invoice/AmountPaid/Changed", i_customer=i_customer, i_invoice=i_invoice)
        return done.result

    # ---- what the operations are made of

    @contextmanager
    def _change(self) -> Iterator[Changes]:
        """One operation: what it changes and tells is written together, then the sender is woken."""
        done = Changes()
        with self._store.transaction():
            yield done
            done.result["events"] = self._queue.add(done.told)
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
            raise NotFound(f"There is no {KEYS[table]} {id_}.")
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
            raise NotFound(f"There is no number {number}.")
        return known


KEYS = {
    "customers": "i_customer",
    "accounts": "i_account",
    "products": "i_product",
    "access_policies": "i_access_policy",
    "sim_cards": "i_sim_card",
    "invoices": "i_invoice",
}


class Changes:
    """What one operation has to tell and to answer."""

    def __init__(self) -> None:
        self.told: list[Change] = []
        self.result: Row = {"events": []}

    def tell(self, kind: str, **ids: object) -> None:
        self.told.append(Change(kind, dict(ids)))

    def tell_more(self, kind: str, extra: dict[str, object], **ids: object) -> None:
        self.told.append(Change(kind, dict(ids), dict(extra)))
