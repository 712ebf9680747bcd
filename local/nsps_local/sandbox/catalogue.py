"""What can happen to products, access policies, numbers and invoices."""

from __future__ import annotations

import json

from nsps_local.sandbox.domain import Domain, Refused
from nsps_local.sandbox.store import Row
from nsps_local.sandbox.times import day


class Catalogue(Domain):
    """Operations on products, access policies, numbers and invoices."""

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
