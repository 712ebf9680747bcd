"""Which fields of an account and of its SIM card a connector looks at."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from nsps.domain.snapshot import AccountInfo, Block, PbData, SimInfo, readers

T = TypeVar("T")
AnyBlock = TypeVar("AnyBlock", AccountInfo, SimInfo)

Field = tuple[Block, str]

_LOOKED: ContextVar[set[Field] | None] = ContextVar("looked", default=None)


def watching(pb: PbData, body: Callable[[PbData], T]) -> tuple[T, set[Field]]:
    """What ``body`` makes of the snapshot, and the fields that it looked at."""
    account, sim = pb.account_info, pb.sim_info if Block.SIM_INFO in pb.read else None
    watched = pb.with_blocks(account_info=_copy(_Account, account))
    if sim is not None:
        watched = watched.with_blocks(sim_info=_copy(_Sim, sim))
    looked: set[Field] = set()
    before = _LOOKED.set(looked)
    try:
        return body(watched), {each for each in looked if each in _FIELDS}
    finally:
        _LOOKED.reset(before)


def _note(block: Block, name: str) -> None:
    looked = _LOOKED.get()
    if looked is not None:
        looked.add((block, name))


class _Account(AccountInfo):
    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        _note(Block.ACCOUNT_INFO, name)
        return super().__getattribute__(name)


class _Sim(SimInfo):
    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        _note(Block.SIM_INFO, name)
        return super().__getattribute__(name)


def _copy(kind: type[AnyBlock], block: AnyBlock | None) -> AnyBlock | None:
    if block is None:
        return None
    return kind(**{name: getattr(block, name) for name, _ in readers(kind)})


_FIELDS = frozenset(
    (block, name)
    for block, part in ((Block.ACCOUNT_INFO, AccountInfo), (Block.SIM_INFO, SimInfo))
    for name, _ in readers(part)
)
