"""Where a job, its findings and the accounts that it has seen are in Firestore."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nsps.cloud.store import Store, from_json
from nsps.delivery.timeline import changes

SEEN_BITS = 80_000
"""Accounts that one document of a job's seen accounts stands for."""


def job_place(store: Store, ident: str) -> Any:
    """The document of a job."""
    return store.client.document("jobs", ident)


def read_resources(kept: Any) -> list[dict[str, Any]]:
    """The resources of a finding, as the API gives them."""
    found = from_json(kept) or []
    return [{**each, "fields": changes(each.get("fields"))} for each in found]


def kinds(resources: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a finding is listed under."""
    return sorted({str(each["what"]) for each in resources})


def findings_of(store: Store, ident: str) -> Any:
    """The collection of a job's findings."""
    return store.client.collection("jobs", ident, "findings")


def seen_place(store: Store, ident: str, number: int) -> Any:
    """One document of the accounts that a job has seen."""
    return store.client.document("jobs", ident, "seen", str(number))


def is_name(ident: str) -> bool:
    """Whether Firestore could have a document of this name."""
    return bool(ident) and "/" not in ident and ident not in (".", "..")


# ---- seen accounts: one bit each ---------------------------------------------------------------


def seen_among(store: Store, ident: str, accounts: Iterable[int]) -> set[int]:
    """Those of the accounts that the job has seen."""
    wanted = set(accounts)
    numbers = sorted({account // SEEN_BITS for account in wanted})
    bits = {
        number: (store.read(seen_place(store, ident, number)) or {}).get("bits", b"")
        for number in numbers
    }
    return {account for account in wanted if _has(bits[account // SEEN_BITS], account % SEEN_BITS)}


def seen_positions(accounts: Iterable[int]) -> dict[int, list[int]]:
    """By the number of the document that stands for them: the accounts' bits in it."""
    positions: dict[int, list[int]] = {}
    for account in accounts:
        positions.setdefault(account // SEEN_BITS, []).append(account % SEEN_BITS)
    return positions


def with_bits(before: bytes, positions: Iterable[int]) -> bytes:
    """A document's bits, with these set."""
    bits = bytearray(before.ljust(SEEN_BITS // 8, b"\0"))
    for position in positions:
        bits[position // 8] |= 1 << position % 8
    return bytes(bits)


def _has(bits: bytes, position: int) -> bool:
    return position // 8 < len(bits) and bool(bits[position // 8] >> position % 8 & 1)
