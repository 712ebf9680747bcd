"""What a deployment sets of the Kamailio connector: where it is, and whom it serves."""

from __future__ import annotations

from typing import Self

from nsps.connector.credentials import CredentialSettings
from nsps.domain.fields import Fields
from nsps.transport.address import check_web_address
from nsps.transport.sql.engine import check_url
from nsps.transport.sql.table import check_columns
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

OURS = ("username", "domain", "ha1", "ha1b")
"""The columns that the connector fills by itself."""


class Settings(BaseModel):
    """Where Kamailio's database and its JSON-RPC are, and whom it serves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database_url: str = Field(
        description="Kamailio's database, without a password, postgresql://USER@HOST:PORT/DATABASE "
        "or another that the connector database knows."
    )
    rpc_url: str = Field(description="Its JSON-RPC, for example http://sip.example.net:5060/RPC.")
    domain: str = Field(
        pattern=r"^[a-z0-9.-]{1,64}$",
        description="The SIP domain of the subscribers; also the realm that Kamailio asks with.",
    )
    use_domain: bool = Field(
        default=False, description="As usrloc's use_domain: contacts are kept by USERNAME@DOMAIN."
    )
    status_column: str = Field(
        default="",
        description="A further column of the table subscriber, which gets active or barred: then a "
        "blocked subscriber keeps the row, and Kamailio can answer 403. Without it the row goes.",
    )
    columns: dict[str, str] = Field(
        default={},
        description="Further columns of the table subscriber: column to source of its value, such "
        "as account_info.email (docs/connectors.md lists all).",
    )

    credentials: CredentialSettings | None = Field(
        default=None,
        description="Where each subscriber's password is looked up, {source: portabilling} or "
        "{source: secret_manager, name: sip-{i_account}} or {source: http, url}; it is made from "
        "the secret password_key without it.",
    )

    _database = field_validator("database_url")(check_url)

    @field_validator("rpc_url")
    @classmethod
    def _address(cls, value: str) -> str:
        check_web_address("rpc_url", value, allow_http=True)
        return value

    @field_validator("columns")
    @classmethod
    def _columns(cls, value: dict[str, str]) -> dict[str, str]:
        check_columns(value)
        Fields.parse("columns", value)
        return value

    @model_validator(mode="after")
    def _not_twice(self) -> Self:
        own = [*self.columns]
        if self.status_column:
            check_columns({self.status_column: "status"})
            own.append(self.status_column)
        taken = {name for name in own if name in (*OURS, "id", "password") or own.count(name) > 1}
        if taken:
            raise ValueError(
                f"columns, status_column: {', '.join(sorted(taken))}: written by NSPS itself: name "
                "other columns"
            )
        return self
