"""OsmoHLR: subscribers over its CTRL interface, one per IMSI.

A resource's key is the IMSI. Its state: ``msisdn`` (digits or None), ``cs`` and ``ps`` (whether
voice and data are allowed) and, where the deployment supplies the SIM's keys, ``aud2g`` and
``aud3g`` (SecretValue or None), written as CTRL writes them.

OsmoHLR takes each field by a request of its own, so an attempt may stop half way. A subscriber is
therefore barred before anything else and allowed after everything else, and every step can be
repeated. (Source: OsmoHLR 1.5, its CTRL commands; PortaOne docs, sample HSS connector.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.connector.credentials import SimKeySettings, SubscriberCredentials
from nsps.domain.outcome import Terminal, Transient, Unclear
from nsps.domain.subscriber import is_open, is_served, msisdn
from pydantic import BaseModel, ConfigDict, Field

from .hlr import ABSENT, EXISTS, IMSI, TAKEN, Hlr, checked_imsi, setting, variable
from .keys import held_keys, supplied_keys


class Settings(BaseModel):
    """Where OsmoHLR's CTRL interface is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(min_length=1, description="Host name or address of OsmoHLR's CTRL interface.")
    port: int = Field(
        default=4259,
        ge=1,
        le=65535,
        description="TCP port of the CTRL interface; OsmoHLR 1.5 uses 4259 and no other.",
    )
    credentials: SimKeySettings | None = Field(
        default=None,
        description="Where each SIM's keys are looked up, {source: secret_manager, name: "
        "sim-{imsi}} or {source: http, url}; the secret auc holds them without it.",
    )


class OsmoHlr(StateConnector[Settings]):
    """Subscribers of an OsmoHLR."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._hlr = Hlr(settings.host, settings.port)
        self._keys = SubscriberCredentials(context, settings.credentials)

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterable[tuple[str, str]]:
        return settings.credentials.needs_secrets() if settings.credentials else ()

    def close(self) -> None:
        self._hlr.close()

    def check(self, call: Call) -> None:
        self._hlr.find(variable("000000", "info"), call)

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One subscriber: the account's SIM. None without an account or without a SIM.

        Voice and data are allowed while the account is served. The MSISDN is given back when the
        account is no longer open: OsmoHLR holds a number once, and another subscriber may have it
        by then. An open account keeps its number while it is barred.
        """
        account, sim = event.pb.account_info, event.pb.sim_info
        if account is None or sim is None or not (sim.imsi or sim.iccid or sim.i_sim_card):
            return {}
        imsi = sim.imsi or ""
        if not IMSI.fullmatch(imsi):
            raise Terminal("sim_info.imsi is not an IMSI (6 to 15 digits): correct the SIM card")
        number, served = msisdn(event.pb) if is_open(account) else None, is_served(account)
        return {
            imsi: {
                "msisdn": number,
                "cs": served,
                "ps": served,
                **(self._keys.of(event, supplied_keys, needed=served) or {}),
            }
        }

    def read(self, key: str, call: Call) -> State | None:
        with_keys = self._keys.supplies(key)
        found = self._hlr.find(variable(key, "info-all" if with_keys else "info"), call)
        if found is None:
            return None
        fields = dict(line.split("\t", 1) for line in found.splitlines() if "\t" in line)
        if fields.get("imsi") != key:
            raise Unclear("OsmoHLR answered about another subscriber, or not at all: read again")
        return {
            "msisdn": fields.get("msisdn"),
            "cs": fields.get("nam_cs") == "1",
            "ps": fields.get("nam_ps") == "1",
            **(held_keys(fields) if with_keys else {}),
        }

    def create(self, key: str, state: State, call: Call) -> None:
        self._assert_free(key, state, call)
        self._hlr.set("subscriber.create", checked_imsi(key), call, done=(EXISTS,))
        held = self.read(key, call)
        if held is None:
            raise Unclear("the subscriber was removed while it was being created: create it again")
        self._write(key, state, held, call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        if state["msisdn"] != was.get("msisdn"):
            self._assert_free(key, state, call)
        self._write(key, state, was, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        self._hlr.set("subscriber.delete", checked_imsi(key), call, done=ABSENT)

    def _write(self, key: str, state: State, was: State, call: Call) -> None:
        """Write each field that differs; barring comes first, allowing last."""
        served = bool(state["cs"] or state["ps"])
        names = [name for name in ("aud2g", "aud3g", "msisdn") if name in state]
        for name in (*names, "cs", "ps") if served else ("cs", "ps", *names):
            if name not in was or was[name] != state[name]:
                self._hlr.set(*setting(key, name, state[name]), call)

    def _assert_free(self, key: str, state: State, call: Call) -> None:
        """Raise Transient if another subscriber has the MSISDN: before anything is written."""
        if state["msisdn"] is not None:
            found = self._hlr.find(f"subscriber.by-msisdn-{state['msisdn']}.info", call)
            if found is not None and f"imsi\t{key}" not in found.splitlines():
                raise Transient(TAKEN)
