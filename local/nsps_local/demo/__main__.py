"""``python -m nsps_local.demo``: plays the life and prints, step by step, what each system holds.

Exit status 0 when every event came to its end, 1 when one did not, 2 when nothing could start.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.table import Table

from nsps_local.cli.running import Running
from nsps_local.cli.show import console
from nsps_local.demo.life import Life
from nsps_local.demo.stack import callbacks_url, write_configuration
from nsps_local.demo.systems import Daemons, Subscriber, System, shown
from nsps_local.scenario import Sandbox, ScenarioFailed, finished
from nsps_local.stack.errors import CannotStart
from nsps_local.stack.ports import reserve_base
from nsps_local.stack.stack import Options, Stack


def main() -> int:
    """Start, play, stop; returns the exit status."""
    stopped = threading.Event()
    # Not an exception: raised while Python forks for one of our processes, it would be ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with ExitStack() as ends:
            status = _show(ends, stopped)
            _say("stopping ...")
    except CannotStart as error:
        sys.stderr.write(f"the demo cannot start: {error}\n")
        status = 2
    except ScenarioFailed as error:
        sys.stderr.write(f"the demo did not end as it should: {error}\n")
        status = 1
    except KeyboardInterrupt:
        status = 130
    _say("stopped; nothing is left running")
    return status


def _show(ends: ExitStack, stopped: threading.Event) -> int:
    def go_on() -> None:
        if stopped.is_set():
            raise KeyboardInterrupt

    def say(text: str) -> None:
        _say(text)
        go_on()

    folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="nsps-demo-")))
    base = reserve_base()
    systems = Daemons(ends, callbacks_url(base)).start(say)
    if not systems:
        _say("no system is installed: there is nothing to show")
        return 2
    config, secrets = write_configuration(folder, systems)
    stack = Stack(Options(config, folder / "state", base, secrets=secrets), say, _say, go_on)
    description = stack.up()
    ends.callback(stack.down)
    running, sandbox = Running(folder / "state"), Sandbox(description["sandbox"]["url"])
    life = Life(sandbox, "Ada", "447700900101")
    for number, (title, change) in enumerate(life.steps(), 1):
        started = time.monotonic()
        for i_event in change():
            go_on()
            finished(running, i_event, stopped)
        took = time.monotonic() - started
        statuses = sandbox.statuses(life.who.i_account)
        console.print(_table(f"{number}. {title} ({took:.1f} s)", systems, life.who, statuses))
    return 0


def _table(
    title: str, systems: Sequence[System], who: Subscriber, statuses: dict[str, str]
) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in ("system", "read by", "what it holds", "ESPF group", "status"):
        table.add_column(column)
    for system in systems:
        group = str(system.handler["group"])
        row = (system.name, system.tool, shown(system, who), group, statuses.get(group, "-"))
        table.add_row(*row)
    return table


def _say(text: str) -> None:
    console.print(f"[bright_black]·[/] {text}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
