"""The order manager in a process of its own, for tests and for `nsps up`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Start it with these arguments (see --help); yields its URL once it serves; ends it after."""
    command = [sys.executable, "-m", "nsps_local.order_manager", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if " at http" not in line:
                raise RuntimeError("the order manager did not start: see what it wrote above")
            yield line.rpartition(" ")[2].strip()
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
