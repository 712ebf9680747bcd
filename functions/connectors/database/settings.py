"""What a deployment sets of the database connector: which database and table, and its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from nsps.domain.fields import Fields
from nsps.transport.sql.engine import check_url
from nsps.transport.sql.table import check_columns, check_table_name
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

REMOVED = "removed"
"""The status of a row that is kept after its subscriber is gone (``on_release: mark``)."""

DEFAULT_COLUMNS = {
    "i_account": "account_info.i_account",
    "i_customer": "account_info.i_customer",
    "account_id": "account_info.id",
    "name": "name",
    "email": "account_info.email",
    "imsi": "sim_info.imsi",
    "msisdn": "msisdn",
    "product": "account_info.product_name",
    "status": "status",
}


class Settings(BaseModel):
    """Which database and table, and what its columns hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        default="sqlite:///subscribers.db",
        description="The database, without a password: postgresql://USER@HOST:PORT/DATABASE, "
        "mariadb://... or mysql://... likewise, or sqlite:////FOLDER/FILE.db. For several hosts of "
        "PostgreSQL see Switchover in the connector's README.",
    )
    table: str = Field(default="subscribers", description="The table, TABLE or SCHEMA.TABLE.")
    columns: dict[str, str] = Field(
        default=DEFAULT_COLUMNS,
        description="Column to source of its value, such as account_info.email, policy.cs_profile, "
        "msisdn or status (docs/connectors.md lists all).",
    )
    key: str = Field(
        default="i_account",
        description="The column that tells the rows apart; it has a unique index. For a row per "
        "SIM, imsi.",
    )
    updated_at: str = Field(
        default="updated_at",
        description="The column that gets the time of each write, by the database's clock; empty "
        "for none.",
    )
    on_release: Literal["delete", "mark"] = Field(
        default="delete",
        description="What becomes of the row of a subscriber who is gone: deleted, or kept with "
        "the word removed in the column that holds the status.",
    )
    create_table: bool = Field(default=False, description="Create the table where there is none.")

    _url = field_validator("url")(check_url)
    _table = field_validator("table")(check_table_name)

    @field_validator("columns")
    @classmethod
    def _columns(cls, value: dict[str, str]) -> dict[str, str]:
        check_columns(value)
        Fields.parse("columns", value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.key not in self.columns:
            raise ValueError(f"key: {self.key!r} is not among the columns: write one of them")
        if self.updated_at in self.columns:
            raise ValueError("updated_at: the database fills this column: leave it out of columns")
        check_columns(filter(None, [self.updated_at]))
        if self.on_release == "mark" and self.status_column is None:
            raise ValueError("on_release: to mark rows, let a column hold status")
        return self

    @property
    def status_column(self) -> str | None:
        return next((name for name, text in self.columns.items() if text == "status"), None)

    @property
    def removed(self) -> Mapping[str, str]:
        """What a marked row holds; empty where rows are deleted."""
        return {str(self.status_column): REMOVED} if self.on_release == "mark" else {}
