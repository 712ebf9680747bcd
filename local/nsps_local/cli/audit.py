"""``nsps audit``: who did what, when and why."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import Any

from rich.table import Table

from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import asked_for, console


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "audit",
        description="Every change that a person made, the newest first; kept for 3 months.",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", default=50, help="how many (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    add_console(parser)
    parser.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    entries = Remote(options).get("audit", limit=options.limit)["entries"]
    if options.json:
        print(json.dumps(entries, indent=1))
        return 0
    if not entries:
        console.print("Nobody has changed anything in the last 3 months.")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("when", "who", "did", "to", "why"):
        table.add_column(column, no_wrap=column in ("when", "to"), overflow="fold")
    for each in entries:
        when = f"{datetime.fromisoformat(each['at']).astimezone():%Y-%m-%d %H:%M}"
        table.add_row(when, each["who"], _did(each), each["target"], each["reason"] or "")
    console.print(table)
    return 0


def _did(entry: dict[str, Any]) -> str:
    details = entry["details"]
    words = [entry["action"]]
    if details.get("spec"):
        words.append(asked_for(entry["action"], details["spec"]))
    words += [name.replace("_", " ") for name in ("dry_run", "fix") if details.get(name)]
    return " ".join(words)
