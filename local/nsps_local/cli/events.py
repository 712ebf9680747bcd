"""``nsps events`` and ``nsps explain``: what happened."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from nsps_local.cli.errors import CommandError
from nsps_local.cli.handlers import print_warnings
from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import console, events_table, explained, headline

SUBJECTS = ("account", "customer", "imsi", "msisdn")
_FORMS = "account:N, customer:N, imsi:NUMBER or msisdn:NUMBER"


def add_to(commands: Any) -> None:
    listing = commands.add_parser(
        "events",
        description="The outcome of each event, handler by handler; what is not well first.",
    )
    listing.add_argument(
        "--limit", type=int, metavar="N", default=20, help="how many (default: %(default)s)"
    )
    listing.add_argument("--account", type=int, metavar="I_ACCOUNT", help="only of this account")
    listing.add_argument(
        "--outcome",
        metavar="WORD",
        help="only what came to this (several: a,b): rejected, expired, retrying, parked, ...",
    )
    listing.add_argument("--handler", help="those of this handler")
    listing.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    add_console(listing)
    listing.set_defaults(run=_list)
    explain = commands.add_parser(
        "explain",
        description="nsps explain 7603, nsps explain msisdn:447700900001",
    )
    explain.add_argument(
        "what",
        metavar="WHAT",
        help=f"an event (event_id or i_event), or a subscriber: {_FORMS}",
    )
    explain.add_argument(
        "--wait", type=float, default=0, metavar="SECONDS", help="wait until the event is finished"
    )
    explain.add_argument("--json", action="store_true", help="what is shown, as JSON")
    add_console(explain)
    explain.set_defaults(run=_explain)


def _list(options: argparse.Namespace) -> int:
    if not 1 <= options.limit <= 1000:
        raise CommandError(f"--limit {options.limit}: write a number from 1 to 1000")
    if options.outcome and options.account is not None:
        raise CommandError("write --account or --outcome, not both")
    if options.handler and options.account is not None:
        raise CommandError("write --account or --handler, not both")
    remote = Remote(options)
    outcome = options.outcome.replace(" ", "_") if options.outcome else None
    answer = remote.get(
        "events",
        limit=options.limit,
        account=options.account,
        handler=options.handler,
        outcome=outcome,
    )
    if options.json:
        print(json.dumps(answer["events"], indent=1))
        return 0
    _print_events(answer, options)
    print_warnings(remote.get("handlers"))
    return 0


def _print_events(answer: Mapping[str, Any], options: argparse.Namespace) -> None:
    looked = answer.get("looked_through")
    if answer["events"]:
        console.print(events_table(answer["events"]))
    elif looked is not None:
        console.print(f"None of the {looked} newest events came to that.")
    elif options.account is not None:
        console.print(f"No event of account {options.account} in the history (kept for 3 months).")
    elif options.outcome or options.handler:
        console.print("No event in the history (kept for 3 months) came to that.")
    else:
        console.print("No events yet. Send one: nsps send SIM/Updated i_account=1 i_event=1")
    if looked is not None and answer["next"] and len(answer["events"]) < options.limit:
        console.print(
            f"The {looked} newest events were looked through. All of them: nsps replay --handler "
            "HANDLER --outcome WORD --since 3d --dry-run",
            style="bright_black",
        )


def _explain(options: argparse.Namespace) -> int:
    kind, colon, value = options.what.partition(":")
    remote = Remote(options)
    if colon and kind in SUBJECTS:
        return _subject(remote, kind, value, options)
    if colon:
        raise CommandError(f"{options.what}: write an event_id, an i_event, {_FORMS}")
    found = _wait(remote, options.what, options.wait)
    if options.json:
        print(json.dumps(found["events"], indent=1))
        return 0
    for event, explanation in zip(found["events"], found["explanations"], strict=True):
        about = (event[name] for name in ("event_type", "i_event", "owner", "event_id"))
        console.print(headline(*about), soft_wrap=True)
        console.print(explained(explanation), soft_wrap=True)
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
        if each["owner"]:
            console.print(each["owner"].replace(":", " "), style="bold")
        console.print(explained(each["explanation"], in_order=False), soft_wrap=True)
    return 0


def _wait(remote: Remote, name: str, seconds: float) -> dict[str, Any]:
    ends = time.monotonic() + seconds
    while True:
        found = remote.find(f"events/{name}")
        over = time.monotonic() >= ends
        if found and (over or all(each["final"] for each in found["events"])):
            return found
        if over:
            raise CommandError(
                f"no event {name} in the history (kept for 3 months): `nsps events` lists the "
                f"newest; for a subscriber write {_FORMS}"
            )
        time.sleep(0.1)
