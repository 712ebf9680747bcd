"""What must be true of a history whose faults have ended. Pure: judged from what was seen alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nsps.domain.outcome import Outcome

from tests.machine.systems import CLAIM, RELEASE, SEND, Seen

States = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Ended:
    """A history at its end.

    ``accepted``: the events that ESPF was answered 200 for. ``events``, ``deliveries``,
    ``resources``: Firestore's documents (the latter two per handler). ``seen``, ``overlaps``,
    ``holds``: what each system saw, in order, who met whom there, and what it holds.
    ``followed``: the state for which what follows a write was last carried out.
    ``portabilling``: what a system with a state should hold. ``told``: per (account, group) the
    last status that ESPF has. ``groups``: handler -> group.
    """

    accepted: Sequence[str]
    events: Mapping[str, Mapping[str, Any]]
    deliveries: Mapping[str, Mapping[str, Mapping[str, Any]]]
    resources: Mapping[str, Sequence[Mapping[str, Any]]]
    seen: Mapping[str, Sequence[Seen]]
    overlaps: Mapping[str, Sequence[str]]
    holds: Mapping[str, States]
    followed: Mapping[str, Mapping[str, Mapping[str, Any] | None]]
    portabilling: States
    posted: Mapping[tuple[int, str], str]
    groups: Mapping[str, str]
    ordered: frozenset[str]
    """Handlers whose messages go out in the order of their data."""


def violations(ended: Ended) -> list[str]:
    """Every broken promise, in words."""
    found = [*_lost(ended), *_statuses(ended)]
    for handler in ended.groups:
        found += _stale(handler, ended)
        if handler in ended.followed:
            found += [f"{handler} {text}" for text in _not_followed(handler, ended)]
        found += [f"{handler}: {text}" for text in _out_of_order(ended.seen[handler])]
        found += [f"{handler}: {text}" for text in ended.overlaps[handler]]
        found += [f"{handler}: {text}" for text in _sent_twice(ended, handler)]
        if handler in ended.ordered:
            found += [f"{handler}: {text}" for text in _not_newest(ended, handler)]
    return found


def needs_repair(ended: Ended) -> bool:
    """Whether something was refused, or was tried for too long: then a repair has work to do."""
    return any(
        Outcome(each["outcome"]) in _FAILED
        for handler in ended.holds
        for each in ended.deliveries[handler].values()
        if each.get("outcome")
    ) or any(each.get("state") == Outcome.EXPIRED for each in ended.events.values())


_FAILED = frozenset({Outcome.REJECTED, Outcome.EXPIRED})


def _lost(ended: Ended) -> Iterator[str]:
    """1. Every accepted event is finished, for each handler that wants it."""
    for ident in ended.accepted:
        event = ended.events.get(ident)
        if event is None:
            yield f"event {ident} was accepted and is not in the history"
            continue
        if event["state"] in _FAILED:
            continue
        if event["state"] != "enriched":
            yield f"event {ident} is {event['state']}"
        for handler in event["handlers"]:
            outcome = (ended.deliveries[handler].get(ident) or {}).get("outcome")
            if not outcome or not Outcome(outcome).final:
                yield f"{handler}: event {ident} was accepted, and is {outcome}"


def _stale(handler: str, ended: Ended) -> Iterator[str]:
    """2. Every resource is as PortaBilling has it, unless that was refused, visibly."""
    if handler not in ended.holds:
        return
    holds, wanted = ended.holds[handler], ended.portabilling
    known = {each["key"]: each for each in ended.resources[handler]}
    failed = {
        each["owner"]
        for each in ended.deliveries[handler].values()
        if each.get("outcome") and Outcome(each["outcome"]) in _FAILED
    }
    failed |= {e["owner"] for e in ended.events.values() if e.get("state") == Outcome.EXPIRED}
    for key in sorted({*holds, *wanted}):
        is_now, should_be = holds.get(key), wanted.get(key)
        if is_now == should_be:
            continue
        ledger = known.get(key, {})
        owners = {_owner(is_now), _owner(should_be), ledger.get("owner")}
        if ledger.get("dirty") or owners & failed:
            continue
        yield f"{handler} holds {is_now} for {key}; PortaBilling has {should_be}"


def _not_followed(handler: str, ended: Ended) -> Iterator[str]:
    """7. What has to follow a write was carried out for the state that the system holds, unless
    the ledger says that it is owed."""
    owed = {each["key"] for each in ended.resources[handler] if each.get("owed")}
    holds, followed = ended.holds[handler], ended.followed[handler]
    for key in sorted({*holds, *followed} - owed):
        if followed.get(key) != holds.get(key):
            yield f"holds {holds.get(key)} for {key}; the session has {followed.get(key)}"


def _owner(state: Mapping[str, Any] | None) -> str | None:
    return None if state is None else f"account:{state['i_account']}"


def _out_of_order(seen: Sequence[Seen]) -> Iterator[str]:
    """3. No older write after a newer one."""
    claims: dict[str, Seen] = {}
    newest: dict[tuple[str, str], Seen] = {}
    for each in seen:
        if each.what not in (CLAIM, RELEASE):
            continue
        before_it = (newest.get((each.key, each.owner)), claims.get(each.key))
        for before in {id(one): one for one in before_it if one is not None}.values():
            if each.t < before.t:
                yield f"after '{before}' came the older '{each}'"
        newest[each.key, each.owner] = each
        if each.what == CLAIM:
            claims[each.key] = each


def _sent_twice(ended: Ended, handler: str) -> Iterator[str]:
    """5. A message is sent once, or again where it was cut off before it could be recorded."""
    sent: dict[str, list[Seen]] = defaultdict(list)
    for each in ended.seen[handler]:
        if each.what == SEND:
            sent[each.delivery].append(each)
    for delivery, copies in sent.items():
        if any(not each.cut for each in copies[:-1]):
            yield f"delivery {delivery} was sent {len(copies)} times"
    if handler in ended.holds:
        return
    for delivery, data in ended.deliveries[handler].items():
        if data.get("outcome") == Outcome.DELIVERED and delivery not in sent:
            yield f"delivery {delivery} is said to be delivered, and was never sent"


def _not_newest(ended: Ended, handler: str) -> Iterator[str]:
    """8. Of each type of event the newest data, whatever types the system processes; never older
    data after newer."""
    sent = [each for each in ended.seen[handler] if each.what == SEND]
    newest: dict[str, Seen] = {}
    for each in sent:
        before = newest.get(each.owner)
        if before is not None and each.t < before.t:
            yield f"after '{before}' came the older '{each}'"
        newest[each.owner] = each
    failed = {
        (data["owner"], data["event_type"])
        for data in ended.deliveries[handler].values()
        if data.get("outcome") and Outcome(data["outcome"]) in _FAILED
    }
    for ident in ended.accepted:
        event = ended.events[ident]
        about = (event["owner"], event["event_type"])
        if about in failed or event["state"] == Outcome.EXPIRED:
            continue
        came = event["opened_at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if not any(
            (each.owner, (each.state or {})["text"]) == about and each.t >= came for each in sent
        ):
            yield f"of event {ident} ({about[1]} for {about[0]}) nothing so new was ever sent"


def _statuses(ended: Ended) -> Iterator[str]:
    """6. ESPF's last status is that of the newest outcome, per account and group."""
    for handler, group in ended.groups.items():
        newest: dict[int, tuple[str, set[str]]] = {}
        for data in ended.deliveries[handler].values():
            outcome, i_account = data.get("outcome"), data.get("i_account")
            status = Outcome(outcome).espf_status if outcome else None
            if status is None or i_account is None:
                continue
            t, said = newest.get(i_account, ("", set()))
            if data["t"] > t:
                newest[i_account] = (data["t"], {status})
            elif data["t"] == t:
                said.add(status)
        for i_account, (_, said) in newest.items():
            posted = ended.posted.get((i_account, group))
            if posted not in said and not _given_up(ended, i_account):
                yield (
                    f"{handler}: ESPF has {posted} for account {i_account}; the history's newest "
                    f"is {' or '.join(sorted(said))}"
                )


def _given_up(ended: Ended, i_account: int) -> bool:
    """Whether an event of the account never got as far as a handler."""
    return any(
        each.get("state") == Outcome.EXPIRED and each.get("i_account") == i_account
        for each in ended.events.values()
    )
