"""One subscriber through every system that has a real daemon, as `make demo` plays it; and once
more while each daemon is killed just when it has something to learn."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from nsps.domain.outcome import Outcome
from nsps_local.demo.life import Life
from nsps_local.demo.stack import callbacks_url, write_configuration
from nsps_local.demo.systems import SECRETS, Daemons, System, shown
from nsps_local.stack.ports import reserve_base
from nsps_testing.waiting import wait_for

from tests.end_to_end import processes
from tests.end_to_end.whole_stack import WholeStack

pytestmark = pytest.mark.timeout(400)

SYSTEMS = (
    *("OsmoHLR", "Kamailio", "FreeRADIUS", "PowerDNS", "Tryton", "PostgreSQL", "MariaDB"),
    *("Postfix", "Kannel"),
)
NEW_SIM = "The SIM card of your account has changed"
NEW_SIM_TEXT = "The SIM card of your account is now the one whose number ends in {end}"
BLOCKED, ACTIVE = "Your account has been blocked", "Your account is active again"
SLOW, FAST = "Access-Accept, 20M/5M", "Access-Accept, 100M/50M"
SERVED, REGISTERED, PORTED = "...{end}, served", "200, registered", "rn=+420999"
S, L = "active, Mobile S, {imsi}", "active, Mobile L, {imsi}"
OFF = "barred, Mobile L, {imsi}"
GONE = "terminated, Mobile L, -"
EXPECTED = {
    "created": (SERVED, REGISTERED, SLOW, "-", "active", S, S, (1, NEW_SIM), (1, NEW_SIM_TEXT)),
    "product changed": (
        *(SERVED, REGISTERED, FAST, "-", "active", L, L),
        *((1, NEW_SIM), (1, NEW_SIM_TEXT)),
    ),
    "SIM swapped": (
        *(SERVED, REGISTERED, FAST, "-", "active", L, L),
        *((2, NEW_SIM), (2, NEW_SIM_TEXT)),
    ),
    "number ported": (
        *(SERVED, REGISTERED, FAST, PORTED, "active", L, L),
        *((2, NEW_SIM), (2, NEW_SIM_TEXT)),
    ),
    "blocked": (
        *("...{end}, CS and PS off", "403, barred", "Access-Reject", PORTED, "active", OFF, OFF),
        *((3, BLOCKED), (3, BLOCKED)),
    ),
    "unblocked": (
        *(SERVED, REGISTERED, FAST, PORTED, "active", L, L),
        *((4, ACTIVE), (4, ACTIVE)),
    ),
    "terminated": (
        *("-", "401, unknown", "Access-Reject", "-", "inactive", GONE, GONE),
        *((5, NEW_SIM), (5, "Your account no longer has a SIM card")),
    ),
}
"""What each system holds after a step; of mails and texts how many, and the last."""

KILLED = {
    "product changed": (("PostgreSQL", "FreeRADIUS"), ("postgresql", "radius")),
    "SIM swapped": (("OsmoHLR", "Postfix"), ("hss", "mail")),
    "number ported": (("PowerDNS",), ("enum",)),
    "blocked": (("Kamailio", "Kannel"), ("voip", "sms")),
    "unblocked": (("MariaDB",), ("mariadb",)),
    "terminated": (("Tryton",), ("crm",)),
}
"""Whose daemons are killed during a step, and which handlers have to wait for them."""


@dataclass
class Place:
    """The systems, the stack, and the daemons that were started again."""

    systems: Sequence[System]
    stack: WholeStack
    again: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def holds(self, life: Life) -> dict[str, str]:
        return {system.name: shown(system, life.who) for system in self.systems}

    def wait_until_retrying(self, handlers: Sequence[str], i_events: Sequence[str]) -> None:
        """Until a delivery of these events to each of the handlers is to be tried again."""

        def all_are() -> bool:
            retrying = {
                each.handler
                for i_event in i_events
                for history in self.stack.histories(i_event)
                for each in history.deliveries
                if each.outcome == Outcome.RETRYING
            }
            return retrying >= set(handlers)

        wait_for(all_are, 60, f"{handlers} to wait for their systems")

    @contextmanager
    def killed(self, *names: str) -> Iterator[None]:
        """SIGKILL to the systems' daemons and to all below them; then they start as before."""
        programs = {each for s in self.systems if s.name in names for each in s.programs}
        found = [
            each
            for each in processes.table().values()
            if each.parent == os.getpid() and each.alive and programs & _words(each)
        ]
        assert len(found) == len(programs), (found, programs)
        starts = [partial(_start, each.command, *_given(each.pid)) for each in found]
        everything = {pid for each in found for pid in (each.pid, *processes.below(each.pid))}
        _kill(everything)
        for each in found:  # reaped, or PostgreSQL takes it for one that still runs
            os.waitpid(each.pid, 0)
        yield
        self.again += [start() for start in starts]

    def end(self) -> None:
        for process in self.again:
            _kill({process.pid, *processes.below(process.pid)})
            process.wait(10)


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a child may end with its parent
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(processes.alive, pids)), 30, f"{pids} to be dead")


