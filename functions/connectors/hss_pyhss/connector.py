"""PyHSS: LTE subscribers over its REST API, one per IMSI, with the AUC that holds the SIM's keys.

A resource's key is the IMSI. Its state: ``msisdn`` (text or None), ``enabled``, what the settings
give every subscriber (``default_apn``, ``apn_list``, ``ue_ambr_dl``, ``ue_ambr_ul``) and, where
the deployment supplies the SIM's keys, ``ki`` and ``opc`` (SecretValue).

The AUC is written before the subscriber that names it, and removed after it. (Source: PyHSS 2.0.0,
its API.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.connector.credentials import SimKeySettings, SubscriberCredentials
from nsps.domain.outcome import Terminal, Transient, Unclear
from nsps.domain.subscriber import is_open, is_served, msisdn
from pydantic import BaseModel, ConfigDict, Field

from .api import KINDS, TAKEN, PyHssApi, ident
from .keys import NAMES, Keys, held_keys, supplied_keys

_IMSI = re.compile(r"[0-9]{6,15}")
_PROFILE = ("default_apn", "apn_list", "ue_ambr_dl", "ue_ambr_ul")
_FIELDS = ("msisdn", "enabled", *_PROFILE)


class Settings(BaseModel):
    """Where PyHSS is, and what every subscriber gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        pattern=r"^https?://[^\s?#]+$",
        description="Base address of PyHSS's API, for example http://hss.example.net:8080.",
    )
    default_apn: int = Field(ge=1, description="The `apn_id` of every subscriber's default APN.")
    apn_list: str = Field(
        pattern=r"^[0-9]+(,[0-9]+)*$",
        description="The `apn_id` of each APN that a subscriber may use, with commas: `1,2`.",
    )
    ue_ambr_dl: int = Field(ge=0, description="Every subscriber's `ue_ambr_dl`, as PyHSS has it.")
    ue_ambr_ul: int = Field(ge=0, description="Every subscriber's `ue_ambr_ul`, as PyHSS has it.")
    credentials: SimKeySettings | None = Field(
        default=None,
        description="Where each SIM's keys are looked up, {source: secret_manager, name: "
        "sim-{imsi}} or {source: http, url}; the secret auc holds them without it.",
    )


class PyHss(StateConnector[Settings]):
    """Subscribers of a PyHSS."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._api = PyHssApi(settings.url, context)
        self._keys = SubscriberCredentials(context, settings.credentials)

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterable[tuple[str, str]]:
        return settings.credentials.needs_secrets() if settings.credentials else ()

    def check(self, call: Call) -> None:
        if self._api.apn(self.settings.default_apn, call) is None:
            raise Transient("PyHSS has no APN of the id in default_apn: correct the setting")

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One subscriber: the account's SIM. None without an account or without a SIM.

        The MSISDN is given back when the account is no longer open: PyHSS holds a number once.
        """
        account, sim = event.pb.account_info, event.pb.sim_info
        if account is None or sim is None or not (sim.imsi or sim.iccid or sim.i_sim_card):
            return {}
        imsi = sim.imsi or ""
        if not _IMSI.fullmatch(imsi):
            raise Terminal("sim_info.imsi is not an IMSI (6 to 15 digits): correct the SIM card")
        number = msisdn(event.pb) if is_open(account) else None
        profile = {name: getattr(self.settings, name) for name in _PROFILE}
        served = is_served(account)
        return {
            imsi: {
                "msisdn": number,
                "enabled": served,
                **profile,
                **(self._keys.of(event, supplied_keys, needed=served) or {}),
            }
        }

    def read(self, key: str, call: Call) -> State | None:
        """What is there, with PyHSS's own ids; None if neither subscriber nor AUC of ours is."""
        keys = self._keys.supplies(key)
        held = self._api.find("subscriber", key, call)
        auc = self._api.find("auc", key, call) if keys else None
        if held is None and auc is None:
            return None
        state: dict[str, Any] = dict.fromkeys(_FIELDS)
        if held is not None:
            own = ident("subscriber", held)
            state = {**{name: held.get(name) for name in _FIELDS}, "subscriber_id": own}
        if keys and (auc is None or (held and held.get("auc_id") != ident("auc", auc))):
            state.update(dict.fromkeys(NAMES))  # the subscriber is without these keys
        elif auc is not None:
            state.update(held_keys(auc))
        return state if auc is None else {**state, "auc_id": ident("auc", auc)}

    def create(self, key: str, state: State, call: Call) -> None:
        body = {"imsi": key, **_fields(state), "auc_id": self._auc(key, _keys(state), call)}
        if self._api.create("subscriber", body, call) is not None:
            return
        held = self._api.find("subscriber", key, call)
        if held is None:
            raise Transient(TAKEN)
        self._api.change("subscriber", ident("subscriber", held), body, call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        held = was if "subscriber_id" in was else self._api.find("subscriber", key, call)
        if held is None:
            self.create(key, state, call)
            return
        body, keys = _fields(state), _keys(state)
        if keys:
            body["auc_id"] = self._auc(key, keys, call)
        self._api.change("subscriber", ident("subscriber", held), body, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        """Remove the subscriber, then its AUC where the keys are ours."""
        for kind in KINDS:
            if was is not None and f"{kind}_id" in was:
                self._api.delete(kind, ident(kind, was), call)

    def _auc(self, imsi: str, keys: Keys, call: Call) -> int:
        """The id of the SIM's AUC, with these keys, should the deployment supply any."""
        held = self._api.find("auc", imsi, call)
        if held is None and not keys:
            raise Transient("PyHSS has no AUC of the SIM: load its keys, or add them to secret auc")
        values = {name: key.reveal() for name, key in keys.items()}
        if held is None:
            held = self._api.create("auc", {"imsi": imsi, **values, "amf": "8000", "sqn": 0}, call)
            if held is None:
                raise Unclear("PyHSS got an AUC of the SIM meanwhile: read again")
        elif keys and held_keys(held) != keys:
            self._api.change("auc", ident("auc", held), values, call)  # its SQN goes on
        return ident("auc", held)


def _fields(state: State) -> dict[str, Any]:
    return {name: state[name] for name in _FIELDS}


def _keys(state: State) -> Keys:
    return {name: state[name] for name in NAMES if name in state}
