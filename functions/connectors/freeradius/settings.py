"""What a deployment sets of the FreeRADIUS connector: who logs in, and what they get."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from nsps.connector.credentials import CredentialSettings
from nsps.domain.fields import Fields
from nsps.transport.radius import DYNAMIC_AUTHORIZATION_PORT
from nsps.transport.sql.engine import check_url
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from .attributes import Attributes

Profile = Literal["netaccess", "wimax", "policy"]
PasswordForm = Literal["nt", "ssha", "clear", "none", "accept"]
Given = dict[str, str | list[str]]
"""Attribute -> its value, or several."""

_USERNAME: Mapping[Profile, str] = {
    "netaccess": "account_info.id",
    "wimax": "account_info.id",
    "policy": "msisdn",
}
_PASSWORD: Mapping[Profile, PasswordForm] = {
    "netaccess": "nt",
    "wimax": "none",
    "policy": "accept",
}
_TARGET = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]\s]+)(?::(?P<port>[0-9]{1,5}))?")
ANY_PLAN = "*"


class Quota(BaseModel):
    """What is left of a volume discount plan's counter, and what holds when nothing is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    service: str = Field(description="The counter's `service_name`.")
    group: str | None = Field(
        default=None, description="Its `dg_name`; of all destination groups together unless given."
    )
    attribute: str | None = Field(
        default=None, description="The attribute that gets what is left, in octets."
    )
    gigawords: str | None = Field(
        default=None, description="The one for what does not fit into it: how often 2^32 octets."
    )
    octets_per_unit: int = Field(default=1, ge=1, description="Octets in one unit of the counter.")
    exhausted: Given = Field(
        min_length=1, description="Attributes, instead of the plan's, while nothing is left."
    )


