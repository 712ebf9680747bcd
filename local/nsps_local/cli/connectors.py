"""``nsps new-connector``: a folder to start from, whose standard tests pass as they are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nsps_local.cli.errors import CommandError


def add_to(commands: Any) -> None:
    parser = commands.add_parser("new-connector")
    parser.add_argument("name", help="lower-case letters, digits and '_': hss_acme")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout (default: here)")
    parser.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> int:
    from nsps_local.new_connector import create

    try:
        written = create(options.name, options.root)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    for path in written:
        print(f"wrote {path}")
    print(
        f"\nNow: .venv/bin/pytest tests/connectors/test_{options.name}.py, then docs/connectors.md"
    )
    return 0
