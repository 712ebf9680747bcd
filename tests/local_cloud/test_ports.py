"""Where a stack listens when it must not meet another one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from nsps_local.stack import ports
from nsps_local.stack.errors import CannotStart
from nsps_local.stack.ports import HOST, ROOM, check_free, reserve_base


def test_a_base_is_given_once() -> None:
    first, second = reserve_base(), reserve_base()
    assert first != second
    for base in (first, second):
        check_free(list(range(base, base + ROOM - 1)))


def test_another_process_gets_another_base() -> None:
    mine = reserve_base()
    look = (
        "import os, sys; from nsps_local.stack import ports; "
        "os.getpid = lambda: int(sys.argv[1]); print(ports.reserve_base())"
    )
    slot = (mine - ports._SLOTS.start) // ROOM
    other = subprocess.run(
        [sys.executable, "-c", look, str(slot)], check=True, capture_output=True, text=True
    )
    assert int(other.stdout) != mine


def test_a_base_with_a_busy_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 17)
    expected = ports._SLOTS[17 + len(ports._taken)]
    with socket.socket() as busy:
        busy.bind((HOST, expected + 3))
        busy.listen()
        assert reserve_base() not in range(expected, expected + ROOM)


def test_no_room_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_SLOTS", range(31_000, 31_000 + ROOM, ROOM))
    with socket.socket() as busy:
        busy.bind((HOST, 31_000))
        busy.listen()
        with pytest.raises(CannotStart, match="no 50 free ports in a row"):
            reserve_base()
