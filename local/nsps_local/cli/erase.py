"""``nsps erase``: delete what is kept of one account, on its subscriber's request."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from nsps.outcome import Transient
from nsps.store import Store, open_store

from nsps_local import erase
from nsps_local.cli.errors import CommandError
from nsps_local.cli.running import Running, add_state
from nsps_local.cli.show import console


def add_to(commands: Any) -> None:
    parser = commands.add_parser("erase", help="delete what is kept of one account")
    add_state(parser)
    parser.add_argument("--account", type=int, required=True, metavar="I_ACCOUNT")
    parser.add_argument(
        "--project", help="of a deployed NSPS, as yourself: gcloud auth application-default login"
    )
    parser.add_argument("--database", help="its database, like nsps-acme")
    parser.add_argument(
        "--held", action="store_true", help="even though a system still holds something of it"
    )
    parser.add_argument("--yes", action="store_true", help="delete; without it only say what")
    parser.set_defaults(run=_erase)


def _erase(options: argparse.Namespace) -> int:
    if bool(options.project) != bool(options.database):
        raise CommandError("write both --project and --database, or neither for the local stack")
    store = _store(options)
    try:
        found = erase.find(store, options.account, held=options.held)
        kinds = Counter(reference.parent.id for reference in found.documents)
        said = ", ".join(f"{count} of {name}" for name, count in sorted(kinds.items()))
        console.print(f"account {options.account}: {said or 'nothing is kept'}")
        for reason in found.against:
            console.print(f"[yellow]but {reason}[/]")
        if not options.yes:
            if found.documents:
                console.print("Nothing was deleted: write --yes to delete them.")
            return 1 if found.against else 0
        console.print(f"{erase.erase(store, found)} documents deleted.")
    except erase.NotYet as error:
        raise CommandError(f"nothing was deleted: {error}") from error
    except Transient as error:
        raise CommandError(str(error)) from error
    return 0


def _store(options: argparse.Namespace) -> Store:
    if options.project:
        return open_store(options.project, options.database)
    return Running(options.state).store
