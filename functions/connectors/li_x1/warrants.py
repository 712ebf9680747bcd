"""The warrants of a handler: a list of its own, kept as one secret, independent of PortaBilling."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal, Self

from nsps.domain.outcome import Transient
from nsps.runtime.mistakes import mistakes
from nsps.runtime.secrets import SecretValue
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)


class Warrant(BaseModel):
    """Whom to intercept, from when to when, and where to deliver.

    ``liid``: the warrant's identifier. The target is an ``account`` (i_account) or a ``number``
    (MSISDN, digits only). ``destinations``: DIDs that the network element knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    liid: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,25}$")]
    account: Annotated[int, Field(gt=0)] | None = None
    number: Annotated[str, Field(pattern=r"^[0-9]{5,15}$")] | None = None
    start: AwareDatetime
    end: AwareDatetime
    delivery: Literal["X2Only", "X3Only", "X2andX3"]
    destinations: Annotated[tuple[uuid.UUID, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_target_and_a_time(self) -> Self:
        if (self.account is None) == (self.number is None):
            raise ValueError("write account or number, one of them")
        if self.end <= self.start:
            raise ValueError("end is not after start")
        return self

    def runs(self, now: datetime) -> bool:
        return self.start <= now < self.end

    def is_about(self, account: str, number: str | None) -> bool:
        """Whether the account, which has this number now, is its target."""
        if self.number is None:
            return str(self.account) == account
        return self.number == number


class Warrants(BaseModel):
    """The secret ``warrants``. ``key``: what the tasks' identifiers (XIDs) are made from."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    key: Annotated[str, Field(min_length=32)]
    warrants: tuple[Warrant, ...]

    @field_validator("warrants")
    @classmethod
    def _each_once(cls, value: tuple[Warrant, ...]) -> tuple[Warrant, ...]:
        if len({each.liid for each in value}) < len(value):
            raise ValueError("a liid stands there twice")
        return value

    @classmethod
    def read(cls, secret: SecretValue) -> Self:
        """Raises Transient, which quotes nothing of the list: it is corrected, and read again."""
        try:
            return cls.model_validate_json(secret.reveal())
        except ValidationError as error:
            wrong = "; ".join(_shown(error))
            raise Transient(f"the secret warrants cannot be used ({wrong}): correct it") from None

    def running(self, now: datetime) -> Iterator[Warrant]:
        return (each for each in self.warrants if each.runs(now))

    def xid(self, warrant: Warrant) -> str:
        """The task's identifier: a UUID that says nothing of the warrant without the key."""
        first = bytearray(self._digest("task", warrant.liid.encode()))
        first[6] = first[6] & 0x0F | 0x40  # version 4
        return str(uuid.UUID(bytes=bytes(first) + self._mark(bytes(first))))

    def owns(self, xid: str) -> bool:
        """Whether a task was made from this list, whatever the list holds now."""
        try:
            value = uuid.UUID(xid).bytes
        except ValueError:
            return False
        return hmac.compare_digest(value[8:], self._mark(value[:8]))

    def _mark(self, first: bytes) -> bytes:
        mark = bytearray(self._digest("mark", first))
        mark[0] = mark[0] & 0x3F | 0x80  # the variant of RFC 4122
        return bytes(mark)

    def _digest(self, what: str, text: bytes) -> bytes:
        return hmac.digest(self.key.encode(), what.encode() + b"\0" + text, "sha256")[:8]


def _shown(error: ValidationError) -> Iterator[str]:
    """What is wrong and where, without a name that somebody wrote by mistake."""
    for each in mistakes(error):
        known = {*Warrants.model_fields, *Warrant.model_fields}
        path = [str(part) for part in each.path if isinstance(part, int) or part in known]
        yield f"{'.'.join(path) or 'all of it'}: {each.what}"
