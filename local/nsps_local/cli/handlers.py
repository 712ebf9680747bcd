"""``nsps pause``, ``nsps resume`` and ``nsps handlers``: the switch of each handler."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from nsps.domain.printable import one_line
from rich.table import Table
from rich.text import Text

from nsps_local.cli.printable import UNWRAPPED
from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import console


def add_to(commands: Any) -> None:
    pausing = commands.add_parser(
        "pause",
        description="Nothing is lost meanwhile: what comes for the system waits. No deployment "
        "and no breaker ends a pause.",
    )
    pausing.add_argument("handler", metavar="HANDLER", help="its name: `nsps handlers` lists them")
    pausing.add_argument("--reason", required=True, help="why, for whoever finds it so")
    add_console(pausing)
    pausing.set_defaults(run=_pause)
    resuming = commands.add_parser(
        "resume",
        description="What waited comes within a minute, in no particular order: the newest state "
        "wins.",
    )
    resuming.add_argument("handler", metavar="HANDLER", help="its name")
    resuming.add_argument("--reason", default="", help="what has been done")
    add_console(resuming)
    resuming.set_defaults(run=_resume)
    listing = commands.add_parser(
        "handlers",
        description="in service; paused (by a person, until `nsps resume`); down (its breaker is "
        "open, and asks by itself how it is); coming back (sent to slowly).",
    )
    listing.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    add_console(listing)
    listing.set_defaults(run=_list)


def _pause(options: argparse.Namespace) -> int:
    body = {"reason": options.reason}
    paused = Remote(options).post(f"handlers/{options.handler}/pause", body)
    until = datetime.fromisoformat(paused["kept_until"])
    console.print(f"{options.handler} is paused: nothing more is sent to its system.")
    # A handler that keeps no state cannot be compared with PortaBilling.
    late = "replay its events" if paused["kind"] == "message" else "reconcile it"
    console.print(
        f"Pub/Sub keeps what waits for it until {until.astimezone():%Y-%m-%d %H:%M}: resume it "
        f"before, or {late} afterwards."
    )
    return 0


def _resume(options: argparse.Namespace) -> int:
    body = {"reason": options.reason}
    after = Remote(options).post(f"handlers/{options.handler}/resume", body)
    console.print(f"{options.handler} is resumed: what waited comes at once.")
    if after["off"]:
        console.print(f"But {after['why']}: it is sent to when it answers again.")
    return 0


def _list(options: argparse.Namespace) -> int:
    answer = Remote(options).get("handlers")
    handlers, portabilling = answer["handlers"], answer["portabilling"]
    if options.json:
        switches = {each["name"]: each["switch"] for each in handlers}
        print(json.dumps({**switches, "portabilling": portabilling}, indent=1))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("handler", "connector", "state", "since", "kept until", "why"):
        table.add_column(column, no_wrap=True)
    for each in handlers:
        kept = _clock(each["kept_until"])
        state, since, why = _columns(each["switch"])
        table.add_row(each["name"], each["connector"], state, since, kept, one_line(why))
    # The terminal wraps a long reason itself, so that an address in it can still be copied.
    console.print(table, width=UNWRAPPED, crop=False)
    print_warnings(answer)
    return 0


def portabilling_said(switch: Mapping[str, Any]) -> Iterator[str]:
    """What is to be known of PortaBilling: nothing while it can be read."""
    breaker = switch["breaker"]
    if breaker["state"] == "open":
        yield (
            f"PortaBilling cannot be read since {_clock(breaker['opened_at'])}: "
            f"{one_line(breaker['reason'])}; no event goes to any system until it can; asked again "
            f"with the first event after {_moment(breaker['next_probe']):%H:%M:%S}"
        )
    if breaker["state"] == "half_open":
        yield "PortaBilling can be read again, and is asked slowly: what waited comes by and by"


def print_warnings(answer: Mapping[str, Any]) -> None:
    """That PortaBilling cannot be read; and handlers that have been switched off for so long that
    messages are about to be lost. ``answer``: of ``GET /api/handlers``."""
    warnings = [each["warning"] for each in answer["handlers"] if each["warning"]]
    for said in (*portabilling_said(answer["portabilling"]), *warnings):
        console.print(said, style="red", markup=False, soft_wrap=True)


def _columns(switch: Mapping[str, Any]) -> tuple[Text, str, str]:
    pause, breaker = switch["pause"], switch["breaker"]
    if pause is not None:
        return (
            Text("paused", style="yellow"),
            _clock(pause["at"]),
            f"{pause['by']}: {pause['reason']}",
        )
    if breaker["state"] == "open":
        asked = f"; asked again about {_moment(breaker['next_probe']):%H:%M:%S}"
        return Text("down", style="red"), _clock(breaker["opened_at"]), breaker["reason"] + asked
    if breaker["state"] == "half_open":
        since = _clock(breaker["changed_at"])
        return (
            Text("coming back", style="cyan"),
            since,
            "its system is well again, and sent to slowly",
        )
    return Text("in service", style="green"), "", ""


def _clock(text: str | None) -> str:
    return f"{_moment(text):%Y-%m-%d %H:%M}" if text else ""


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()
