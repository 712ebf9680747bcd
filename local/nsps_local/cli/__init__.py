"""The ``nsps`` command. Every subcommand has a module of its own."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from nsps_local.cli.errors import CommandError

EXIT_REFUSED, EXIT_INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``nsps``; returns its exit status: 0 done, 1 not so, 2 it cannot be carried out, 130
    interrupted with Ctrl-C."""
    try:
        return _run(arguments)
    except CommandError as error:
        from nsps.domain.printable import printable

        sys.stderr.write(f"nsps: {printable(str(error))}\n")
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0


COMMANDS = {
    "up": ("up", "start everything on this machine; Ctrl-C stops it"),
    "send": ("send", "send a webhook to the ingress, as ESPF does"),
    "events": ("events", "the newest events and their outcomes"),
    "explain": (
        "events",
        "an event or a subscriber in plain words: what happened, what waits, what to do",
    ),
    "pause": ("handlers", "stop sending to a system until it is resumed"),
    "resume": ("handlers", "send to a paused system again"),
    "handlers": ("handlers", "the external systems: which are in service, and why not"),
    "retries": ("retries", "when failed deliveries are tried again; which are parked, and why"),
    "replay": ("jobs", "send events of the history again; PortaBilling is read anew for each"),
    "reconcile": ("jobs", "compare PortaBilling with what a system holds; --fix repairs"),
    "jobs": ("jobs", "replays and reconciles: what runs, what was found; watch, stop, resume one"),
    "try": ("try_handler", "what a handler would ask of its system for one account"),
    "audit": ("audit", "who paused, resumed, replayed, repaired or erased, and why"),
    "cost": ("cost", "dollars per million events and per month, from the recorded program"),
    "doctor": (
        "doctor",
        "secrets, PortaBilling, systems, clock, limits: what is wrong, and what to do",
    ),
    "erase": ("erase", "delete what NSPS keeps of one account"),
    "new-connector": ("connectors", "a connector to start from, with its tests"),
    "certify": ("certify", "does a connector keep the published contract, and how well?"),
}
"""Command -> its module, and what it is for. The module's ``add_to`` adds the command's options."""


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="nsps",
        description="NSPS: from a PortaBilling webhook to provisioned systems.",
        epilog="What to do when something is wrong, by symptom: docs/operate.md. Each command "
        "tells more with --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else arguments
    wanted = next((COMMANDS[word][0] for word in given if word in COMMANDS), None)
    if wanted:  # of all the commands this one alone: what the others need takes a second to import
        importlib.import_module(f"nsps_local.cli.{wanted}").add_to(commands)
    for name, (module, purpose) in COMMANDS.items():
        if module != wanted:
            commands.add_parser(name, help=purpose)
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status
