"""`python -m nsps_local.firestore`: the embedded Firestore as a process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nsps_local.firestore import service
from nsps_local.grpc_server import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM. Exit status 2 where the port is taken or an option makes no sense."""
    parser = argparse.ArgumentParser("nsps_local.firestore", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free one")
    parser.add_argument("--control-port", type=int, default=0, help="0 (default): a free one")
    parser.add_argument("--state", type=Path, required=True, help="directory of the documents")
    parser.add_argument("--indexes", type=Path, help="file like firestore.indexes.json")
    parser.add_argument(
        "--ttl", nargs="*", default=[], metavar="GROUP.FIELD", help="fields that expire documents"
    )
    parser.add_argument(
        "--database",
        nargs="*",
        default=[],
        metavar="projects/P/databases/D",
        help="the databases that exist (default: every one)",
    )
    options = parser.parse_args(arguments)
    try:
        return serve(
            "firestore",
            lambda: service(
                options.state, options.indexes, options.ttl, databases=options.database
            ),
            options.host,
            options.port,
            options.control_port,
        )
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
