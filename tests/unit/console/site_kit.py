"""The console's pages over an embedded Firestore, with handlers and people of the test's own."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlencode

from nsps.cloud.store import Store
from nsps.console.api import Api, ConsoleContext
from nsps.console.find import Finding
from nsps.console.health import Health
from nsps.console.identity import NotAllowed, Person, Role
from nsps.console.jobs import Jobs
from nsps.console.masking import Masking
from nsps.console.now import Now
from nsps.console.pages.forms import FormKey
from nsps.console.pages.site import Shown, Site
from nsps.domain.outcome import Transient
from nsps.portabilling.lists import Listed
from nsps.runtime.redact import Redactor
from nsps.runtime.settings import HandlerSummary

NUMBER = "447700900123"
REDACTOR = Redactor(b"a digest key of the tests")
ALL = {
    "hss": HandlerSummary(name="hss", connector="x", events=("SIM/*",), group="HSS"),
    "mail": HandlerSummary(name="mail", connector="y", events=("SIM/*",), kind="message"),
}


class _Handlers:
    """Handlers whose functions answer what the test says."""

    by_name = ALL

    def __init__(self) -> None:
        self.groups = {name: each.group for name, each in ALL.items()}
        self.answers: dict[str, Any] = {}

    def get(self, name: str) -> HandlerSummary:
        from nsps.console.handlers import UnknownHandler

        if name not in ALL:
            raise UnknownHandler(f"there is no handler {name!r}")
        return ALL[name]

    def probe(self, name: str) -> str | None:
        return None

    def ask(self, name: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.answers[name]
        return found


class _Identity:
    """Believes the header: the real one has tests of its own."""

    def who(self, headers: Mapping[str, str]) -> Person:
        role = headers.get("x-role")
        if role is None:
            raise NotAllowed(401, "the request carries no bearer token: show a Google ID token")
        return Person(f"{role}@acme.example", Role[role])


class Pages:
    """A browser of sorts. ``clock``: by which forms run out."""

    def __init__(self, store: Store, sees: Role = Role.operator) -> None:
        self.store, self.now = store, 1_800_000_000.0
        self.published: list[Any] = []
        self.handlers = _Handlers()
        handlers: Any = self.handlers
        publisher: Any = SimpleNamespace(publish=lambda *what: self.published.append(what))
        none: Any = None
        self.api = Api(
            ConsoleContext(
                store=store,
                handlers=handlers,
                identity=cast(Any, _Identity()),
                jobs=Jobs(store, lambda: publisher, "jobs", none),
                finding=Finding(store, handlers, _lists),
                health=Health(handlers, lambda: cast(Any, SimpleNamespace(groups=set))),
                turn=lambda name: None,
                now=Now(handlers, none, lambda: REDACTOR),
                masking=Masking(lambda: REDACTOR),
                queues=dict,
                sees_subscribers=sees,
            )
        )
        key = FormKey(lambda: b"a key", lambda: self.now)
        self.site = Site(self.api, cast(Any, _Identity()), "acme", key)

    def get(
        self, path: str, role: str | None = "operator", headers: Mapping[str, str] | None = None
    ) -> Shown:
        path, _, query = path.partition("?")
        return self.site.handle("GET", path, _headers(role, headers), _query(query), b"")

    def text(self, path: str, role: str = "operator") -> str:
        """A page that must be there."""
        shown = self.get(path, role)
        assert shown.code == 200, shown.body.decode()
        return shown.body.decode()

    def send(
        self,
        path: str,
        fields: Mapping[str, str],
        role: str = "operator",
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Shown:
        """A form of one of our pages, unless its ``key`` is another."""
        given = {"form_key": self.key(role) if key is None else key, **fields}
        body = urlencode(given).encode()
        return self.site.handle("POST", path, _headers(role, headers), {}, body)

    def key(self, role: str) -> str:
        """What a page of this person's carries in its forms."""
        page = self.text("/handlers/hss", role)
        found = re.search(r'name="form_key" value="(\w+)"', page)
        return found[1] if found else "none"

    def api_get(self, path: str, role: str, **query: str) -> Any:
        """As a command asks it."""
        headers = {"x-role": role}
        return self.api.handle("GET", f"/api/{path}", headers, query, b"")


def said(page: str) -> str:
    """A page's text without its markup, as a person reads it."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def _lists() -> Any:
    """Customer 2501 has two accounts; those of 2503 cannot be listed."""

    def accounts(offset: int, i_customer: int) -> Listed:
        if i_customer == 2503:
            raise Transient(f"its account {NUMBER} is damaged")
        return {2501: Listed((277001, 277002), 2)}.get(i_customer, Listed((), None))

    return SimpleNamespace(account_of_number=lambda number: None, accounts=accounts)


def _headers(role: str | None, more: Mapping[str, str] | None) -> dict[str, str]:
    return {**({"x-role": role} if role else {}), **(more or {})}


def _query(text: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(text))
