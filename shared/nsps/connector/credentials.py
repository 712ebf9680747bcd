"""The secrets of subscribers (a SIM's Ki and OPc, a SIP password), from the source that a handler
chooses: each is looked up alone, for the event at hand, and kept for a moment only.

    self._credentials = SubscriberCredentials(context, settings.credentials)
    password = self._credentials.of(event, lambda found: found.secret("password"))

Without a setting, SIM keys are those of the handler's secret ``auc``: IMSI -> {"ki", "opc", ...}.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nsps.connector.base import AuthenticationKind, Context, Enriched
from nsps.domain.outcome import DeliveryError, Terminal, Transient
from nsps.domain.snapshot import PbData
from nsps.domain.subscriber import msisdn
from nsps.runtime import log
from nsps.runtime.redact import knowing_also
from nsps.runtime.secrets import SecretMissing, SecretValue
from nsps.transport.address import check_web_address
from nsps.transport.answers import member_of
from nsps.transport.call import Call
from nsps.transport.deadline import Deadline
from nsps.transport.rest import Rest

SIM_KEYS = "auc"
LOOK_UP_SECRET = "look_up"  # noqa: S105 (its name in the manifest)
LOOK_UP_SECONDS = 10.0
KEPT_SECONDS = 60.0
KEPT = 1000
_PLACE = re.compile(r"\{(\w+)\}")
_PLACES = ("imsi", "iccid", "msisdn", "i_account", "account_id")
_KEY = re.compile(r"[0-9A-Fa-f]{32}")
_IN_A_NAME = re.compile(r"[A-Za-z0-9_-]+")

LookUp = Callable[[str], Mapping[str, Any] | None]
T = TypeVar("T")

_log = log.get(__name__)


class CredentialSettings(BaseModel):
    """Where a handler's credentials are, by its setting ``credentials``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["portabilling", "secret_manager", "http"] = Field(
        description="portabilling, secret_manager or http"
    )
    name: str | None = Field(
        None,
        pattern=r"^(existing:)?[A-Za-z0-9_-]{3,}(\{\w+\}[A-Za-z0-9_-]*)+$",
        description="the name of a subscriber's secret in Secret Manager, like sim-{imsi}",
    )
    url: str | None = Field(None, description="https://HOST/PATH, like https://HOST/sims/{imsi}")
    authentication: AuthenticationKind = Field(
        "bearer", description="bearer, x-auth-token, basic or none, with the secret look_up"
    )
    members: dict[str, str] = Field({}, description="a map, {ki: its place in what is found}")
    allow_http: bool = Field(False, description="whether url may be http, without TLS")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for member, source in (("name", "secret_manager"), ("url", "http")):
            if (getattr(self, member) is not None) != (self.source == source):
                raise ValueError(f"{member} goes with source {source}: write both or neither")
        if self.url is not None:
            check_web_address("url", self.url, self.allow_http)
        places = _PLACE.findall(self.name or self.url or "{i_account}")
        wrong = [place for place in places if place not in _PLACES]
        if wrong or not places:
            raise ValueError(
                f"{'{' + wrong[0] + '}' if wrong else 'the same for all subscribers'}: write "
                f"{', '.join('{' + each + '}' for each in _PLACES)}"
            )
        return self

    def needs_secrets(self) -> Iterator[tuple[str, str]]:
        """As a connector says it."""
        if self.source == "http" and self.authentication != "none":
            yield LOOK_UP_SECRET, f"credentials.authentication {self.authentication} needs it"


class SimKeySettings(CredentialSettings):
    """As CredentialSettings, for SIM keys: PortaBilling's service password is none."""

    source: Literal["secret_manager", "http"] = Field(description="secret_manager or http")


