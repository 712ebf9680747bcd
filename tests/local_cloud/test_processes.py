"""The stack's children: one that dies comes back, whatever it left behind."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

from nsps_local.stack.ports import reserve_base
from nsps_local.stack.processes import Child, Processes

MASTER = """
import os, socket, sys, time
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork():
    print("ready", flush=True)
while True:
    time.sleep(60)
"""


def test_a_killed_master_s_worker_does_not_keep_the_port(tmp_path: Path) -> None:
    port = reserve_base()
    again = threading.Event()

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    log = tmp_path / "log"
    command = [sys.executable, "-c", MASTER, str(port)]
    child = Child("master", command, os.environ, ready, log)
    processes = Processes(lambda _text: again.set())
    try:
        processes.start(child)
        child.wait_ready()
        processes.watch()
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert again.wait(60)
        assert _until(lambda: log.read_text().count("ready") == 2), log.read_text()
        assert child.restarts == 1
    finally:
        processes.stop()


def _until(holds: object) -> bool:
    waits = threading.Event()
    for _ in range(1200):
        if holds():  # type: ignore[operator]
            return True
        waits.wait(0.05)
    return False
