"""A subscriber: found by what is at hand; what PortaBilling says beside what each system holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from nsps.console.pages import forms
from nsps.console.pages.events import row, standing
from nsps.console.pages.site import Refused, Shown, Visit, moved
from nsps.domain.event import MESSAGE_KEY


def search(visit: Visit) -> Shown:
    """One field for everything; what is found alone is shown at once."""
    text = visit.query.get("q", "").strip()
    if not text:
        return visit.page("search.html", text="", found=[], events=[], error=None)
    try:
        answer = visit.get("search", q=text)
    except Refused as refused:
        if refused.code not in (400, 404):
            raise
        return visit.page(
            "search.html", refused.code, text=text, found=[], events=[], error=str(refused)
        )
    found, events = answer["found"], answer["events"]
    if len(found) == 1 and not events and found[0]["owner"]:
        return moved(_page(found[0]["owner"]))
    if len(events) == 1 and not found:
        return moved(f"/events/{quote(events[0]['event_id'], safe='')}")
    return visit.page(
        "search.html",
        text=text,
        found=[{**each, "page": _page(each["owner"])} for each in found],
        events=[row(each) for each in events],
        error=None,
    )


def account(visit: Visit) -> Shown:
    """An account."""
    return _subject(visit, "account")


def customer(visit: Visit) -> Shown:
    """A customer."""
    return _subject(visit, "customer")


def erase(visit: Visit) -> Shown:
    """Delete what NSPS holds of an account; its number must be typed."""
    given = forms.document(visit.form, flags=("held",))
    if given.pop("typed", "") != visit.name:
        raise Refused(
            400, f"nothing was erased: type the account's number, {visit.name}, and press again"
        )
    visit.post(f"accounts/{visit.name}/erase", given)
    return moved(f"/accounts/{quote(visit.name, safe='')}?done=erased")


def _subject(visit: Visit, kind: str) -> Shown:
    found = visit.get(f"{kind}s/{visit.name}")
    asked = visit.query.get("ask") == "now" and visit.operates
    now = visit.get(f"{kind}s/{visit.name}/now") if asked else None
    handlers = visit.get("handlers")["handlers"]
    shown = systems(found["resources"], now, handlers)
    return visit.page(
        "subscriber.html",
        kind=kind,
        number=visit.name,
        subject=found,
        standing=with_differences(standing(found["explanation"]), shown, f"{kind}:{visit.name}"),
        now=now,
        says=facts(now["portabilling"]["says"]) if now else [],
        systems=shown,
        found=[row(each) for each in reversed(found["events"])],
        reconcilable=[each["name"] for each in handlers if each["kind"] != "message"],
        kept=_kept(visit, kind),
    )


def _kept(visit: Visit, kind: str) -> dict[str, Any] | None:
    """What an erasure would delete: asked only of those who may erase, when they ask."""
    if kind != "account" or visit.query.get("ask") != "erase" or not visit.operates:
        return None
    return visit.get(f"accounts/{visit.name}/kept")


def systems(
    resources: Iterable[Mapping[str, Any]],
    now: Mapping[str, Any] | None,
    handlers: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Each system with what it holds: by the ledger, or as it said at this moment. Those that
    differ come first.

    ``rows`` of a resource: (field, it has, it should have), the last None where they agree.
    """
    asked = {each["name"]: each for each in (now or {}).get("handlers", [])}
    found = []
    for handler in handlers:
        name = handler["name"]
        held = [each for each in resources if each["handler"] == name]
        compared = asked.get(name)
        if not held and compared is None:
            continue
        shown = _resources(held, compared)
        found.append(
            {
                "name": name,
                "error": compared["error"] if compared else None,
                "resources": shown,
                "differs": any(each["differs"] for each in shown),
            }
        )
    return sorted(found, key=lambda each: not each["differs"])


def with_differences(
    standing: Mapping[str, Any], found: Iterable[Mapping[str, Any]], owner: str
) -> dict[str, Any]:
    """How a subscriber stands: first the systems that are done, and still not as PortaBilling
    says."""
    rows, known = [], {each["handler"] for each in standing["rows"]}
    for system in found:
        if system["name"] in known:
            continue
        said = [words for each in system["resources"] if (words := _difference(each))]
        if said:
            name = system["name"]
            repair = {"name": "repair", "handler": name, "owner": owner}
            advised = {"text": "Write it as PortaBilling says", "action": repair}
            text = f"asked now, it is not as PortaBilling says: {'; '.join(said)}"
            rows.append(
                {
                    "handler": name,
                    "outcome": "different",
                    "text": text,
                    "event": None,
                    "advice": [advised],
                }
            )
    wrong = {each["handler"] for each in rows}
    done = [name for name in standing["done"] if name not in wrong]
    return {**standing, "rows": [*rows, *standing["rows"]], "done": done}


def _difference(resource: Mapping[str, Any]) -> str:
    if resource["what"] not in ("different", "missing", "left over"):
        return ""
    fields = [
        f"{name} is {has}, it should be {should}"
        for name, has, should in resource["rows"]
        if resource["what"] == "different" and should is not None
    ]
    return f"{resource['key']}: {', '.join(fields) or resource['what']}"


def _resources(
    held: Iterable[Mapping[str, Any]], compared: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    known = {str(each["key"]): each for each in held}
    said = {str(each["key"]): each for each in (compared or {}).get("resources", [])}
    return [_resource(key, known.get(key), said.get(key)) for key in sorted({*known, *said})]


def _resource(
    key: str, ledger: Mapping[str, Any] | None, said: Mapping[str, Any] | None
) -> dict[str, Any]:
    if ledger is not None and key.startswith(MESSAGE_KEY):
        return {
            **_NOTHING,
            "key": "last message",
            "what": "taken" if ledger["sure"] else "not taken",
        }
    held = (ledger or {}).get("state") or {}
    state = held if isinstance(held, Mapping) else {"state": held}
    differs = (said or {}).get("fields") or {}
    rows = [(name, value, None) for name, value in state.items() if name not in differs]
    rows += [(name, change["from"], change["to"]) for name, change in differs.items()]
    return {
        "key": key,
        "what": said["what"] if said else None,
        "reason": said["reason"] if said else "",
        "doubt": ledger is not None and not ledger["sure"] and ledger["owner"] is not None,
        "differs": bool(differs),
        "rows": sorted(rows, key=lambda each: each[0]),
    }


_NOTHING: Mapping[str, Any] = {"reason": "", "doubt": False, "differs": False, "rows": []}


def facts(says: Mapping[str, Any] | None) -> list[tuple[str, list[tuple[str, str]]]]:
    """What PortaBilling says, as (block, [(field, value)]): what is empty is left out."""
    return [
        (block, fields)
        for block, values in sorted((says or {}).items())
        if isinstance(values, Mapping) and (fields := list(_fields(values)))
    ]


def _fields(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in sorted(values.items()):
        if value not in (None, "", [], {}) and not isinstance(value, list | dict):
            yield name, str(value)


def _page(owner: str | None) -> str:
    kind, _, ident = str(owner or "").partition(":")
    if kind in ("account", "customer"):
        return f"/{kind}s/{quote(ident, safe='')}"
    return "/events"
