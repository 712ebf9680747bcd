"""Who did what, when and why: collection ``audit``, written in the transaction of the deed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsps.cloud.store import HISTORY_DAYS, Store, Tx


def note(
    store: Store,
    tx: Tx,
    who: str,
    role: str,
    action: str,
    target: str,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one entry down with the transaction. ``details``: no secrets."""
    tx.merge(
        store.audit_entry(),
        {
            "at": tx.now,
            "who": who,
            "role": role,
            "action": action,
            "target": target,
            "reason": reason,
            "details": dict(details or {}),
            "expire_at": tx.after(days=HISTORY_DAYS),
        },
    )


def note_alone(
    store: Store,
    who: str,
    role: str,
    action: str,
    target: str,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one entry down by itself. Raises StoreUnavailable."""

    def body(tx: Tx) -> None:
        tx.read([store.event("-")])  # the server's time
        note(store, tx, who, role, action, target, reason, details)

    store.transact(body)
