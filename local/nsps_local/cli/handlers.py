"""``nsps pause``, ``nsps resume`` and ``nsps handlers``: the switch of each handler."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from nsps.switch import State
from rich.table import Table
from rich.text import Text

from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import console


def add_to(commands: Any) -> None:
    pausing = commands.add_parser("pause", help="stop sending to a system until it is resumed")
    add_console(pausing)
    pausing.add_argument("handler", metavar="HANDLER")
    pausing.add_argument("--reason", required=True, help="why, for whoever finds it so")
    pausing.set_defaults(run=_pause)
    resuming = commands.add_parser("resume", help="send to a paused system again")
    add_console(resuming)
    resuming.add_argument("handler", metavar="HANDLER")
    resuming.add_argument("--reason", default="", help="what has been done")
    resuming.set_defaults(run=_resume)
    listing = commands.add_parser("handlers", help="the external systems: which are sent to")
    add_console(listing)
    listing.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    listing.set_defaults(run=_list)


def _pause(options: argparse.Namespace) -> int:
    body = {"reason": options.reason}
    paused = Remote(options).post(f"handlers/{options.handler}/pause", body)
    until = datetime.fromisoformat(paused["kept_until"])
    console.print(f"{options.handler} is paused: nothing more is sent to its system.")
    console.print(
        f"Pub/Sub keeps what waits for it until {until.astimezone():%Y-%m-%d %H:%M}: resume it "
        "before, or reconcile it afterwards."
    )
    return 0


def _resume(options: argparse.Namespace) -> int:
    body = {"reason": options.reason}
    after = Remote(options).post(f"handlers/{options.handler}/resume", body)
    console.print(f"{options.handler} is resumed: what waited comes within a minute.")
    if after["off"]:
        console.print(f"But {after['why']}: it is sent to when it answers again.")
    return 0


def _list(options: argparse.Namespace) -> int:
    handlers = Remote(options).get("handlers")["handlers"]
    if options.json:
        print(json.dumps({each["name"]: each["switch"] for each in handlers}, indent=1))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("handler", "connector", "state", "since", "why"):
        table.add_column(column)
    for each in handlers:
        table.add_row(each["name"], each["connector"], *_told(each["switch"], each["why"]))
    console.print(table)
    print_warnings(handlers)
    return 0


def print_warnings(handlers: Iterable[Mapping[str, Any]]) -> None:
    """Handlers that have been switched off for so long that messages are about to be lost."""
    for each in handlers:
        if each["warning"]:
            console.print(each["warning"], style="red", markup=False, soft_wrap=True)


def _told(switch: Mapping[str, Any], why: str) -> tuple[Text, str, str]:
    pause, breaker = switch["pause"], switch["breaker"]
    if pause is not None:
        return Text("paused", style="yellow"), _clock(pause["at"]), why
    if breaker["state"] == State.OPEN:
        asked = f"; asked again about {_clock(breaker['next_probe'])}"
        return Text("down", style="red"), _clock(breaker["opened_at"]), why + asked
    if breaker["state"] == State.HALF_OPEN:
        since = _clock(breaker["changed_at"])
        return Text("coming back", style="cyan"), since, "it is well again, and sent to slowly"
    return Text("sent to", style="green"), "", ""


def _clock(text: str | None) -> str:
    return f"{_moment(text):%Y-%m-%d %H:%M:%S}" if text else ""


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()
