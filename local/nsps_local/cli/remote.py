"""The console's JSON API, of the stack on this machine or of a deployed one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from nsps_local.cli.errors import CommandError
from nsps_local.cli.running import Running, add_state

CALL_SECONDS = 90
LOCAL, LOCAL_ADMIN = "operator@localhost", "admin@localhost"
TOKEN = "NSPS_TOKEN"  # noqa: S105 a variable's name


def add_console(parser: argparse.ArgumentParser) -> None:
    """The options by which a command finds the console."""
    where = parser.add_argument_group(
        "which NSPS", "The stack on this machine, or with a console's address a deployed one."
    )
    add_state(where)
    where.add_argument(
        "--console",
        metavar="URL",
        default=os.environ.get("NSPS_CONSOLE_URL"),
        help="the console of a deployed NSPS (or NSPS_CONSOLE_URL)",
    )
    where.add_argument(
        "--token",
        help='who you are there (or NSPS_TOKEN): "$(gcloud auth print-identity-token)"',
    )


class Remote:
    """Calls the console: of a deployed NSPS as who the token says, of this machine's stack as the
    ``local`` person. Raises CommandError with what the console says."""

    def __init__(self, options: argparse.Namespace, local: str = LOCAL) -> None:
        self._state: Path | None = None if options.console else options.state
        if options.console:
            self._url = str(options.console).rstrip("/")
            self._token = options.token or os.environ.get(TOKEN, "")
            if not self._token:
                raise CommandError(
                    f'--console: show who you are: export {TOKEN}="$(gcloud auth '
                    'print-identity-token)"'
                )
            return
        running = Running(options.state)
        console = running.description.get("console")
        if console is None:
            raise CommandError("the running stack has no console: start it again")
        self._url = console["url"]
        from nsps_local.pubsub.oidc import TokenIssuer  # of which a deployed NSPS needs nothing

        issuer = TokenIssuer(options.state / "pubsub")
        self._token = options.token or issuer.token(local, console["audience"])

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """GET /api/``path``; parameters that are None are left out."""
        return self._call("GET", path, query=query)

    def find(self, path: str, **query: Any) -> dict[str, Any] | None:
        """As ``get``; None for what is not there."""
        return self._call("GET", path, query=query, absent=True) or None

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /api/``path``."""
        return self._call("POST", path, body=body)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        absent: bool = False,
    ) -> dict[str, Any]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            answer = requests.request(
                method,
                f"{self._url}/api/{quote(path)}",
                params=given,
                json=body,
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=CALL_SECONDS,
            )
        except requests.ConnectionError as error:
            raise CommandError(self._not_running()) from error
        except requests.RequestException as error:
            raise CommandError(
                f"the console at {self._url} does not answer: {type(error).__name__}"
            ) from error
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.status_code == 404 and absent and isinstance(document, dict):
            return {}
        if answer.status_code != 200 or not isinstance(document, dict):
            said = document.get("error") if isinstance(document, dict) else None
            raise CommandError(
                said or f"the console at {self._url} answers HTTP {answer.status_code}"
            )
        return document

    def _not_running(self) -> str:
        if self._state is None:
            return f"the console at {self._url} does not answer: check the address and the network"
        return (
            f"the stack with the state in {self._state} is not running any more (nothing answers "
            f"at {self._url}): start it with `nsps up`"
        )
