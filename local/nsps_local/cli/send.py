"""``nsps send``: a webhook as ESPF sends it, signed as the stack expects."""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import sys
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import requests

from nsps_local.cli.errors import CommandError
from nsps_local.cli.running import Running, add_state

TIMEOUT_SECONDS = 30
METHODS = ("basic", "custom", "signature")


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "send",
        description="nsps send SIM/Updated i_account=1000889 i_event=5, or nsps send --file FILE."
        " Another ingress than this machine's: --url with --auth.",
    )
    parser.add_argument("event_type", nargs="?", help="for example SIM/Updated")
    parser.add_argument("variables", nargs="*", metavar="NAME=VALUE", help="the event's variables")
    parser.add_argument("--file", type=Path, help="a webhook's JSON; - is standard input")
    parser.add_argument("--url", help="the webhook_url of a deployed NSPS; with --auth")
    parser.add_argument(
        "--auth",
        type=Path,
        metavar="FILE",
        help='credentials: {"method": "basic", "credentials": {"user": ..., "password": ...}}; '
        "custom and signature as their secrets; - is standard input",
    )
    add_state(parser)
    parser.set_defaults(run=_send)


def _send(options: argparse.Namespace) -> int:
    body = _body(options)
    if options.url and options.auth is None:
        raise CommandError("--url goes with --auth FILE: this machine's credentials are not shown")
    ingress = {} if options.url else Running(options.state).description["ingress"]
    auth = _auth(options.auth) if options.auth else ingress["auth"]
    url = options.url or ingress["url"]
    try:
        headers = signed_headers(auth)
    except KeyError as missing:
        raise CommandError(f"--auth: {missing} is missing") from None
    try:
        answer = requests.post(url, data=body, headers=headers, timeout=TIMEOUT_SECONDS)
    except requests.RequestException as error:
        raise CommandError(f"{url} does not answer: {type(error).__name__}") from error
    print(f"{answer.status_code} {answer.text.strip()}")
    return 0 if answer.status_code == 200 else 1


def _body(options: argparse.Namespace) -> bytes:
    if options.file is not None:
        if options.event_type:
            raise CommandError("write either --file or an event type with variables, not both")
        try:
            if str(options.file) == "-":
                return sys.stdin.buffer.read()
            return bytes(options.file.read_bytes())
        except OSError as error:
            raise CommandError(f"--file {options.file}: {error.strerror}") from None
    if not options.event_type:
        raise CommandError("name an event type, for example: nsps send SIM/Updated i_account=1")
    variables = dict(_variable(text) for text in options.variables)
    return json.dumps({"event_type": options.event_type, "variables": variables}).encode()


def _auth(file: Path) -> dict[str, Any]:
    """How to sign, from a file: method, credentials, and the header if it is another."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, ValueError) as error:
        raise CommandError(f"--auth {file}: cannot be read as JSON: {error}") from None
    if not isinstance(document, dict) or document.get("method") not in METHODS:
        raise CommandError(
            f'--auth {file}: write {{"method": "basic", "credentials": {{...}}}}; methods: '
            f"{', '.join(METHODS)}"
        )
    return {"header": "Authorization", **document}


def _variable(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise CommandError(f"{text!r}: write NAME=VALUE, for example i_account=1000889")
    return name, int(value) if value.isascii() and value.isdigit() else value


def signed_headers(auth: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a webhook for ``auth`` as in stack.json: method, header, credentials."""
    given = auth["credentials"]
    date = formatdate(usegmt=True)
    if auth["method"] == "basic":
        pair = f"{given['user']}:{given['password']}".encode()
        value = f"Basic {base64.b64encode(pair).decode()}"
    elif auth["method"] == "custom":
        value = f"{given['type']} {given['credentials']}"
    else:
        # PortaBilling signs with HMAC-SHA1; the choice is not ours.
        digest = hmac.new(given["key"].encode(), f"date: {date}".encode(), hashlib.sha1).digest()
        signature = base64.b64encode(digest).decode()
        value = f'Signature keyId="{given["key_id"]}",algorithm="hmac-sha1",signature="{signature}"'
    return {auth["header"]: value, "Date": date, "Content-Type": "application/json"}
