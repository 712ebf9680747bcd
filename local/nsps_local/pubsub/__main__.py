"""`python -m nsps_local.pubsub`: the embedded Pub/Sub in a process of its own."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from nsps_local.grpc_server import PORT_BUSY, busy, serve
from nsps_local.pubsub.identities import EVERYBODY, Identities
from nsps_local.pubsub.server import PUSH_WINDOW, PubSubService


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. 2: a port is in use, or the directory cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m nsps_local.pubsub", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="gRPC; 0 (default): any free one")
    parser.add_argument("--control-port", type=int, default=0, help="HTTP; 0: any free one")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="where it keeps")
    parser.add_argument(
        "--push-window",
        type=int,
        default=PUSH_WINDOW,
        help="most pushes outstanding per subscription (%(default)s)",
    )
    parser.add_argument(
        "--identities",
        type=Path,
        metavar="FILE",
        help="the accounts that exist and who may call what (default: everybody everything)",
    )
    options = parser.parse_args(arguments)
    if options.push_window < 1:
        parser.error("--push-window must be at least 1")
    try:
        identities = Identities.read(options.identities) if options.identities else EVERYBODY
    except ValueError as error:
        parser.error(str(error))
    for port in filter(None, (options.port, options.control_port)):
        if not _is_free(options.host, port):  # asked first: gRPC would add a line of its own
            sys.stderr.write(f"pubsub: {busy(options.host, port)}\n")
            return PORT_BUSY
    try:
        return serve(
            "pubsub",
            lambda: PubSubService(options.state, options.push_window, identities),
            options.host,
            options.port,
            options.control_port,
        )
    except OSError as error:
        sys.stderr.write(f"pubsub: {error}\n")
        return PORT_BUSY


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
