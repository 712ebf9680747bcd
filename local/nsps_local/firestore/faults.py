"""Misbehaviour on demand, as it happens in production."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import grpc

from nsps_local.control import BadRequest, known_names, number
from nsps_local.grpc_server import Refused

NAMES = frozenset(
    (
        "abort_percent",
        "lost_percent",
        "unavailable_percent",
        "delay_seconds",
        "collection_group",
        "seed",
    )
)


class Faults:
    """All off at first.

    * abort_percent of commits are refused with ABORTED, nothing written;
    * lost_percent of commits are written but answered with UNAVAILABLE;
    * unavailable_percent of all calls are answered with UNAVAILABLE, nothing done;
    * delay_seconds before each call (those that wait go on when faults are set anew);
    * collection_group: only calls that name this group (None: all); seed: for the same dice again.
    """

    def __init__(self) -> None:
        self._released = asyncio.Event()
        self.set({})

    def set(self, body: dict[str, Any]) -> dict[str, Any]:
        """Route POST /faults: what is not named is switched off."""
        known_names(body, NAMES)
        group = body.get("collection_group")
        if group is not None and not isinstance(group, str):
            raise BadRequest("collection_group must be a text")
        self._abort, self._lost, self._unavailable = (
            number(body, f"{name}_percent", 0, 100) / 100
            for name in ("abort", "lost", "unavailable")
        )
        self._delay = number(body, "delay_seconds", 0, 3600)
        self._group = group
        self._dice = random.Random(body.get("seed"))  # noqa: S311 - faults, not secrets
        self._released.set()
        self._released = asyncio.Event()
        self._on = bool(self._abort or self._lost or self._unavailable or self._delay)
        return {"faults": body}

    def _hits(self, share: float, groups: Iterable[str]) -> bool:
        concerned = self._group is None or self._group in groups
        return concerned and share > 0 and self._dice.random() < share

    async def gate(self, groups: Iterable[str]) -> None:
        """At the beginning of each call that concerns these collection groups."""
        if not self._on:
            return
        groups = set(groups)
        if self._delay and (self._group is None or self._group in groups):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), self._delay)
        if self._hits(self._unavailable, groups):
            raise Refused(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")

    def aborts(self, groups: Iterable[str]) -> bool:
        """Whether this commit is to be refused."""
        return self._on and self._hits(self._abort, set(groups))

    def loses(self, groups: Iterable[str]) -> bool:
        """Whether the answer of this commit is to be lost."""
        return self._on and self._hits(self._lost, set(groups))
