"""``nsps retries``: when a failed delivery is tried again, and what waits for that in Firestore."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from nsps.domain.retry import Schedule
from nsps.domain.retry_table import duration, note, rows
from nsps.runtime.settings import RetrySettings
from rich.table import Table

from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import console


def add_to(commands: Any) -> None:
    parser = commands.add_parser("retries")
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    explaining = parts.add_parser("explain", help="the schedule, with clock times from now")
    explaining.add_argument("handler", nargs="?", help="a handler; default: the usual schedule")
    add_console(explaining)
    explaining.set_defaults(run=_explain)
    listing = parts.add_parser(
        "list",
        help="the parked events: what used up its quick attempts, and when it is tried again",
        description="What waits for its next try after all quick attempts, the next first.",
    )
    listing.add_argument("handler", nargs="?", help="a handler, or enrichment; default: all")
    listing.add_argument(
        "--limit", type=int, metavar="N", default=20, help="how many (default: %(default)s)"
    )
    listing.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    add_console(listing)
    listing.set_defaults(run=_list)


def _explain(options: argparse.Namespace) -> int:
    schedule, whose = Schedule(), "the usual schedule"
    if options.handler is not None:
        handler = Remote(options).get(f"handlers/{options.handler}")
        schedule = RetrySettings.model_validate_json(json.dumps(handler["retries"])).schedule
        own = "" if schedule != Schedule() else ", which is the usual one"
        whose = f"the schedule of {options.handler}{own}"
    now = datetime.now(UTC)
    table = Table(
        title=f"An event that failed now, by {whose}:",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for column in ("try", "when", "from", "to", "in all"):
        table.add_column(column)
    for row in rows(schedule, now):
        last = "" if row.last == row.first else _clock(row.last)
        table.add_row(row.what, row.gap, _clock(row.first), last, duration(row.last - now))
    console.print(table)
    console.print(note(schedule), soft_wrap=True)
    return 0


def _list(options: argparse.Namespace) -> int:
    parked = Remote(options).get("parked", handler=options.handler, limit=options.limit)["parked"]
    if options.json:
        print(json.dumps(parked, indent=1))
        return 0
    if not parked:
        console.print(f"Nothing is parked{f' for {options.handler}' if options.handler else ''}.")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("for", "i_event", "event type", "parked", "sent again", "next try", "why"):
        table.add_column(column, no_wrap=column != "why", overflow="fold")
    for each in parked:
        since, following = (
            f"{datetime.fromisoformat(each[key]).astimezone():%d %b %H:%M}"
            for key in ("parked_at", "next_try")
        )
        times = {0: "not yet", 1: "once"}.get(each["tries"], f"{each['tries']} times")
        then = f"{following}{' (expires)' if each['last'] else ''}"
        number = each["i_event"] or each["event_id"]
        table.add_row(each["stage"], number, each["event_type"], since, times, then, each["reason"])
    console.print(table)
    return 0


def _clock(moment: datetime) -> str:
    return moment.astimezone().strftime("%a %d %b %H:%M")
