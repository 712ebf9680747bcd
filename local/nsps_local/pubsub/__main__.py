"""`python -m nsps_local.pubsub`: the embedded Pub/Sub in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from nsps_local.pubsub.server import serve


def main() -> int:
    """Serve until SIGTERM or SIGINT. 2: a port is in use or the directory cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m nsps_local.pubsub", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8085, help="gRPC; 0: any free one")
    parser.add_argument("--control-port", type=int, default=8086, help="HTTP; 0: any free one")
    parser.add_argument("--state", type=Path, default=Path(".nsps/pubsub"), metavar="DIR")
    parser.add_argument(
        "--push-window", type=int, default=128, help="most pushes outstanding per subscription"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(_run(arguments))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = await serve(
        arguments.state,
        arguments.host,
        arguments.port,
        arguments.control_port,
        max(arguments.push_window, 1),
    )
    sys.stdout.write(
        f"Pub/Sub ready: PUBSUB_EMULATOR_HOST={running.target} control={running.control_url}\n"
    )
    sys.stdout.flush()
    await stop.wait()
    await running.stop()


if __name__ == "__main__":
    sys.exit(main())
