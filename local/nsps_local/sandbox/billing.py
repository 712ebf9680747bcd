"""What can happen to customers, accounts and SIM cards, and which changes PortaBilling notices."""

from __future__ import annotations

import json
import secrets
from typing import Literal

from nsps_local.sandbox.catalogue import Catalogue
from nsps_local.sandbox.domain import CLOSED, Changes, Refused
from nsps_local.sandbox.events import BUNDLE_TOPPED_UP, CUSTOMER_CONTACT, SIM_ASSIGNMENT
from nsps_local.sandbox.sim_cards import SimCards
from nsps_local.sandbox.store import Row
from nsps_local.sandbox.times import day, moment

REALM = "@msisdn"
QUOTA_EVENTS = {
    "voice": "Account/Service/QuotaExceeded",
    "netaccess": "Account/Service/Netaccess/QuotaExceeded",
    "msg": "Account/Service/Msg/QuotaExceeded",
}


class Billing(SimCards, Catalogue):
    """All operations, each returning the ids it made and "events": [{"i_event", "event_type"}].

    Raises Refused (or NotFound) with a sentence; then nothing has changed.
    """

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
                "INSERT INTO customers"
                " (name, companyname, firstname, lastname, email, creation_date)"
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

    def change_service_password(self, i_account: int, password: str) -> Row:
        """What the subscriber's SIP phone registers with."""
        with self._change() as done:
            self._open_account(i_account)
            self._set("accounts", i_account, {"h323_password": password})
            done.tell("Account/ServicePassword/Changed", i_account=i_account)
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
