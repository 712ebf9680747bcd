"""The state of the sandbox in one answer, as the page shows it: subscribers, cards, products,
groups, the queue.
"""

from __future__ import annotations

from typing import Any

from nsps_local.sandbox import raw
from nsps_local.sandbox.runtime import SandboxRuntime
from nsps_local.sandbox.store import Row

CARD = ("i_sim_card", "imsi", "iccid", "msisdn", "status")
SEARCH = (
    " FROM accounts LEFT JOIN sim_cards USING (i_account)"
    " WHERE ?1 IS NULL OR id LIKE ?1 OR imsi LIKE ?1 OR firstname || ' ' || lastname LIKE ?1"
)


class Overview:
    def __init__(self, parts: SandboxRuntime) -> None:
        self._store = parts.store
        self._queue = parts.queue
        self._book = parts.statuses
        self._config = parts.config

    def state(self, limit: int, offset: int, search: str | None) -> dict[str, Any]:
        """Newest subscribers first; of the inventory, at most `limit` free cards."""
        pattern = f"%{search}%" if search else None
        accounts = self._store.rows(
            "SELECT accounts.*" + SEARCH + " ORDER BY i_account DESC LIMIT ?2 OFFSET ?3",
            *(pattern, limit, offset),
        )
        webhook = self._config.webhook
        return {
            "accounts": [self._account(account) for account in accounts],
            "total": self._store.value("SELECT count(*)" + SEARCH, pattern),
            "customers": self._store.rows(
                "SELECT i_customer, name, email, blocked, bill_status FROM customers LIMIT ?", limit
            ),
            "products": self._store.rows("SELECT * FROM products ORDER BY i_product"),
            "free_sim_cards": self._store.rows(
                "SELECT i_sim_card, imsi, iccid, msisdn, status FROM sim_cards"
                " WHERE i_account IS NULL ORDER BY i_sim_card LIMIT ?",
                limit,
            ),
            "groups": [group["name"] for group in self._book.groups()],
            "queue": self._queue.counts(),
            "webhook": {
                "url": webhook.url,
                "enabled": webhook.enabled,
                "paused": webhook.paused,
                "vocabulary": self._config.events.vocabulary,
            },
        }

    def _account(self, account: Row) -> dict[str, Any]:
        i_account = account["i_account"]
        customer = self._store.row(
            "SELECT * FROM customers WHERE i_customer = ?", account["i_customer"]
        )
        product = self._store.row(
            "SELECT * FROM products WHERE i_product = ?", account["i_product"]
        )
        card = self._store.row("SELECT * FROM sim_cards WHERE i_account = ?", i_account)
        addons = self._store.rows(
            "SELECT i_product, name FROM addons JOIN products USING (i_product)"
            " WHERE i_account = ?",
            i_account,
        )
        assert customer is not None and product is not None
        return {
            "i_account": i_account,
            "id": account["id"],
            "firstname": account["firstname"],
            "lastname": account["lastname"],
            "email": account["email"],
            "i_customer": account["i_customer"],
            "customer": customer["name"],
            "i_product": account["i_product"],
            "product": product["name"],
            "bill_status": account["bill_status"],
            "blocked": account["blocked"],
            "status": raw.status(account, customer) or "active",
            "sim": {key: card[key] for key in CARD} if card else None,
            "addons": addons,
            "provisioning": self._book.current(i_account),
        }