@dataclass(frozen=True, slots=True)
class Credential:
    """What was found of one SIM or account. ``where``: for errors."""

    where: str
    document: Mapping[str, Any] = field(repr=False)
    members: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether it says anything of a member."""
        return self.value(name) is not None

    def text(self, name: str) -> str:
        """A member that is no secret, in small letters; empty where there is none."""
        return str(self.value(name) or "").lower()

    def secret(self, name: str) -> SecretValue:
        """A member that is a text. Raises Transient if it is none: an operator can correct it."""
        value = self.value(name)
        if not isinstance(value, str) or not value:
            raise Transient(f'{self.where}: there is no text "{self._place(name)}": correct it')
        return SecretValue(value)

    def key(self, name: str) -> SecretValue:
        """``ki`` or ``opc`` in small letters. Raises Transient if it is none."""
        value = self.value(name)
        if not (isinstance(value, str) and _KEY.fullmatch(value)):
            raise Transient(
                f'{self.where}: "{self._place(name)}" of the SIM is not 32 hexadecimal digits: '
                "correct it"
            )
        return SecretValue(value.lower())

    def value(self, name: str) -> str | int | None:
        """A member as it is; None where there is none."""
        value = member_of(self.document, self._place(name))
        return value if isinstance(value, str | int) else None

    def _place(self, name: str) -> str:
        return self.members.get(name, name)


@dataclass(frozen=True, slots=True)
class _Kept:
    credential: Credential
    read_at: str
    ends: float


class SubscriberCredentials:
    """The credentials of one handler's subscribers; safe to share between threads.

    ``settings``: None for the secret ``auc``. ``seconds``: for one look-up.
    """

    def __init__(
        self,
        context: Context,
        settings: CredentialSettings | None,
        seconds: float = LOOK_UP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context, self._settings = context, settings
        self._seconds, self._clock = seconds, clock
        self._all = _AllSimKeys(context)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def of(
        self, event: Enriched, parse: Callable[[Credential], T], *, needed: bool = True
    ) -> T | None:
        """What is needed of the subscriber's credential; None if the deployment supplies none.

        Never older than the event's snapshot: what was changed before the event is seen. Not
        ``needed`` (to bar a subscriber): None, too, where it cannot be read now.
        Raises Transient, also where there is none yet; Terminal where it cannot be looked up.
        """
        try:
            found = self._found(event)
            if found is None:
                return None
            knowing_also(self._secrets_of(found))
            return parse(found)
        except DeliveryError as error:
            if needed:
                raise
            _log.warning("without the subscriber's credential", reason=str(error))
            return None

    def supplies(self, imsi: str) -> bool:
        """Whether the deployment supplies keys for a SIM: else they are left alone."""
        return self._settings is not None or self._all.of(imsi) is not None

    def _secrets_of(self, found: Credential) -> Mapping[str, Any]:
        """What no text may show. Of PortaBilling's account only what is secret by its name, or is
        taken for the credential: the rest (numbers, product, status) is what histories are about.
        """
        if self._settings is None or self._settings.source != "portabilling":
            return found.document
        taken = {name: found.value(name) for name in found.members}
        return {**taken, "account_info": found.document}

    def _found(self, event: Enriched) -> Credential | None:
        settings, places = self._settings, _places(event.pb)
        if settings is None:
            return self._all.of(places["imsi"])
        look_up: LookUp
        if settings.source == "portabilling":
            name = _filled("{i_account}", places, str)
            where, look_up = f"PortaBilling, account {name}", self._in_portabilling
        elif settings.source == "secret_manager":
            name = _filled(str(settings.name), places, _in_a_name)
            where, look_up = f"secret {name}", self._in_secret_manager
        else:
            name = _filled(str(settings.url), places, lambda text: quote(text, safe=""))
            where, look_up = f"GET {name}", self._over_http
        return self._still_good(name, event.t) or self._looked_up(name, where, look_up)

    def _still_good(self, name: str, t: str) -> Credential | None:
        with self._lock:
            kept = self._kept.get(name)
            good = kept is not None and kept.read_at >= t and self._clock() < kept.ends
            return kept.credential if kept and good else None

    def _looked_up(self, name: str, where: str, look_up: LookUp) -> Credential:
        assert self._settings is not None
        read_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        document = look_up(name)
        if document is None:
            raise Transient(f"{where}: there is no credential of the subscriber: add it there")
        usual = {"password": "h323_password"} if self._settings.source == "portabilling" else {}
        found = Credential(where, document, {**usual, **self._settings.members})
        with self._lock:
            self._kept[name] = _Kept(found, read_at, self._clock() + KEPT_SECONDS)
            self._kept.move_to_end(name)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    # ---- the sources: a document; None where there is no credential. They raise Transient. -------

    def _in_portabilling(self, i_account: str) -> Mapping[str, Any] | None:
        """The account with its service password, as the API shows it: for nothing but this."""
        from nsps.portabilling.errors import NotFound  # for those who choose this source

        assert self._context.portabilling is not None
        try:
            reading = self._context.portabilling().call(
                "account_info", {"i_account": int(i_account)}, within=self._seconds
            )
        except NotFound:
            return None
        account = reading.members.get("account_info")
        return account if isinstance(account, Mapping) else None

    def _in_secret_manager(self, name: str) -> Mapping[str, Any] | None:
        assert self._context.look_up is not None
        try:
            return self._context.look_up(f"sm://{name}").json()
        except SecretMissing:
            return None

    def _over_http(self, url: str) -> Mapping[str, Any] | None:
        assert self._settings is not None
        shown = self._context.authentication(self._settings.authentication, LOOK_UP_SECRET)
        # What the source says of a mistake may hold the credential: it is never shown.
        api = Rest(self._context.http, url, shown, hide=lambda _text: "")
        reference = f"{self._context.handler}/credential"
        return api.get("", Call(Deadline(self._seconds), reference))


class _AllSimKeys:
    """The secret ``auc`` of a handler that has one: all its SIMs in one, up to 64 KiB."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._read: tuple[SecretValue, Mapping[str, Any]] | None = None

    def of(self, imsi: str) -> Credential | None:
        if not self._context.has_secret(SIM_KEYS):
            return None
        secret, read = self._context.secret(SIM_KEYS), self._read
        if read is None or read[0] != secret:
            self._read = read = (secret, secret.json())
        entry = read[1].get(imsi)
        if entry is None:
            return None
        return Credential(f"secret {SIM_KEYS}", entry if isinstance(entry, Mapping) else {})


def _places(pb: PbData) -> dict[str, str]:
    """What a look-up may be made with; empty texts for what the subscriber has not."""
    account, sim = pb.account_info, pb.sim_info
    values = {
        "imsi": sim and sim.imsi,
        "iccid": sim and sim.iccid,
        "msisdn": msisdn(pb),
        "i_account": account and account.i_account,
        "account_id": account and account.id,
    }
    return {name: str(value or "") for name, value in values.items()}


def _filled(template: str, places: Mapping[str, str], written: Callable[[str], str]) -> str:
    def value(place: re.Match[str]) -> str:
        text = places[place[1]]
        if not text:
            raise Terminal(
                f"the subscriber has no {place[1]}, by which the credential is looked up: give it "
                "one in PortaBilling, or write another place into the setting credentials"
            )
        return written(text)

    return _PLACE.sub(value, template)


def _in_a_name(text: str) -> str:
    if not _IN_A_NAME.fullmatch(text):
        raise Terminal(
            f"{text!r} cannot stand in a secret's name: write another place into the setting "
            "credentials"
        )
    return text
