"""``nsps retries explain``: when a failed delivery is tried again."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from nsps.retry import Schedule
from nsps.retry_table import duration, note, rows
from nsps.settings import RetrySettings
from rich.table import Table

from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import console


def add_to(commands: Any) -> None:
    parser = commands.add_parser("retries", help="when failed deliveries are tried again")
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    explaining = parts.add_parser("explain", help="the schedule, with clock times from now")
    add_console(explaining)
    explaining.add_argument("handler", nargs="?", help="a handler; default: the usual schedule")
    explaining.set_defaults(run=_explain)


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


def _clock(moment: datetime) -> str:
    return moment.astimezone().strftime("%a %d %b %H:%M:%S")
