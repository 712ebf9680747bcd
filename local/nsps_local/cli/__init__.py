"""The ``nsps`` command. Every subcommand has a module of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nsps_local.cli import audit, connectors, events, handlers, jobs, retries, send, up
from nsps_local.cli.errors import CommandError

EXIT_REFUSED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``nsps``; returns its exit status: 0 done, 1 not so, 2 it cannot be carried out."""
    parser = argparse.ArgumentParser(
        prog="nsps", description="NSPS: from a PortaBilling webhook to provisioned systems."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (up, send, events, handlers, retries, jobs, audit, connectors):
        module.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except CommandError as error:
        sys.stderr.write(f"nsps: {error}\n")
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return status
