"""A function under functions-framework, in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import requests

STARTS_WITHIN_SECONDS = 60


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class FunctionProcess:
    """``main.py``: the function's. ``url``: where it is served; at a free port, known before."""

    def __init__(self, main: Path, folder: Path) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{main.parent.name}-{self.port}.log"
        self._main = main
        self.environ: dict[str, str] = {}
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        command = ["--source", str(self._main), "--target", "main", "--signature-type", "http"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "functions_framework", *command],
                env={"PATH": os.environ["PATH"], "THREADS": "8", **self.environ},
                cwd=self.log.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        self.start()
        try:
            self._wait_until_it_serves()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_it_serves(self) -> None:
        ends = time.monotonic() + STARTS_WITHIN_SECONDS
        while time.monotonic() < ends:
            with suppress(requests.ConnectionError):
                if requests.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
