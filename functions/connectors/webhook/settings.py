"""What a deployment can say of the connector that it calls."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urljoin

from nsps.connector.base import Ordering
from nsps.transport.address import HttpSettings, check_web_address
from pydantic import Field, field_validator, model_validator

_PASSING = frozenset({401, 403, 408, 425, 429})


class Settings(HttpSettings):
    url: str = Field(description="The connector's address; events are POSTed to it.")
    health_url: str | None = Field(
        default=None, description="Its health page; /health beside url unless given."
    )
    ordering: Ordering = Field(
        default=Ordering.NEWEST,
        description="newest: one event at a time per account, never older data after newer, and "
        "an event is left out only for a newer one that says the same. every: each event is "
        "passed on, in no order. state: an event is left out for any newer one of the account, and "
        "equal pb_data are not sent again; only for a connector that looks at pb_data alone, "
        "whatever the type of the event.",
    )
    permanent_codes: list[Annotated[int, Field(ge=400, le=499)]] = Field(
        default=[],
        description='The 4xx codes by which the connector says "never"; every other failure is '
        "tried again.",
    )

    @field_validator("permanent_codes")
    @classmethod
    def _final(cls, codes: list[int]) -> list[int]:
        passing = sorted(_PASSING & set(codes))
        if passing:
            raise ValueError(f"{passing[0]} can pass by itself: it is never permanent")
        return codes

    @model_validator(mode="after")
    def _other_address(self) -> Settings:
        check_web_address("health_url", self.health, self.allow_http)
        return self

    @property
    def health(self) -> str:
        """``/health`` beside the service's own path, as the contract's samples have it."""
        return self.health_url or urljoin(self.url, "health")
