"""``nsps events`` and ``nsps explain``: what happened."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from nsps.timeline import Delivered, Story

from nsps_local.cli.errors import CommandError
from nsps_local.cli.handlers import print_warnings
from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import console, events_table, explained, timeline

SUBJECTS = ("account", "customer", "imsi", "msisdn")


def add_to(commands: Any) -> None:
    listing = commands.add_parser("events", help="the newest events and what became of them")
    add_console(listing)
    listing.add_argument("--limit", type=int, default=20, help="how many (default: %(default)s)")
    listing.add_argument("--account", type=int, metavar="I_ACCOUNT", help="only of this account")
    listing.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    listing.set_defaults(run=_list)
    explain = commands.add_parser(
        "explain", help="an event or a subscriber in plain words: what happened, what waits"
    )
    add_console(explain)
    explain.add_argument(
        "what", help="an event_id or i_event; account:N, customer:N, imsi:NUMBER, msisdn:NUMBER"
    )
    explain.add_argument("--wait", type=float, default=0, metavar="S", help="until it is finished")
    explain.add_argument("--json", action="store_true", help="what is shown, as JSON")
    explain.set_defaults(run=_explain)


def _list(options: argparse.Namespace) -> int:
    if not 1 <= options.limit <= 1000:
        raise CommandError(f"--limit {options.limit}: write a number from 1 to 1000")
    remote = Remote(options)
    found = remote.get("events", limit=options.limit, account=options.account)["events"]
    if options.json:
        print(json.dumps(found, indent=1))
    elif not found:
        console.print("No events yet. Send one: nsps send SIM/Updated i_account=1 i_event=1")
    else:
        console.print(events_table(map(story_of, found)))
    if not options.json:
        print_warnings(remote.get("handlers")["handlers"])
    return 0


def _explain(options: argparse.Namespace) -> int:
    kind, colon, value = options.what.partition(":")
    remote = Remote(options)
    if colon and kind in SUBJECTS:
        return _subject(remote, kind, value.removeprefix("+"), options)
    found = _wait(remote, options.what, options.wait)
    if options.json:
        print(json.dumps(found["events"], indent=1))
        return 0
    for document, words in zip(found["events"], found["words"], strict=True):
        console.print(timeline(story_of(document)))
        console.print()
        console.print(explained(words), soft_wrap=True)
    return 0


def _subject(remote: Remote, kind: str, value: str, options: argparse.Namespace) -> int:
    if kind in ("account", "customer"):
        found = [remote.get(f"{kind}s/{value}")]
    else:
        found = remote.get("find", **{kind: value})["found"]
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    for each in found:
        console.print(explained(each["words"]), soft_wrap=True)
    return 0


def _wait(remote: Remote, name: str, seconds: float) -> dict[str, Any]:
    ends = time.monotonic() + seconds
    while True:
        found = remote.find(f"events/{name}")
        over = time.monotonic() >= ends
        if found and (over or all(each["final"] for each in found["events"])):
            return found
        if over:
            raise CommandError(f"no event {name} in the history: `nsps events` lists the newest")
        time.sleep(0.1)


def story_of(document: Mapping[str, Any]) -> Story:
    """A story from its JSON."""
    deliveries = tuple(
        Delivered(**{name: value for name, value in each.items() if name != "final"})
        for each in document["deliveries"]
    )
    known = {name: value for name, value in document.items() if name != "final"}
    return Story(**{**known, "deliveries": deliveries})
