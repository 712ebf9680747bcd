"""``nsps certify``: does a connector keep the published contract, and how well?"""

from __future__ import annotations

import argparse
from typing import Any

from nsps_local.certify.address import CannotCertify
from nsps_local.certify.command import DESCRIPTION, add_options, certify
from nsps_local.cli.errors import CommandError


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "certify",
        description=DESCRIPTION,
    )
    add_options(parser)
    parser.set_defaults(run=_certify)


def _certify(options: argparse.Namespace) -> int:
    try:
        return certify(options)
    except CannotCertify as error:
        raise CommandError(str(error)) from None
