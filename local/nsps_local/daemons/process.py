"""A daemon's process on loopback, and what its start needs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nsps_local.stack.errors import CannotStart
from nsps_local.stack.processes import end_with_parent

START_SECONDS = 60.0


class NotInstalled(Exception):
    """A program is missing; the message says which, and how to install it."""


@contextmanager
def process(
    command: list[str],
    folder: Path,
    ready: Callable[[], bool],
    user: str | None = None,
    stop: signal.Signals = signal.SIGINT,  # to PostgreSQL: at once, whoever is connected
) -> Iterator[None]:
    """Run the command until the block ends. Raises CannotStart if it is not ready in time."""
    log = folder / "daemon.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            user=user,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent,  # noqa: PLW1509 (it only calls prctl)
            process_group=0,  # a Ctrl-C in the terminal is for us
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                text = log.read_text(errors="replace")[-2000:]
                raise CannotStart(f"{command[0]} did not start:\n{text}")
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def run(
    command: Sequence[str],
    *,
    user: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
) -> str:
    """What a program prints that ends by itself; ``text`` is its input. Raises CannotStart where
    it fails."""
    done = subprocess.run(  # noqa: S603
        command, user=user, cwd=cwd, env=env, input=text, capture_output=True, text=True,
        timeout=90, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise CannotStart(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


def installed(name: str, packages: str, *folders: str) -> str:
    """Where a program is, looked for in the folders, too. Raises NotInstalled."""
    path = os.pathsep.join((*reversed(folders), os.environ.get("PATH", ""), "/usr/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        raise NotInstalled(f"{name} is not installed: apt-get install {packages}")
    return found


def free_loopback_address(port: int) -> str:
    """A 127.x.y.z at which nobody listens on ``port``; each process begins elsewhere."""
    start = os.getpid() * 7
    for offset in range(200):
        number = (start + offset) % (250 * 250)
        address = f"127.77.{number // 250 + 1}.{number % 250 + 1}"
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return address
    raise CannotStart(f"no loopback address is free on port {port}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
