"""The ``nsps`` command. Every subcommand has a module of its own."""

from __future__ import annotations

import argparse
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


def _run(arguments: Sequence[str] | None) -> int:
    # Imported here: it takes a second, in which Ctrl-C must not end in a traceback.
    from nsps_local.cli import (
        audit,
        certify,
        connectors,
        cost,
        doctor,
        erase,
        events,
        handlers,
        jobs,
        retries,
        send,
        try_handler,
        up,
    )

    parser = argparse.ArgumentParser(
        prog="nsps",
        description="NSPS: from a PortaBilling webhook to provisioned systems.",
        epilog="What to do when something is wrong, by symptom: docs/operate.md. Each command "
        "tells more with --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        up,
        send,
        events,
        handlers,
        retries,
        jobs,
        try_handler,
        audit,
        cost,
        doctor,
        erase,
        connectors,
        certify,
    ):
        module.add_to(commands)
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status
