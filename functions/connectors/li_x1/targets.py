"""By which identities the network knows a warrant's target now, as PortaBilling says."""

from __future__ import annotations

from nsps.connector.base import Context
from nsps.domain.event import Owner
from nsps.domain.snapshot import Block, PbData
from nsps.domain.subscriber import is_closed, msisdn
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.lists import Lists
from nsps.portabilling.reader import Reader
from nsps.runtime.lazy import Lazy

from .warrants import Warrant

NUMBER, IMSI = "e164Number", "imsi"
_BLOCKS = frozenset({Block.ACCOUNT_INFO, Block.SIM_INFO})

Identities = dict[str, str]
"""NUMBER and IMSI, as far as there are any. Empty: nothing that a task may be changed to."""


def identities(pb: PbData) -> Identities:
    """Of an account. One that is gone or closed says nothing: its task stays as it is."""
    if pb.account_info is None or is_closed(pb.account_info):
        return {}
    number, imsi = msisdn(pb), pb.sim_info.imsi if pb.sim_info else None
    return {name: text for name, text in ((NUMBER, number), (IMSI, imsi)) if text}


class Targets:
    """Reads from PortaBilling, now; safe to share between threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = Lazy(lambda: Reader(self._client()))

    def _client(self) -> PortaBilling:
        assert self._context.portabilling is not None
        return self._context.portabilling()

    def now(self, warrant: Warrant) -> Identities:
        """Raises Transient: then nothing is known, and nothing may be changed."""
        account = warrant.account
        if warrant.number is not None:
            account = Lists(self._client()).account_of_number(warrant.number)
        if account is None:
            return {}
        return identities(self._reader().read_owner(Owner("account", str(account)), _BLOCKS))
