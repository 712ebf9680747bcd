"""``nsps up``: the whole system on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path
from typing import Any

from rich.table import Table

from nsps_local.cli.errors import CommandError
from nsps_local.cli.running import Running, add_state
from nsps_local.cli.show import console
from nsps_local.scenario import ScenarioFailed, play
from nsps_local.stack.emulators import EMBEDDED, GOOGLE
from nsps_local.stack.errors import CannotStart
from nsps_local.stack.ports import DEFAULT_BASE
from nsps_local.stack.stack import ROOT, Options, Stack

DEFAULT_CONFIG = ROOT / "infra" / "Pulumi.local.yaml"


def add_to(commands: Any) -> None:
    parser = commands.add_parser("up")
    add_state(parser)
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="a stack's Pulumi.<stack>.yaml"
    )
    parser.add_argument(
        "--port-base", type=int, default=DEFAULT_BASE, help="the first port (default: %(default)s)"
    )
    parser.add_argument("--emulators", choices=(EMBEDDED, GOOGLE), default=EMBEDDED)
    parser.add_argument(
        "--secrets", type=Path, metavar="FILE", help='values of secrets: {"name": value, ...}'
    )
    parser.add_argument(
        "--scenario", action="store_true", help="play a short scenario on the sandbox first"
    )
    parser.set_defaults(run=_up)


def _up(options: argparse.Namespace) -> int:
    stopped = threading.Event()
    # Not an exception: raised while Python forks for one of our processes, it would be ignored.
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(number, lambda *_: stopped.set())

    def go_on() -> None:
        if stopped.is_set():
            raise KeyboardInterrupt

    chosen = Options(
        options.config, options.state, options.port_base, options.emulators, options.secrets
    )
    try:
        stack = Stack(chosen, _say, lambda text: console.print(f"[yellow]{text}[/]"), go_on)
        with console.status("starting"):
            description = stack.up()
    except CannotStart as error:
        go_on()  # Ctrl-C reached the process that reads the configuration, too
        raise CommandError(str(error)) from error
    try:
        pages = description["console"]["pages"]
        console.print(f"[bold]The console: {pages}[/]", soft_wrap=True)
        console.print(_where(description))
        if not description["portabilling"]["sandbox"]:  # the sandbox has every group registered
            for note in description["notes"]:
                console.print(f"[bright_black]note: {note}[/]", soft_wrap=True)
        if options.scenario and not stopped.is_set():
            _play(options.state, stopped)
        console.print(_next(description))
        stopped.wait()
    finally:
        console.print("stopping ...")
        stack.down()
        console.print("stopped; nothing is left running. The state is kept in", str(options.state))
    return 0


def _say(text: str) -> None:
    console.print(f"[bright_black]·[/] {text}")


def _play(state: Path, stopped: threading.Event) -> None:
    running = Running(state)
    if not running.description["portabilling"]["sandbox"]:
        console.print("no scenario: PortaBilling is not the sandbox")
        return
    try:
        play(running, stopped)
    except ScenarioFailed as error:
        console.print(f"[red]the scenario did not end as it should:[/] {error}")


def _where(description: dict[str, Any]) -> Table:
    """What runs where."""
    table = Table(title="What runs where", title_justify="left", box=None, header_style="bold")
    for column in ("part", "what it does", "where"):
        table.add_column(column)
    rows = [
        ("ingress", "takes ESPF's webhooks", description["ingress"]["url"]),
        ("enrichment", "reads PortaBilling", description["enrichment"]["url"]),
    ]
    for name, handler in description["handlers"].items():
        group = f", tells ESPF group {handler['group']}" if handler["group"] else ""
        rows.append((name, f"handler: {handler['connector']}{group}", handler["url"]))
    rows += [
        ("callbacks", "receives late answers", description["callbacks"]["url"]),
        ("retries", "dead letters, statuses, every minute", description["retries"]["url"]),
        ("console", "pages for operators; choose a role", description["console"]["pages"]),
        ("", "its JSON API, for the commands", description["console"]["url"]),
        ("Pub/Sub", "topics and pushes", description["pubsub"]["host"]),
        ("Firestore", "history and ledger", description["firestore"]["host"]),
        ("Secret Manager", "credentials", description["secret_manager"]["host"]),
    ]
    if "sandbox" in description:
        rows.append(("sandbox", "a PortaBilling to play with", description["sandbox"]["url"]))
    for row in rows:
        table.add_row(*row)
    return table


def _next(description: dict[str, Any]) -> str:
    """What to try now; fits into 80 columns."""
    command = ".venv/bin/nsps"
    tries = [
        (f"{command} events", "what happened"),
        (f"{command} explain I_EVENT", "one event (or account:N, imsi:N)"),
        (f"{command} reconcile HANDLER --all", "PortaBilling against a system"),
        (f"{command} send SIM/Updated i_account=277001 i_event=9001", ""),
        ("docs/operate.md", "what to do when something is wrong"),
        ("docs/connectors.md", "write a connector"),
    ]
    tries.insert(0, (f"open {description['console']['pages']}", "the console: how everything is"))
    if "sandbox" in description:
        tries.insert(0, (f"open {description['sandbox']['url']}", "change a subscriber, watch it"))
    lines = ["", "[bold]NSPS is up.[/] In another terminal, from this folder:"]
    lines += [f"  {what:<41}{why}".rstrip() for what, why in tries]
    return "\n".join([*lines, "Ctrl-C stops everything."])
