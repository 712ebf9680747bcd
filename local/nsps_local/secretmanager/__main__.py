"""`python -m nsps_local.secretmanager`: the embedded Secret Manager as a process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nsps_local.grpc_server import serve
from nsps_local.secretmanager.service import SecretManagerService


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM. Exit status 2 where the port is taken or the state cannot be used."""
    parser = argparse.ArgumentParser("nsps_local.secretmanager", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free one")
    parser.add_argument("--control-port", type=int, default=0, help="0 (default): a free one")
    parser.add_argument("--state", type=Path, required=True, help="directory of the secrets")
    options = parser.parse_args(arguments)
    try:
        return serve(
            "secretmanager",
            lambda: SecretManagerService(options.state),
            options.host,
            options.port,
            options.control_port,
        )
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
