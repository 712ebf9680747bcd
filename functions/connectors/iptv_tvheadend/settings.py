"""What a deployment sets of the Tvheadend connector: where it is, and which product sees what."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from nsps.connector.credentials import CredentialSettings
from nsps.domain.fields import Source
from nsps.transport.address import HttpSettings
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)

Tag = Annotated[str, StringConstraints(pattern=re.compile(r"^[0-9a-f]{32}$"))]
"""The UUID of a channel tag."""


class Tariff(BaseModel):
    """What a product lets its subscribers do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel_tags: Annotated[list[Tag], Field(min_length=1)] | Literal["all"] = Field(
        description="a list of UUIDs of channel tags, or all"
    )
    streaming: list[Literal["basic", "advanced", "htsp"]] = Field(
        ["basic"], description="of basic (HTTP), advanced and htsp"
    )
    conn_limit: int = Field(0, ge=0, description="streams at a time; 0 for any number")


class Settings(HttpSettings):
    """Where Tvheadend is, and who may watch what."""

    url: str = Field(description="Tvheadend's address, for example https://tv.example.net:9981.")
    tariffs: dict[str, Tariff] = Field(
        min_length=1,
        description="Product's name to {channel_tags: [UUID] or all, streaming: [basic], "
        "conn_limit: 2}. An account of any other product has no user.",
    )
    packages: dict[str, list[Tag]] = Field(
        default={}, description="Add-on's name to the UUIDs of the channel tags that it adds."
    )
    username: str = Field(
        default="msisdn", description="The source of the user name, such as account_info.id."
    )
    networks: str = Field(
        default="0.0.0.0/0,::/0",
        description="The networks from which a subscriber may watch, with commas between.",
    )
    credentials: CredentialSettings | None = Field(
        default=None,
        description="Where each subscriber's password is looked up, {source: portabilling} or "
        "{source: secret_manager, name: tv-{i_account}} or {source: http, url}; passwords are "
        "left alone without it.",
    )

    @field_validator("username")
    @classmethod
    def _source(cls, value: str) -> str:
        Source.parse(value)
        return value
