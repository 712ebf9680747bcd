"""The pages: which address is which page, who may see it, and how each answer is protected.

What a page shows and does, the JSON API decides: the same roles, the same words, the same audit
trail as for the commands. A form is one call of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from nsps.console.api import Api
from nsps.console.identity import Identity, NotAllowed, Person, Role
from nsps.console.pages import forms
from nsps.console.pages.forms import FormKey
from nsps.console.pages.render import Static, Templates
from nsps.console.paths import name_in
from nsps.runtime import log

if TYPE_CHECKING:
    import flask

_log = log.get(__name__)

MAX_FORM_BYTES = 100_000
PROTECTION = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000",
}
"""On every answer."""


class Refused(Exception):
    """The API refuses: its code and its sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer for a browser."""

    code: int
    body: bytes = b""
    kind: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_flask(self) -> flask.Response:
        import flask

        response = flask.Response(self.body, self.code, content_type=self.kind)
        for name, value in {"Cache-Control": "no-store", **PROTECTION, **self.headers}.items():
            response.headers[name] = value
        return response


@dataclass(frozen=True, slots=True)
class Visit:
    """A person at a page. ``name``: the part of the address that names something."""

    person: Person
    name: str
    query: Mapping[str, str]
    form: Mapping[str, list[str]]
    api: Api
    templates: Templates
    form_key: str

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """GET /api/``path``; what is None is left out. Raises Refused."""
        given = {name: str(value) for name, value in query.items() if value is not None}
        return self._call("GET", path, given)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST /api/``path``. Raises Refused."""
        return self._call("POST", path, {}, json.dumps(body).encode())

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: bytes = b""
    ) -> dict[str, Any]:
        reply = self.api.answer(self.person, method, f"/api/{path}", query, body)
        document = dict(reply.body or {})
        if reply.code != 200:
            raise Refused(reply.code, str(document.get("error", "it failed")))
        return document

    @property
    def operates(self) -> bool:
        """Whether the person may change anything."""
        return self.person.role >= Role.operator

    def page(self, template: str, code: int = 200, **values: Any) -> Shown:
        """A page with what every page has."""
        everywhere = {
            "me": self.person,
            "operates": self.operates,
            "administers": self.person.role >= Role.admin,
            "form_key": self.form_key,
            "form_field": forms.FIELD,
            "query": self.query,
            "done": _DONE.get(self.query.get("done", "")),
        }
        text = self.templates.render(template, {**everywhere, **values})
        return Shown(code, text.encode("utf-8", "replace"))


_DONE = {
    "paused": "It is paused.",
    "resumed": "It is resumed.",
    "sending": "It is sent within a minute; its event's page shows what comes of it.",
    "stopped": "It stops as soon as what it works on now is done.",
    "erased": "It was erased.",
}
"""What is said after a change; the address carries the word, and no text of its own."""


def moved(path: str) -> Shown:
    """Go there: after a change, so that reloading does not do it again."""
    return Shown(303, headers={"Location": path})


View = Callable[[Visit], Shown]


@dataclass(frozen=True, slots=True)
class PageRoute:
    """``role``: below it the page is not shown. ``method`` POST: a form's target."""

    method: str
    path: str
    view: View
    role: Role = Role.viewer


class Site:
    """Answers browsers; safe to share between threads."""

    def __init__(self, api: Api, identity: Identity, deployment: str, key: FormKey) -> None:
        from nsps.console.pages.routes import ROUTES

        self._api, self._identity, self._key = api, identity, key
        self._routes = ROUTES
        self._static = Static()
        self._templates = Templates(self._static, deployment)

    def handle(
        self, method: str, path: str, headers: Any, query: Mapping[str, str], body: bytes
    ) -> Shown:
        """Answer one request. Never raises."""
        began = time.monotonic()
        shown = self._file(path, headers) or self._page(method, path or "/", headers, query, body)
        took = f"total;dur={(time.monotonic() - began) * 1000:.1f}"
        return Shown(shown.code, shown.body, shown.kind, {**shown.headers, "Server-Timing": took})

    def _file(self, path: str, headers: Any) -> Shown | None:
        found = self._static.get(path)
        if found is None:
            return None
        content, kind = found
        tag = f'"{path.split("/")[2]}"'
        kept = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": tag}
        if headers.get("if-none-match", "") == tag:
            return Shown(304, headers=kept, kind=kind)
        return Shown(200, content, kind, kept)

    def _page(
        self, method: str, path: str, headers: Any, query: Mapping[str, str], body: bytes
    ) -> Shown:
        try:
            person = self._identity.who(headers)
        except NotAllowed as error:
            return self._refused(error.status, str(error), signed_in=False)
        try:
            route, name = self._route(method, path)
            if person.role < route.role:
                raise Refused(
                    403, f"{person.email} is {person.role.name}: this needs {route.role.name}"
                )
            form = self._form(method, headers, body, person)
            key = self._key.of(person.email)
            visit = Visit(person, name, query, form, self._api, self._templates, key)
            with log.fields(by=person.email):
                return route.view(visit)
        except Refused as error:
            return self._refused(error.code, str(error), back=_back(headers))
        except Exception as error:
            _log.error("an unexpected error", error=error)
            return self._refused(500, "unexpected error; see the console's log")

    def _route(self, method: str, path: str) -> tuple[PageRoute, str]:
        there = [
            (each, name) for each in self._routes if (name := name_in(path, each.path)) is not None
        ]
        for route, name in there:
            if route.method == method or (route.method, method) == ("GET", "HEAD"):
                return route, name
        if there:
            raise Refused(405, "this address takes something else: go back and press the button")
        raise Refused(404, "there is no such page")

    def _form(
        self, method: str, headers: Any, body: bytes, person: Person
    ) -> Mapping[str, list[str]]:
        """What was written, after a look at whether it came from one of our pages."""
        if method in ("GET", "HEAD"):
            return {}
        if len(body) > MAX_FORM_BYTES:
            raise Refused(413, "that is too much to be read: write less")
        try:
            form = forms.read(body)
        except ValueError:
            raise Refused(400, "the form cannot be read") from None
        key = form.get(forms.FIELD, [""])[-1]
        if forms.from_elsewhere(headers) or not self._key.holds(person.email, key):
            raise Refused(
                403, "this form is too old, or not ours: open the page again, and send it"
            )
        return form

    def _refused(
        self, code: int, message: str, *, back: str = "/", signed_in: bool = True
    ) -> Shown:
        values = {"code": code, "message": message, "back": back, "signed_in": signed_in}
        return Shown(code, self._templates.render("refused.html", values).encode())


def _back(headers: Any) -> str:
    """The page that the person comes from: a path of ours, whatever the header says."""
    parts = urlsplit(str(headers.get("referer", "")))
    path = "/" + parts.path.lstrip("/")
    return quote(path, safe="/%:~.-_") + (f"?{parts.query}" if parts.query else "")
