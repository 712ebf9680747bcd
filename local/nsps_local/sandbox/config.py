"""The configuration of a sandbox: the file given to --config, the argument of Sandbox(config=...),
and the same sections again in POST /sandbox/settings. Unknown names are refused, so a misspelt
setting is noticed.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from nsps_local.sandbox.events import VOCABULARIES, Form

GROUPS = {"v1": None, "v2": ("Subscriber", "Customer", "DID", "Invoice"), "sim": ("SIM",)}


def _vocabulary(item: str) -> str:
    name, _, group = item.partition("/")
    if name not in VOCABULARIES:
        raise ValueError(
            f"{item!r} is no event vocabulary; take v1, v2, sim, or one group like v2/Customer"
        )
    groups = GROUPS[name]
    if group and groups and group not in groups:
        raise ValueError(f"the vocabulary {name} has the groups {', '.join(groups)}, not {group!r}")
    return item


def _token(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError(f"{name!r} is not the name of an HTTP header")
    return name


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Admin(Section):
    """The PortaBilling user: for Session/login (password or API token) and for Basic on the ESPF
    API.
    """

    login: str = "nsps"
    password: SecretStr = SecretStr("sandbox-password")
    token: SecretStr = SecretStr("sandbox-api-token")


class Webhook(Section):
    """EventSender: where events go and how. Times in seconds, rates per second.

    enabled=false: the handler is off, changes leave no events at all. paused=true, or no url:
    events wait. max_attempts=0: for ever. signing_string: both readings of PortaBilling's signature
    method exist.
    """

    url: str | None = None
    enabled: bool = True
    paused: bool = False
    auth_header: Annotated[str, AfterValidator(_token)] = "Authorization"
    auth_method: Literal["None", "Basic", "Custom", "Signature"] = "Basic"
    basic_user: str = "espf"
    basic_key: SecretStr = SecretStr("")
    custom_type: str = ""
    custom_credentials: SecretStr = SecretStr("")
    signature_key_id: str = ""
    signature_key: SecretStr = SecretStr("")
    signing_string: Literal["date_header", "date_value"] = "date_header"
    async_mode: bool = True
    request_timeout: float = Field(300, gt=0)
    max_wait_time: float = Field(600, gt=0)
    token_rate: float = Field(10, gt=0)
    token_burstiness: float = Field(100, ge=1)
    retry_delay: float = Field(10, ge=0)
    max_attempts: int = Field(0, ge=0)


class Events(Section):
    """How changes become events; see nsps_local.sandbox.events. i_env=null leaves it out."""

    vocabulary: list[Annotated[str, AfterValidator(_vocabulary)]] = ["sim", "v2/Customer"]
    i_env: int | None = 1
    event_time: bool = True
    ids_as_strings: bool = False
    sim_ids: bool = False

    def form(self) -> Form:
        return Form(**self.model_dump())


class Api(Section):
    """The PortaBilling API. Times in seconds; token_inactivity=0: tokens do not die of inactivity.

    unknown: the answer for an entity that is not there: "fault" (Server.Account.account_not_found
    and the like), "null" ({"account_info": null}) or "empty" ({}); which one a real PortaBilling
    gives is not established. lists_omit: members that entries of the lists of accounts and of cards
    do not have, though a single read gives them. The *_service names are the paths of calls whose
    service is not established either.
    """

    token_lifetime: float = Field(48 * 3600, gt=0)
    token_inactivity: float = Field(0, ge=0)
    unknown: Literal["fault", "null", "empty"] = "fault"
    sim_service: str = "SIMCard"
    access_policy_service: str = "AccessPolicy"
    counter_service: str = "Account"
    lists_omit: list[str] = []


class SandboxConfig(Section):
    admin: Admin = Admin()
    webhook: Webhook = Webhook()
    events: Events = Events()
    api: Api = Api()
    seed: bool = True
