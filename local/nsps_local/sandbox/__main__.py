"""python -m nsps_local.sandbox --host 127.0.0.1 --port 8444 --state DIR [--config FILE]

Exit status: 0 after SIGTERM or Ctrl-C, 2 when it cannot start (port busy, state in use, bad
configuration).
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from nsps.runtime.mistakes import sentences
from pydantic import ValidationError

from nsps_local.sandbox.config import SandboxConfig
from nsps_local.sandbox.server import Sandbox
from nsps_local.sandbox.store import StateInUse


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        config = _config(options.config)
        sandbox = Sandbox(options.state, options.port, options.host, config).start()
    except (OSError, ValueError, StateInUse) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"PortaBilling sandbox ready on {sandbox.url}\n")
    sys.stdout.flush()
    stopped.wait()
    sandbox.stop()
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nsps_local.sandbox", description="A PortaBilling on loopback."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default): any free port")
    parser.add_argument("--state", type=Path, required=True, help="directory of the database")
    parser.add_argument("--config", type=Path, help="JSON file; see nsps_local.sandbox.config")
    return parser.parse_args(arguments)


def _config(path: Path | None) -> SandboxConfig:
    if path is None:
        return SandboxConfig()
    try:
        return SandboxConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"The configuration {path} is not usable: {sentences(error)}.") from error


if __name__ == "__main__":
    sys.exit(main())