def _words(process: processes.Process) -> set[str]:
    return {Path(word).name for word in process.command}


def _given(pid: int) -> tuple[Path, int, dict[str, str]]:
    """A process's folder, user and environment."""
    entry = processes.PROC / str(pid)
    return (entry / "cwd").resolve(), entry.stat().st_uid, processes.environment(pid)


def _start(
    command: Sequence[str], folder: Path, user: int, given: dict[str, str]
) -> subprocess.Popen[bytes]:
    """As a service manager does: again until it stays (smsbox ends where bearerbox is away)."""
    for _ in range(30):
        process = subprocess.Popen(
            command, cwd=folder, user=user, env=given, process_group=0,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            return process
    raise AssertionError(f"{command[0]} ends whenever it is started")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, base = tmp_path_factory.mktemp("every"), reserve_base()
    with ExitStack() as ends:
        missing: list[str] = []
        systems = Daemons(ends, callbacks_url(base)).start(missing.append)
        if len(systems) < len(SYSTEMS):
            pytest.skip("; ".join(each for each in missing if "left out" in each))
        stack = WholeStack(folder / "state", *write_configuration(folder, systems), base)
        place = Place(systems, stack)
        ends.callback(place.end)
        ends.callback(stack.stop)
        stack.start(240)  # fourteen functions, perhaps on a busy machine
        yield place


def expected(title: str, life: Life) -> dict[str, str]:
    """What each system is to hold after a step."""
    imsi = life.who.imsis[-1]
    said = {}
    for name, cell in zip(SYSTEMS, EXPECTED[title], strict=True):
        text = cell if isinstance(cell, str) else f"{cell[0]}, last: {cell[1]}"
        said[name] = text.format(imsi=imsi, end=imsi[-4:])
    said["Tryton"] = f"{life.name} Example, {said['Tryton']}"
    return said


def assert_all_hold(place: Place, title: str, life: Life) -> None:
    """A daemon may need a moment: to deliver a mail, to find its database again."""
    wanted = expected(title, life)
    wait_for(lambda: place.holds(life) == wanted, 60, f"{title}: {place.holds(life)}, {wanted}")
    groups = {system.handler["group"]: "OK" for system in place.systems}
    assert place.stack.sandbox.statuses(life.who.i_account) == groups


def test_every_system_follows_a_subscriber_s_life(place: Place) -> None:
    life = Life(place.stack.sandbox, "Ada", "447700900101")
    for title, change in life.steps():
        place.stack.all_finished(change())
        assert_all_hold(place, title, life)


def test_every_system_converges_although_each_daemon_is_killed_once(place: Place) -> None:
    assert {name for names, _ in KILLED.values() for name in names} == set(SYSTEMS)
    life = Life(place.stack.sandbox, "Ben", "447700900102")
    for title, change in life.steps():
        names, handlers = KILLED.get(title, ((), ()))
        with place.killed(*names):
            i_events = change()
            place.wait_until_retrying(handlers, i_events)
        place.stack.all_finished(i_events)
        assert_all_hold(place, title, life)


def test_no_log_holds_a_secret(place: Place) -> None:
    for name, text in place.stack.logs().items():
        assert not [each for each in SECRETS.values() if each in text], name


def test_what_is_not_installed_is_left_out_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nsps_local.daemons.process.shutil.which", lambda *_, **__: None)
    said: list[str] = []
    with ExitStack() as ends:
        assert Daemons(ends, "http://127.0.0.1:1").start(said.append) == []
    assert len(said) == len(SYSTEMS)
    assert all("is left out:" in line and "apt-get install" in line for line in said)
