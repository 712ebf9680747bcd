"""``nsps try``: the requests that a handler would make for one account, or makes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from nsps.domain.printable import bounded, one_line

from nsps_local.cli.errors import CommandError
from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import console

_SHOWN = 1000


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "try",
        description="Reads PortaBilling and the system, and shows the requests and their answers, "
        "without secrets. What would change something is shown and not sent: for each resource the "
        "first such request. With --send the account is delivered as by an event, and every "
        "request is shown with its answer.",
    )
    parser.add_argument("handler", help="its name")
    parser.add_argument("--account", type=int, required=True, metavar="I_ACCOUNT")
    parser.add_argument("--send", action="store_true", help="make the requests")
    parser.add_argument("--reason", default="", help="why, for the audit trail")
    add_console(parser)
    parser.set_defaults(run=_try)


def _try(options: argparse.Namespace) -> int:
    if options.account < 1:
        raise CommandError(f"--account {options.account}: write the number of an account")
    body = {"account": options.account, "send": options.send, "reason": options.reason}
    tried = Remote(options).post(f"handlers/{options.handler}/try", body)
    for exchange in tried["exchanges"]:
        _show(exchange)
    for resource in tried["resources"]:
        reason = f" ({resource['reason']})" if resource["reason"] else ""
        _print(f"{resource['key'] or tried['owner']}: {resource['what']}{reason}")
    if not tried["exchanges"] and not tried["resources"]:
        _print(f"{tried['owner']}: nothing is asked of the system")
    if tried["reason"]:
        _print(tried["reason"], "yellow")
    if tried["outcome"] is not None:
        _print(f"{tried['owner']}: {tried['outcome']}")
    elif any(not each["sent"] for each in tried["exchanges"]):
        _print("Write --send to send what was not sent.")
    return 0 if tried["outcome"] in (None, "delivered", "unchanged") else 1


def _show(exchange: Mapping[str, Any]) -> None:
    query = "&".join(f"{name}={value}" for name, value in exchange["query"].items())
    _print(f"{exchange['method']} {exchange['url']}{'?' if query else ''}{query}", "bold")
    if exchange["body"] is not None:
        _print(f"  {json.dumps(exchange['body'], ensure_ascii=False)}")
    if not exchange["sent"]:
        _print("  not sent", "yellow")
    elif exchange["status"] is None:
        _print("  no answer", "red")
    else:
        _print(f"  {exchange['status']}: {exchange['meaning']} {exchange['answer']}")


def _print(text: str, style: str = "") -> None:
    console.print(bounded(one_line(text), _SHOWN), style=style, markup=False, soft_wrap=True)
