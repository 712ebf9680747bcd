"""Tries every case, one after the other, within two minutes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from nsps_local.certify import expectations
from nsps_local.certify.address import CannotCertify
from nsps_local.certify.case import (
    Case,
    Complaint,
    Exchange,
    Observed,
    Request,
    Result,
    State,
    Way,
)
from nsps_local.certify.send import Sender
from nsps_local.certify.system import System

SECONDS = 110.0
"""So that with what is under way at its end a run takes less than two minutes."""
_LEAST = 0.5
_UNDER_WAY = 0.1
_BETWEEN_TRIES = 0.5


@dataclass(slots=True)
class Run:
    """One run. ``process``: the connector's, if it may be stopped at the end.

    ``keeps_state``: no for a connector that sends messages, of which each counts.
    """

    sender: Sender
    system: System | None = None
    process: int | None = None
    keeps_state: bool = True
    seconds: float = SECONDS
    seen: dict[str, Observed] = field(default_factory=dict)
    _ends: float = 0.0

    def results(self, cases: Sequence[Case]) -> Iterator[Result]:
        """The result of each case, as it comes. Raises CannotCertify."""
        self._ends = time.monotonic() + self.seconds
        for number, case in enumerate(cases):
            result = self._result(case)
            if number == 0 and result.exchanges and result.exchanges[0].never_sent:
                trouble = result.exchanges[0].trouble
                raise CannotCertify(f"{trouble}: is the connector running, and is this its URL?")
            yield result

    def _result(self, case: Case) -> Result:
        if missing := self._missing(case):
            return Result(case, State.SKIPPED, [Complaint(missing)])
        left = self._ends - time.monotonic()
        if case.send and left < _LEAST:
            late = Complaint("not tried: the time for all cases is over")
            return Result(case, State.FAILED, [late])
        began = time.monotonic()
        if case.send:
            self.seen[case.name] = self._try(case)
        observed = self._judged(case)
        complaints = [
            replace(complaint, text=complaint.text.replace(self.sender.token, "***"))
            for expectation in case.expect
            for complaint in expectation.complaints(observed)
        ]
        state = State.FAILED if complaints else State.PASSED
        wrong = [each.about for each in complaints]
        shown = [each for each in observed.exchanges if case.send or each in wrong]
        return Result(case, state, complaints, shown, time.monotonic() - began)

    def _missing(self, case: Case) -> str:
        """What the case needs and was not given."""
        if case.needs_system and self.system is None:
            return "needs --system"
        if case.needs_state and not self.keeps_state:
            return "is for connectors that keep a state"
        if case.way is Way.STOPPING and self.process is None:
            return "needs --pid"
        if case.send or self._judged(case).exchanges:
            return ""
        return (
            f"no answer was {case.only}" if case.only else "the case that it judges was not tried"
        )

    def _judged(self, case: Case) -> Observed:
        if case.send:
            return self.seen[case.name]
        known = [
            seen for name, seen in self.seen.items() if "*" in case.judges or name in case.judges
        ]
        exchanges = [
            each
            for seen in known
            for each in seen.exchanges
            if case.only is None or (each.answer and each.answer.status == case.only)
        ]
        return Observed(exchanges, sum(seen.given_up for seen in known))

    def _try(self, case: Case) -> Observed:
        system = self.system
        if system is None:
            return Observed(self._sent(case))
        system.taken()
        before = system.connections
        with system.troubled(case.trouble):
            exchanges = self._sent(case)
        return Observed(exchanges, system.connections - before)

    def _sent(self, case: Case) -> list[Exchange]:
        if case.way is Way.ONE_CONNECTION:
            return self.sender.send_over_one(list(case.send), self._patience(case))
        if case.way is Way.IN_TURN:
            return [self._one(case, request) for request in case.send]
        if case.way is Way.UNTIL_DONE:
            return [self._until_done(case, request) for request in case.send]
        with ThreadPoolExecutor(len(case.send)) as pool:
            coming = [pool.submit(self._one, case, request) for request in case.send]
            if case.way is Way.STOPPING:
                self._stop()
            return [each.result() for each in coming]

    def _one(self, case: Case, request: Request) -> Exchange:
        exchange = self.sender.send(request, self._patience(case))
        if self.system is None or case.way not in (Way.IN_TURN, Way.UNTIL_DONE):
            return exchange
        return replace(exchange, to_system=self.system.taken())

    def _until_done(self, case: Case, request: Request) -> Exchange:
        """The last try: what is answered 429 or 5xx is sent again, as long as there is patience."""
        ends = time.monotonic() + self._patience(case)
        while True:
            exchange = self._one(case, request)
            again = exchange.answer is None or exchange.answer.status in expectations.MAY_TRY_AGAIN
            if not again or time.monotonic() + _BETWEEN_TRIES > ends:
                return exchange
            time.sleep(_BETWEEN_TRIES)

    def _patience(self, case: Case) -> float:
        return max(_LEAST, min(case.patience, self._ends - time.monotonic()))

    def _stop(self) -> None:
        """SIGTERM while the requests are under way: the system is made to wait meanwhile."""
        assert self.process is not None
        proxy = self.system.proxy if self.system else None
        if proxy:
            proxy.hang()
        time.sleep(_UNDER_WAY)
        try:
            os.kill(self.process, signal.SIGTERM)
        except OSError as error:
            raise CannotCertify(f"--pid {self.process}: {error}") from None
        if proxy:
            time.sleep(_UNDER_WAY)
            proxy.pass_all()
