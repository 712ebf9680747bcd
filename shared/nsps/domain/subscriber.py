"""Whether a subscriber is served, and under what number: one reading for all connectors. Pure.

Sources and reasons: docs/decisions/0015-served.md and docs/decisions/0016-number.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nsps.domain.snapshot import AccountInfo, PbData, SimInfo

SERVED_IN: Mapping[str, bool] = {
    "active": True,
    "ok": True,
    # Somebody or something has stopped the service.
    "blocked": False,
    "customer_blocked": False,
    "suspended": False,
    "customer_suspended": False,
    "customer_provisionally_terminated": False,
    "closed": False,
    "inactive": False,
    "not_yet_active": False,
    "expired": False,
    # The service goes on, in part or for now; PortaBilling itself applies the restriction.
    "customer_limited": True,
    "customer_limiting_delayed": True,
    "customer_suspension_delayed": True,
    "screening": True,
    "quarantine": True,
    "frozen": True,
    # Money: bundles and free services may be left; online charging refuses what must be paid.
    "overdraft": True,
    "zero_balance": True,
    "credit_exceeded": True,
    "customer_has_no_available_funds": True,
    "customer_credit_exceed": True,
    # Moved to another PortaBilling, which serves the customer in the same network.
    "customer_exported": True,
}
"""The words of ``account_info.status``: whether the network serves an account of that status."""

_OPEN = ("open", "active")
"""Of ``bill_status``; one page of the published contract writes ``active``, all others ``open``."""
_MSISDN = re.compile(r"\+?([0-9]{1,15})(?:@msisdn)?", re.IGNORECASE)
_NETWORK_DIGITS = 5
"""Of an IMSI: the country (3) and, at the least, the network (2)."""


# --- whether a subscriber is served --------------------------------------------------------------


def allows_service(status: str | None) -> bool:
    """Whether a word of ``account_info.status`` lets the account be served.

    PortaBilling leaves the status out of an account in good order, so no word allows it, and a
    word that is not documented does not.
    """
    word = _word(status)
    return not word or SERVED_IN.get(word, False)


def is_served(account: AccountInfo | None) -> bool:
    """Whether the network serves the account: all that PortaBilling says of it must allow that."""
    return (
        account is not None
        and is_open(account)
        and not account.blocked
        and allows_service(account.status)
    )


def is_open(account: AccountInfo) -> bool:
    """Whether the account has its number and its place in the network, served or barred."""
    return account.bill_status in _OPEN and _word(account.status) != "closed"


def is_closed(account: AccountInfo) -> bool:
    """Whether the account was closed for good: PortaBilling keeps it for the records only."""
    return account.bill_status == "terminated" or _word(account.status) == "closed"


def service_word(account: AccountInfo) -> str:
    """``active``, ``barred`` (open, but not served), or the billing status of one not open."""
    if is_open(account):
        return "active" if is_served(account) else "barred"
    if account.bill_status in _OPEN:
        return "terminated"  # only its status says that it is closed
    return account.bill_status or "unknown"


def _word(status: str | None) -> str:
    return (status or "").strip().lower()


# --- under what number ---------------------------------------------------------------------------


def msisdn(pb: PbData) -> str | None:
    """The subscriber's number, digits only: the account's id where that is one, else the SIM
    card's. None if neither is: a bad number never holds up a block."""
    names = (
        pb.account_info.id if pb.account_info else None,
        pb.sim_info.msisdn if pb.sim_info else None,
    )
    numbers = (as_msisdn(name) for name in names)
    return next((each for each in numbers if each and not _names_card(each, pb.sim_info)), None)


def as_msisdn(text: str | None) -> str | None:
    """The number that ``79123456789``, ``+79123456789`` and ``79123456789@msisdn`` name, digits
    only; None for what is no MSISDN, such as an id of another realm."""
    match = _MSISDN.fullmatch((text or "").strip())
    return match[1] if match else None


def account_ids(number: str) -> tuple[str, ...]:
    """The account ids that ``as_msisdn`` reads as this number."""
    return (number, f"{number}@msisdn", f"+{number}", f"+{number}@msisdn")


def _names_card(number: str, sim: SimInfo | None) -> bool:
    """Whether the digits are an IMSI or ICCID: the card's, or the IMSI of a card it replaced.

    A number of 15 digits that begins with the card's own network is such an IMSI.
    """
    if sim is None:
        return False
    imsi = (sim.imsi or "").strip()
    if number in (imsi, (sim.iccid or "").strip()):
        return True
    return len(number) == len(imsi) == 15 and number[:_NETWORK_DIGITS] == imsi[:_NETWORK_DIGITS]
