"""``nsps pause``, ``nsps resume`` and ``nsps handlers``: the switch of each handler."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from nsps import switch
from nsps.outcome import Transient
from nsps.switch import State, Switch, Switches
from rich.table import Table
from rich.text import Text

from nsps_local.cli.errors import CommandError
from nsps_local.cli.running import Running, add_state
from nsps_local.cli.show import console

WHO = "operator@localhost"


def add_to(commands: Any) -> None:
    pausing = commands.add_parser("pause", help="stop sending to a system until it is resumed")
    add_state(pausing)
    pausing.add_argument("handler", metavar="HANDLER")
    pausing.add_argument("--reason", required=True, help="why, for whoever finds it so")
    pausing.set_defaults(run=_pause)
    resuming = commands.add_parser("resume", help="send to a paused system again")
    add_state(resuming)
    resuming.add_argument("handler", metavar="HANDLER")
    resuming.add_argument("--reason", default="", help="what has been done")
    resuming.set_defaults(run=_resume)
    listing = commands.add_parser("handlers", help="the external systems: which are sent to")
    add_state(listing)
    listing.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    listing.set_defaults(run=_list)


def handler_named(running: Running, name: str) -> dict[str, Any]:
    """The handler as configured. Raises CommandError."""
    handlers: dict[str, dict[str, Any]] = running.description["handlers"]
    if name not in handlers:
        raise CommandError(f"there is no handler {name}: there are {', '.join(sorted(handlers))}")
    return handlers[name]


def _pause(options: argparse.Namespace) -> int:
    running = Running(options.state)
    handler_named(running, options.handler)
    try:
        paused = switch.pause(running.store, options.handler, WHO, options.reason)
    except (switch.SwitchRefused, Transient) as error:
        raise CommandError(str(error)) from error
    until = switch.kept_until(paused)
    assert until is not None
    console.print(f"{options.handler} is paused: nothing more is sent to its system.")
    console.print(
        f"Pub/Sub keeps what waits for it until {until.astimezone():%Y-%m-%d %H:%M}: resume it "
        "before, or reconcile it afterwards."
    )
    return 0


def _resume(options: argparse.Namespace) -> int:
    running = Running(options.state)
    handler_named(running, options.handler)
    try:
        after = switch.resume(running.store, options.handler, WHO, options.reason)
    except (switch.SwitchRefused, Transient) as error:
        raise CommandError(str(error)) from error
    console.print(f"{options.handler} is resumed: what waited comes within a minute.")
    if after.off:
        console.print(f"But {after.why()}: it is sent to when it answers again.")
    return 0


def _list(options: argparse.Namespace) -> int:
    running = Running(options.state)
    try:
        switches, _ = Switches(running.store).read_all(running.description["handlers"])
    except Transient as error:
        raise CommandError(f"the switches cannot be read: {error}") from error
    if options.json:
        told = {name: each.write() for name, each in switches.items()}
        print(json.dumps(told, indent=1, default=datetime.isoformat))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("handler", "connector", "state", "since", "why"):
        table.add_column(column)
    for name, each in sorted(switches.items()):
        table.add_row(name, running.description["handlers"][name]["connector"], *_told(each))
    console.print(table)
    print_warnings(switches)
    return 0


def print_warnings(switches: dict[str, Switch]) -> None:
    """Handlers that have been switched off for so long that messages are about to be lost."""
    for name, each in switches.items():
        told = switch.warning(name, each, datetime.now(UTC))
        if told:
            console.print(f"[red]{told}[/]", soft_wrap=True)


def _told(each: Switch) -> tuple[Text, str, str]:
    since = each.off_since or each.breaker.changed_at
    when = since.astimezone().strftime("%Y-%m-%d %H:%M:%S") if since else ""
    if each.pause is not None:
        return Text("paused", style="yellow"), when, f"{each.pause.by}: {each.pause.reason}"
    if each.breaker.state is State.OPEN:
        probe = each.breaker.next_probe
        asked = f"; asked again at {probe.astimezone():%H:%M:%S}" if probe else ""
        return Text("down", style="red"), when, f"{each.breaker.reason}{asked}"
    if each.breaker.state is State.HALF_OPEN:
        return Text("coming back", style="cyan"), when, "it is well again, and sent to slowly"
    return Text("sent to", style="green"), "", ""
