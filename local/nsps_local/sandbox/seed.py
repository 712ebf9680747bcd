"""What a sandbox begins with, and many subscribers at once for benchmarks. Seeding leaves no
events.
"""

from __future__ import annotations

import hashlib
import json
import time

from nsps_local.sandbox.billing import REALM
from nsps_local.sandbox.store import Store
from nsps_local.sandbox.times import day, moment

FIRST_CARDS = 12
# Test network 001-01; numbers of the United Kingdom's range for drama, in their international form.
IMSI = "00101{:010d}"
ICCID = "8900101{:012d}"
MSISDN = "447700900{:03d}"
BULK_MSISDN = "4477{:08d}"
BULK_FROM = 1_000_000


def seed_demo(store: Store) -> None:
    """2 customers, main products S and L with an access policy each, two add-ons, 12 SIM cards, no
    accounts.
    """
    with store.transaction():
        if store.row("SELECT 1 FROM products"):
            return
        now = moment(time.time())
        for name, email in (
            ("Alba Mobile", "desk@alba.example"),
            ("Brisa Telecom", "it@brisa.example"),
        ):
            store.run(
                "INSERT INTO customers (name, companyname, email, creation_date)"
                " VALUES (?, ?, ?, ?)",
                *(name, name, email, now),
            )
        for size in ("S", "L"):
            policy = store.run(
                "INSERT INTO access_policies (name, attributes) VALUES (?, ?)",
                *(f"LTE {size}", json.dumps(_attributes(size))),
            )
            store.run(
                "INSERT INTO products (name, description, i_access_policy) VALUES (?, ?, ?)",
                *(f"Mobile {size}", f"Mobile line, size {size}", policy),
            )
        _add_on(store, "Data 10 GB", "10 GB of data", 20, ("Internet Access", 34, "MB", 10240.0))
        _add_on(store, "Voice unlimited", "Calls without end", 30, ("Voice Calls", 3, "min", None))
        store.run(  # the description is the routing number: see the connector enum_powerdns
            "INSERT INTO products (name, description, addon_priority) VALUES (?, ?, ?)",
            *("Ported number", "+420999", 10),
        )
        store.run_many(CARD_SQL, (_card(n, MSISDN.format(n)) for n in range(1, FIRST_CARDS + 1)))


def seed_accounts(store: Store, n_accounts: int) -> dict[str, int]:
    """Add subscribers with a card each, some ten thousand a second; half of them have an e-mail
    address, one in a hundred is blocked. Answers their first and last i_account.
    """
    seed_demo(store)
    with store.transaction():
        customers = [row["i_customer"] for row in store.rows("SELECT i_customer FROM customers")]
        products = [
            row["i_product"]
            for row in store.rows("SELECT * FROM products WHERE addon_priority = 0")
        ]
        start = store.value("SELECT seq + 1 FROM sqlite_sequence WHERE name = 'accounts'")
        there = store.value(
            "SELECT count(*) FROM sim_cards WHERE imsi >= ?", IMSI.format(BULK_FROM)
        )
        first = BULK_FROM + there
        today = day(time.time())
        store.run_many(
            "INSERT INTO accounts (i_account, id, i_customer, i_product, firstname, lastname,"
            " activation_date, h323_password, email, blocked)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    *(start + n, BULK_MSISDN.format(first + n) + REALM),
                    *(customers[n % len(customers)], products[n % len(products)]),
                    *("Bulk", f"Subscriber {first + n}", today, _secret("h323", first + n)[:12]),
                    f"s{first + n}@alba.example" if n % 2 else None,
                    "Y" if n % 100 == 99 else "N",
                )
                for n in range(n_accounts)
            ),
        )
        store.run_many(
            CARD_SQL,
            (_card(first + n, BULK_MSISDN.format(first + n), start + n) for n in range(n_accounts)),
        )
    return {"accounts": n_accounts, "first": start, "last": start + n_accounts - 1}


CARD_SQL = (
    "INSERT INTO sim_cards (iccid, imsi, msisdn, status, i_account, ki, opc, pin1, puk1, pin2,"
    " puk2, activation_code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _card(n: int, msisdn: str, i_account: int | None = None) -> tuple[object, ...]:
    digits = str(int(_secret("codes", n), 16)).zfill(40)
    codes = (digits[:4], digits[4:12], digits[12:16], digits[16:24], digits[24:34])
    keys = (_secret("ki", n), _secret("opc", n))
    status = "available" if i_account is None else "used"
    return (ICCID.format(n), IMSI.format(n), msisdn, status, i_account, *keys, *codes)


def _secret(what: str, n: int) -> str:
    """Looks like a key and is the same on every machine, so that tests can search for it."""
    return hashlib.md5(f"{what} {n}".encode(), usedforsecurity=False).hexdigest().upper()


def _attributes(size: str) -> list[dict[str, object]]:
    values = {"cs_profile": f"cs-{size.lower()}", "eps_profile": f"eps-{size.lower()}"}
    return [
        {"group_name": "lte.wtl", "name": name, "values": [value]} for name, value in values.items()
    ]


def _add_on(
    store: Store,
    name: str,
    description: str,
    priority: int,
    bundle: tuple[str, int, str, float | None],
) -> None:
    service, i_service, unit, allocated = bundle
    plan = store.run(
        "INSERT INTO bundles (name, i_service, service_name, unit, allocated)"
        " VALUES (?, ?, ?, ?, ?)",
        *(f"{name} bundle", i_service, service, unit, allocated),
    )
    store.run(
        "INSERT INTO products (name, description, addon_priority, i_vd_plan) VALUES (?, ?, ?, ?)",
        *(name, description, priority, plan),
    )
