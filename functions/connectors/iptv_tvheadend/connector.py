"""Tvheadend: who may watch what, as an access entry and a password entry per subscriber.

A resource's key is the user name. Its state: ``enabled``, ``streaming``, ``conn_limit`` and
``channel_tag`` of the access entry, and the password. Both entries have ids of Tvheadend's own, and
it takes several of one name, so each write looks first. (Source: Tvheadend 4.3, tried.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.connector.credentials import SubscriberCredentials
from nsps.domain.fields import Source
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import Block
from nsps.domain.subscriber import is_closed, is_served
from nsps.runtime.secrets import SecretValue

from .api import Entry, Tvheadend
from .settings import Settings

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


class IptvTvheadend(StateConnector[Settings]):
    """Subscribers of a Tvheadend."""

    settings_model = Settings
    shows_requests = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._name = Source.parse(settings.username)
        self._passwords = SubscriberCredentials(context, settings.credentials)
        self._tvheadend = Tvheadend(settings.url, context)

    @classmethod
    def reads(cls, settings: Settings) -> Iterable[tuple[str, Block]]:
        for block in Source.parse(settings.username).blocks:
            yield f"username ({settings.username})", block

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterable[tuple[str, str]]:
        return settings.credentials.needs_secrets() if settings.credentials else ()

    def check(self, call: Call) -> None:
        self._tvheadend.entries("access", "nsps-check", call)

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """The user, served or not, until the account is closed or its product has no tariff."""
        account, product = event.pb.account_info, event.pb.product_info
        tariff = self.settings.tariffs.get(product.name or "") if product else None
        if account is None or is_closed(account) or tariff is None:
            return {}
        name = str(self._name.value(event.pb) or "")
        if not _NAME.fullmatch(name):
            raise Terminal(f"{self.settings.username} is no name of letters, digits, '.', '-', '@'")
        tags = set(() if tariff.channel_tags == "all" else tariff.channel_tags)
        for addon in account.assigned_addons if tags else ():
            tags.update(self.settings.packages.get(addon.name or "", ()))
        state = {
            "enabled": is_served(account),
            "streaming": sorted(tariff.streaming),
            "conn_limit": tariff.conn_limit,
            "channel_tag": sorted(tags),
        }
        password = self._password(event, needed=is_served(account))
        return {name: {**state, "password": password} if password else state}

    def _password(self, event: Enriched, *, needed: bool) -> SecretValue | None:
        if self.settings.credentials is None:
            return None
        return self._passwords.of(event, lambda found: found.secret("password"), needed=needed)

    def read(self, key: str, call: Call) -> State | None:
        """None in the fields of an entry that is not there, or of which there are several."""
        access = self._tvheadend.entries("access", key, call)
        passwords = self._password_entries(key, call)
        if not access and not passwords:
            return None
        one = access[0] if len(access) == 1 else {}
        held: dict[str, Any] = {name: one.get(name) for name in ("enabled", "conn_limit")}
        for name in ("streaming", "channel_tag"):
            held[name] = sorted(one[name]) if isinstance(one.get(name), list) else None
        if self.settings.credentials is not None:
            known = len(passwords) == 1 and passwords[0].get("enabled") is True
            held["password"] = SecretValue(str(passwords[0].get("password"))) if known else None
        return held

    def create(self, key: str, state: State, call: Call) -> None:
        rights = {name: value for name, value in state.items() if name != "password"}
        if "password" in state:
            shown = {"enabled": True, "password": state["password"].reveal()}
            self._tvheadend.put("passwd", key, shown, call)
        own = {"prefix": self.settings.networks, "comment": "NSPS"}
        self._tvheadend.put("access", key, {**rights, **own}, call)
        self._verify(key, rights, call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        access = self._tvheadend.entries("access", key, call)
        for entry in (*access, *self._password_entries(key, call)):
            self._tvheadend.delete(entry, call)

    def _verify(self, key: str, rights: State, call: Call) -> None:
        """Tvheadend leaves out a tag that it does not know, and an entry without tags sees every
        channel: then it is switched off. Raises Transient."""
        held = self.read(key, call) or {}
        if differ := sorted(name for name in rights if held.get(name) != rights[name]):
            self._tvheadend.put("access", key, {"enabled": False}, call)
            raise Transient(
                f"{key} is switched off, because Tvheadend keeps something else as "
                f"{', '.join(differ)}: has it these channel tags?"
            )

    def _password_entries(self, key: str, call: Call) -> list[Entry]:
        ours = self.settings.credentials is not None
        return self._tvheadend.entries("passwd", key, call) if ours else []