class Settings(BaseModel):
    """Where FreeRADIUS's database is, who logs in, and what they get."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database_url: str = Field(
        description="FreeRADIUS's database, without a password: "
        "postgresql://USER@HOST:PORT/DATABASE."
    )
    profile: Profile = Field(
        default="netaccess",
        description="What FreeRADIUS is used for: netaccess (logins with a password), wimax "
        "(NAIs), policy (as PCRF: whoever asks gets the subscriber's policy).",
    )
    usernames: list[str] | None = Field(
        default=None,
        min_length=1,
        description="The sources of a subscriber's user names; those that have no value are left "
        "out. Unless given [account_info.id], for the profile policy [msisdn].",
    )
    realm: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$",
        description="Appended to user names without a realm, as USER@REALM; needed for wimax.",
    )
    password: PasswordForm | None = Field(
        default=None,
        description="The form of the password in radcheck: nt, ssha, clear, none (who proves "
        "themselves otherwise, as by certificate), accept (any password is taken). Unless given "
        "nt, for wimax none, for policy accept.",
    )
    credentials: CredentialSettings | None = Field(
        default=None,
        description="Where each subscriber's password is looked up, {source: portabilling} or "
        "{source: secret_manager, name: radius-{i_account}} or {source: http, url}; it is made "
        "from the secret password_key without it.",
    )
    reply: dict[str, str] = Field(
        default={},
        description="Attribute to source of its value, such as policy.rate_limit "
        "(docs/connectors.md lists all); one without a value is left out.",
    )
    plan: str = Field(default="product_info.name", description="The source that chooses a plan.")
    plans: dict[str, Given] = Field(
        default={},
        description="Value of plan to attributes and their values: {Gold: {Mikrotik-Rate-Limit: "
        "50M/10M}}. The plan * is for all others; without it they are rejected.",
    )
    quota: Quota | None = Field(
        default=None,
        description="Which counter of full_vd_counter_info limits the subscriber, and how.",
    )
    group: str | None = Field(
        default=None,
        description="The source of the subscriber's group in radusergroup; unless given, NSPS "
        "leaves that table alone.",
    )
    sessions: Literal["coa", "disconnect", "leave"] = Field(
        default="coa",
        description="What becomes of a live session: coa (changed by a CoA; ended by a block), "
        "disconnect (ended by both, to log in anew), leave (it goes on until it ends).",
    )
    coa_port: int = Field(
        default=DYNAMIC_AUTHORIZATION_PORT,
        ge=1,
        le=65535,
        description="The port at which a NAS takes CoA and Disconnect.",
    )
    nas: dict[str, str] = Field(
        default={},
        description="NAS address in radacct to HOST or HOST:PORT, where CoA and Disconnect go "
        "elsewhere.",
    )
    dictionary: list[str] = Field(
        default=[],
        description="Attributes that the connector does not know, in FreeRADIUS's syntax: "
        '["VENDOR Acme 32473", "ATTRIBUTE Acme-Speed 1 string Acme"].',
    )

    _database = field_validator("database_url")(check_url)

    @field_validator("dictionary")
    @classmethod
    def _dictionary(cls, value: list[str]) -> list[str]:
        Attributes(value)
        return value

    @field_validator("nas")
    @classmethod
    def _nas(cls, value: dict[str, str]) -> dict[str, str]:
        for name, target in value.items():
            found = _TARGET.fullmatch(target)
            if found is None or not 0 < int(found["port"] or 1) < 65536:
                raise ValueError(f"{name}: write HOST or HOST:PORT")
        return value

    @field_validator("usernames", "plan", "group", "reply")
    @classmethod
    def _sources(cls, value: Any, info: ValidationInfo) -> Any:
        many = isinstance(value, list | dict)
        texts: dict[str, str] = value if isinstance(value, dict) else {}
        texts = texts or {each: each for each in (value if many else [value]) if each is not None}
        Fields.parse(str(info.field_name), texts)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.profile == "wimax" and self.realm is None:
            raise ValueError("realm: a WiMAX subscriber is USER@REALM: write the realm")
        if self.sessions == "coa" and self.group is not None:
            raise ValueError(
                "sessions: a CoA cannot carry what the database gives a group: write disconnect, "
                "or leave"
            )
        attributes = Attributes(self.dictionary)
        for where, name, values in self._named_attributes():
            try:
                attributes.check_name(name)
                for value in values:
                    attributes.check(name, value)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if self.sessions == "coa" and not attributes.can_be_sent(name):
                raise ValueError(f"sessions: no CoA carries {name}: write disconnect, or leave")
        return self

    def _named_attributes(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        """(setting, attribute, values) for each attribute that the settings name."""
        yield from (("reply", name, ()) for name in self.reply)
        given = {f"plans.{plan}": attributes for plan, attributes in self.plans.items()}
        if self.quota is not None:
            given["quota.exhausted"] = self.quota.exhausted
            named = {"attribute": self.quota.attribute, "gigawords": self.quota.gigawords}
            yield from ((f"quota.{key}", name, ["0"]) for key, name in named.items() if name)
        for where, attributes in given.items():
            for name, value in attributes.items():
                yield where, name, [value] if isinstance(value, str) else value

    @property
    def username_sources(self) -> Sequence[str]:
        return self.usernames or (_USERNAME[self.profile],)

    @property
    def login_by(self) -> PasswordForm:
        return self.password or _PASSWORD[self.profile]

    @property
    def has_passwords(self) -> bool:
        """Whether radcheck says how a subscriber logs in."""
        return self.login_by != "none"

    def needs_secrets(self) -> Iterator[tuple[str, str]]:
        """As a connector says it."""
        if self.sessions != "leave":
            yield "coa_secret", f"sessions {self.sessions}: CoA and Disconnect are signed with it"
        if self.credentials is not None:
            yield from self.credentials.needs_secrets()
        elif self.has_passwords and self.login_by != "accept":
            yield "password_key", "the setting credentials names no other source of passwords"

    def target(self, nas: str) -> tuple[str, int]:
        """Host and port at which the NAS of this address in radacct takes CoA and Disconnect."""
        found = _TARGET.fullmatch(self.nas.get(nas, ""))
        if found is None:
            return nas, self.coa_port
        return found["host"].strip("[]"), int(found["port"] or self.coa_port)
