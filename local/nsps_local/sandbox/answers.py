"""The API methods: parameters in, raw answer out. Nothing here knows of HTTP, tokens or faults on
demand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from nsps_local.sandbox import raw
from nsps_local.sandbox.billing import Billing
from nsps_local.sandbox.config import Api
from nsps_local.sandbox.domain import NotFound, Refused
from nsps_local.sandbox.sessions import INVALID, ApiFault
from nsps_local.sandbox.store import Row, Store

Params = dict[str, Any]
Method = Callable[[Params], dict[str, Any]]

MAX_LIMIT = 1000
# What update_account understands, and the operation of the domain each means.
SWITCHES = {"Y": Billing.block_account, "N": Billing.unblock_account}
NAMES = ("firstname", "lastname", "email")


class Answers:
    """All methods of the sandbox by their path, in the attribute `methods`; `writes` are those that
    change.
    """

    def __init__(self, store: Store, billing: Billing, api: Api, i_env: int | None) -> None:
        self._store = store
        self._billing = billing
        self._api = api
        self._i_env = i_env
        self.methods: dict[str, Method] = {
            "Account/get_account_info": self.get_account_info,
            "Account/get_account_list": self.get_account_list,
            "Account/get_alias_list": self.get_alias_list,
            "Account/get_subscriptions": self.get_subscriptions,
            "Account/get_service_features": self.get_service_features,
            "Customer/get_customer_info": self.get_customer_info,
            "Customer/get_customer_list": self.get_customer_list,
            "Product/get_product_info": self.get_product_info,
            "DID/get_number_list": self.get_number_list,
            "DID/get_number_info": self.get_number_info,
            "Invoice/get_invoice_info": self.get_invoice_info,
            "Env/get_env_info": self.get_env_info,
            f"{api.sim_service}/get_card_info": self.get_card_info,
            f"{api.sim_service}/get_card_list": self.get_card_list,
            f"{api.access_policy_service}/get_access_policy_info": self.get_access_policy_info,
            f"{api.counter_service}/get_full_vd_counter_info": self.get_full_vd_counter_info,
        }
        self.writes: dict[str, Method] = {
            "Account/update_account": self.update_account,
            "Account/terminate_account": self.terminate_account,
        }

    def get_account_info(self, params: Params) -> dict[str, Any]:
        """By i_account or id. Flags: detailed_info, with_customer_info, get_service_features,
        without_service_features, get_included_services."""
        account = self._account(params)
        if account is None:
            return self._unknown("Account", "account_not_found", "account_info")
        customer = self._row("customers", "i_customer", account["i_customer"])
        product = self._row("products", "i_product", account["i_product"])
        info = raw.account_info(account, customer, product)
        info["assigned_addons"] = self._addons(account["i_account"])
        if _flag(params, "get_service_features") or _flag(params, "detailed_info"):
            info["service_features"] = raw.service_features(account, product)
        if _flag(params, "without_service_features"):
            info.pop("service_features", None)
        if _flag(params, "get_included_services"):
            info["included_services"] = [
                {"i_service_type": 3, "name": "Voice Calls"},
                {"i_service_type": 32, "name": "Messaging Service"},
                {"i_service_type": 34, "name": "Internet Access"},
            ]
        if _flag(params, "with_customer_info"):
            info["customer_info"] = raw.customer_info(customer)
        return {"account_info": info}

    def get_account_list(self, params: Params) -> dict[str, Any]:
        limit, offset = _page(params)
        where, args = ["1 = 1"], []
        if "i_customer" in params:
            where.append("i_customer = ?")
            args.append(_number(params, "i_customer"))
        if _flag(params, "get_not_closed_accounts"):
            where.append("bill_status <> 'C'")
        if "id" in params:
            where.append("id LIKE ?")
            args.append(params["id"])
        condition = " AND ".join(where)
        accounts = self._store.rows(
            f"SELECT * FROM accounts WHERE {condition} ORDER BY i_account LIMIT ? OFFSET ?",  # noqa: S608
            *(*args, limit, offset),
        )
        entries = self._listed(accounts, params)
        answer: dict[str, Any] = {"account_list": [self._entry(each) for each in entries]}
        if _flag(params, "get_total"):
            total = f"SELECT count(*) FROM accounts WHERE {condition}"  # noqa: S608
            answer["total"] = self._store.value(total, *args)
        return answer

    def get_alias_list(self, params: Params) -> dict[str, Any]:
        """The numbers that lead to an account beside its own id."""
        account = self._account(params)
        if account is None:
            return self._unknown("Account", "account_not_found", "alias_list")
        numbers = self._store.rows(
            "SELECT number FROM numbers WHERE i_account = ? ORDER BY number", account["i_account"]
        )
        aliases = [
            {"i_master_account": account["i_account"], "id": row["number"], "blocked": "N"}
            for row in numbers
        ]
        return {"alias_list": aliases, "total": len(aliases)}

    def get_subscriptions(self, params: Params) -> dict[str, Any]:
        account = self._account(params)
        if account is None:
            return self._unknown("Account", "account_not_found", "subscriptions")
        held = [
            {
                **addon["product_subscription"],
                "start_date": addon["addon_effective_from"][:10],
                "i_account": account["i_account"],
            }
            for addon in self._addons(account["i_account"])
        ]
        return {"subscriptions": held}

    def get_service_features(self, params: Params) -> dict[str, Any]:
        account = self._account(params)
        if account is None:
            return self._unknown("Account", "account_not_found", "service_features")
        product = self._row("products", "i_product", account["i_product"])
        return {"service_features": raw.service_features(account, product)}

    def get_customer_info(self, params: Params) -> dict[str, Any]:
        column = "i_customer" if "i_customer" in params else "name"
        key = _number(params, column) if column == "i_customer" else _text(params, column)
        customer = self._store.row(f"SELECT * FROM customers WHERE {column} = ?", key)  # noqa: S608
        if customer is None:
            return self._unknown("Customer", "customer_not_found", "customer_info")
        return {"customer_info": raw.customer_info(customer)}

    def get_customer_list(self, params: Params) -> dict[str, Any]:
        customers = self._store.rows(
            "SELECT * FROM customers ORDER BY i_customer LIMIT ? OFFSET ?", *_page(params)
        )
        return {"customer_list": [raw.customer_info(customer) for customer in customers]}

    def get_product_info(self, params: Params) -> dict[str, Any]:
        product = self._found("products", params, "i_product")
        if product is None:
            return self._unknown("Product", "product_not_found", "product_info")
        return {"product_info": raw.product_info(product)}

    def get_card_info(self, params: Params) -> dict[str, Any]:
        """By i_sim_card, or the card of an i_account; null for an account that has none."""
        if "i_sim_card" in params:
            card = self._found("sim_cards", params, "i_sim_card")
            if card is None:
                return self._unknown(self._api.sim_service, "card_not_found", "card_info")
            return {"card_info": raw.card_info(card)}
        account = self._account(params)
        if account is None:
            return self._unknown("Account", "account_not_found", "card_info")
        card = self._store.row("SELECT * FROM sim_cards WHERE i_account = ?", account["i_account"])
        return {"card_info": raw.card_info(card) if card else None}

    def get_card_list(self, params: Params) -> dict[str, Any]:
        """All cards, or those of one i_account, imsi, iccid or status."""
        where, args = ["1 = 1"], []
        for column in ("i_account", "imsi", "iccid", "status"):
            if column in params:
                where.append(f"{column} = ?")
                args.append(params[column])
        cards = self._store.rows(
            f"SELECT * FROM sim_cards WHERE {' AND '.join(where)}"  # noqa: S608
            " ORDER BY i_sim_card LIMIT ? OFFSET ?",
            *(*args, *_page(params)),
        )
        return {"card_list": [self._entry(raw.card_info(card)) for card in cards]}

    def get_access_policy_info(self, params: Params) -> dict[str, Any]:
        policy = self._found("access_policies", params, "i_access_policy")
        if policy is None:
            service = self._api.access_policy_service
            return self._unknown(service, "access_policy_not_found", "access_policy_info")
        return {"access_policy_info": raw.access_policy_info(policy)}

    def get_full_vd_counter_info(self, params: Params) -> dict[str, Any]:
        account = self._account(params)
        if account is None:
            return self._unknown("Account", "account_not_found", "full_vd_counter_info")
        counters = self._store.rows(
            "SELECT bundles.*, counters.used, counters.topped_up, coalesce("
            " (SELECT max(p.addon_priority) FROM addons JOIN products AS p USING (i_product)"
            "  WHERE addons.i_account = counters.i_account AND p.i_vd_plan = bundles.i_vd_plan),"
            " -1) AS addon_priority FROM counters JOIN bundles USING (i_vd_plan)"
            " WHERE counters.i_account = ? ORDER BY i_vd_plan",
            account["i_account"],
        )
        return {
            "full_vd_counter_info": [
                raw.vd_counter(row, row["used"], row["topped_up"], row["addon_priority"])
                for row in counters
            ]
        }

    def get_number_list(self, params: Params) -> dict[str, Any]:
        numbers = self._store.rows(
            "SELECT * FROM numbers ORDER BY number LIMIT ? OFFSET ?", *_page(params)
        )
        return {"number_list": [_set_keys(number) for number in numbers], "total": len(numbers)}

    def get_number_info(self, params: Params) -> dict[str, Any]:
        number = _text(params, "number")
        row = self._store.row("SELECT * FROM numbers WHERE number = ?", number)
        if row is None:
            return self._unknown("DID", "number_not_found", "number_info")
        return {"number_info": _set_keys(row)}

    def get_invoice_info(self, params: Params) -> dict[str, Any]:
        invoice = self._found("invoices", params, "i_invoice")
        if invoice is None:
            return self._unknown("Invoice", "invoice_not_found", "invoice_info")
        return {
            "invoice_info": {
                "i_invoice": invoice["i_invoice"],
                "i_customer": invoice["i_customer"],
                "invoice_number": f"{invoice['i_invoice']:08d}",
                "amount_due": invoice["amount"] - invoice["paid"],
                "amount_net": invoice["amount"],
                "amount_paid": invoice["paid"],
                "issue_date": invoice["issue_date"],
                "iso_4217": "EUR",
            }
        }

    def get_env_info(self, _params: Params) -> dict[str, Any]:
        return {
            "env_info": {
                "i_env": self._i_env,
                "name": "sandbox",
                "iso_4217": "EUR",
                "version": "126.0",
            }
        }

    # ---- the two calls that change something; all else is done on the page or by the control API

    def update_account(self, params: Params) -> dict[str, Any]:
        """account_info: {i_account; blocked, i_product, firstname, lastname, email as wanted}."""
        given = params.get("account_info")
        if not isinstance(given, dict):
            raise ApiFault(INVALID, "account_info is missing")
        i_account = _number(given, "i_account")
        names = {name: given[name] for name in NAMES if name in given}
        with self._allowed("Account"), self._store.transaction():
            if given.get("blocked") in SWITCHES:
                SWITCHES[given["blocked"]](self._billing, i_account)
            if "i_product" in given:
                self._billing.change_product(i_account, _number(given, "i_product"))
            if names:
                self._billing.update_account(i_account, **names)
        return {"i_account": i_account}

    def terminate_account(self, params: Params) -> dict[str, Any]:
        with self._allowed("Account"):
            self._billing.close_account(_number(params, "i_account"))
        return {"success": 1}

    # ---- what the methods are made of

    def _allowed(self, service: str) -> _Allowed:
        return _Allowed(service)

    def _unknown(self, service: str, reason: str, key: str) -> dict[str, Any]:
        if self._api.unknown == "null":
            return {key: None}
        if self._api.unknown == "empty":
            return {}
        raise ApiFault(f"Server.{service}.{reason}", reason.replace("_", " ").capitalize())

    def _account(self, params: Params) -> Row | None:
        if "i_account" in params:
            return self._found("accounts", params, "i_account")
        return self._store.row("SELECT * FROM accounts WHERE id = ?", _text(params, "id"))

    def _found(self, table: str, params: Params, key: str) -> Row | None:
        return self._store.row(f"SELECT * FROM {table} WHERE {key} = ?", _number(params, key))  # noqa: S608

    def _row(self, table: str, key: str, id_: int) -> Row:
        row = self._store.row(f"SELECT * FROM {table} WHERE {key} = ?", id_)  # noqa: S608
        assert row is not None, f"{table} {id_} is referred to and not there"
        return row

    def _listed(self, accounts: list[Row], params: Params) -> Iterator[dict[str, Any]]:
        """Without add-ons; status and service features only where they are asked for."""
        customer = cache(lambda ident: self._row("customers", "i_customer", ident))
        product = cache(lambda ident: self._row("products", "i_product", ident))
        for each in accounts:
            entry = raw.account_info(each, customer(each["i_customer"]), product(each["i_product"]))
            if not _flag(params, "get_statuses"):
                entry.pop("status", None)
            if _flag(params, "get_service_features"):
                entry["service_features"] = raw.service_features(each, product(each["i_product"]))
            yield entry

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        return {name: entry[name] for name in entry if name not in self._api.lists_omit}

    def _addons(self, i_account: int) -> list[dict[str, Any]]:
        rows = self._store.rows(
            "SELECT * FROM addons WHERE i_account = ? ORDER BY i_product", i_account
        )
        addons = []
        for row in rows:
            product = self._row("products", "i_product", row["i_product"])
            plan = "SELECT name FROM bundles WHERE i_vd_plan = ?"
            name = self._store.value(plan, product["i_vd_plan"])
            addons.append(raw.assigned_addon(row, product, name))
        return addons


class _Allowed:
    """Turn what the domain refuses into the fault PortaBilling answers."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, NotFound):
            raise ApiFault(f"Server.{self._service}.{error.what}_not_found", str(error)) from error
        if isinstance(error, Refused):
            raise ApiFault(f"Server.{self._service}.refused", str(error)) from error


def _flag(params: Params, name: str) -> bool:
    return str(params.get(name, 0)) in {"1", "True"}


def _number(params: Params, name: str) -> int:
    try:
        return int(params[name])
    except KeyError:
        raise ApiFault(INVALID, f"{name} is missing") from None
    except (TypeError, ValueError):
        raise ApiFault(INVALID, f"{name} is not a number") from None


def _text(params: Params, name: str) -> str:
    if not isinstance(params.get(name), str):
        raise ApiFault(INVALID, f"{name} is missing or not a string")
    return str(params[name])


def _page(params: Params) -> tuple[int, int]:
    limit = _number({"limit": params.get("limit", 100)}, "limit")
    offset = _number({"offset": params.get("offset", 0)}, "offset")
    if not 0 < limit <= MAX_LIMIT or offset < 0:
        raise ApiFault(INVALID, f"limit must be 1..{MAX_LIMIT} and offset not negative")
    return limit, offset


def _set_keys(row: Row) -> Row:
    return {key: value for key, value in row.items() if value is not None}
