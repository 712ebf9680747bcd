"""An OsmoHLR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nsps_local.daemons.process import accepts, free_loopback_address, installed, process

VTY_PORT, CTRL_PORT = 4258, 4259  # fixed in OsmoHLR 1.5, as is 4222 (GSUP)

CONFIG = """\
log stderr
 logging filter all 1
 logging color 0
 logging level main notice
line vty
 bind {address}
ctrl
 bind {address}
hlr
 gsup
  bind ip {address}
"""


@contextmanager
def osmo_hlr(folder: Path) -> Iterator[tuple[str, int]]:
    """An OsmoHLR with an empty database; gives host and port of its CTRL interface.

    Its ports are fixed, so it gets a loopback address of its own.
    """
    program = installed("osmo-hlr", "osmo-hlr")
    address = free_loopback_address(CTRL_PORT)
    (folder / "osmo-hlr.cfg").write_text(CONFIG.format(address=address))
    command = [program, "-c", "osmo-hlr.cfg", "-l", "hlr.db"]
    with process(command, folder, lambda: accepts(address, CTRL_PORT)):
        yield address, CTRL_PORT
