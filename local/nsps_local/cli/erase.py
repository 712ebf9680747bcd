"""``nsps erase``: delete what is kept of one account, on its subscriber's request."""

from __future__ import annotations

import argparse
from typing import Any

from nsps_local.cli.errors import CommandError
from nsps_local.cli.remote import LOCAL_ADMIN, Remote, add_console
from nsps_local.cli.show import console


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "erase",
        description="Says what is kept; deletes it with --yes, which needs the role admin. The "
        "external systems are not touched: terminate the account in PortaBilling first.",
    )
    parser.add_argument("--account", type=int, required=True, metavar="I_ACCOUNT")
    parser.add_argument(
        "--held", action="store_true", help="even though a system still holds something of it"
    )
    parser.add_argument("--yes", action="store_true", help="delete; without it only say what")
    parser.add_argument("--reason", default="", help="why, for the audit trail")
    add_console(parser)
    parser.set_defaults(run=_erase)


def _erase(options: argparse.Namespace) -> int:
    if options.account < 1:
        raise CommandError(f"--account {options.account}: write the number of an account")
    remote = Remote(options, LOCAL_ADMIN)
    held = "true" if options.held else "false"
    found = remote.get(f"accounts/{options.account}/kept", held=held)
    said = ", ".join(f"{count} of {name}" for name, count in found["kept"].items())
    console.print(f"account {options.account}: {said or 'nothing is kept'}", soft_wrap=True)
    for reason in found["against"]:
        console.print(f"but {reason}", style="yellow", soft_wrap=True)
    if not options.yes:
        if found["kept"]:
            console.print("Nothing was deleted: write --yes to delete them.")
        return 1 if found["against"] else 0
    body = {"held": options.held, "reason": options.reason}
    deleted = remote.post(f"accounts/{options.account}/erase", body)["deleted"]
    console.print(f"{deleted} documents deleted.")
    return 0
