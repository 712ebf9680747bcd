"""Tvheadend's JSON API: its entries of access rights and of passwords, by user name.

Requests are forms, with JSON in one field. It takes several entries of one name, and what it does
not know it answers with an HTML page. (Source: Tvheadend 4.3, tried.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nsps.connector.base import Call, Context
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps.transport.digest import DigestHttp
from nsps.transport.rest import Form, NoAuthentication, Rest

SECRET = "credentials"  # noqa: S105 (its name in the manifest)
PAGE = 200
"""Entries asked for at a time."""

Kind = Literal["access", "passwd"]
Entry = Mapping[str, Any]

ANSWERS = AnswerRules(
    (AnswerRule(Meaning.LATER, status="404,410", hint="is url Tvheadend's, with its webroot?"),)
)
CREATED = (
    AnswerRule(Meaning.DONE, status="200", member="uuid"),
    AnswerRule(Meaning.UNCLEAR, status="2xx", hint="no entry is named: is url Tvheadend's?"),
)
# 400, too, for an entry that is not there.
SAVED = (AnswerRule(Meaning.LATER, status="400", hint="was it removed meanwhile?"),)
DELETED = (AnswerRule(Meaning.ABSENT, status="404"),)


class Tvheadend:
    """The entries of a Tvheadend. Safe to share between threads."""

    def __init__(self, url: str, context: Context) -> None:
        again = context.refresh or context.secret
        http = DigestHttp(context.http, lambda: context.secret(SECRET), lambda: again(SECRET))
        address = f"{url.rstrip('/')}/api"
        self._api = Rest(
            http, address, NoAuthentication(), ANSWERS, hide=context.hide(SECRET, "look_up")
        )

    def entries(self, kind: Kind, key: str, call: Call) -> list[Entry]:
        """The entries of exactly this name; Tvheadend's filter is a pattern, in any case."""
        where = json.dumps([{"type": "string", "field": "username", "value": key}])
        pages = self._api.pages(
            f"{kind}/entry/grid", call, "entries", _following, start=0, limit=PAGE, filter=where
        )
        found = [each for each in pages if isinstance(each, Mapping)]
        return [each for each in found if each.get("username") == key and each.get("uuid")]

    def put(self, kind: Kind, key: str, fields: Mapping[str, Any], call: Call) -> None:
        """One entry of the name, with these fields."""
        found = self.entries(kind, key, call)
        if not found:
            conf = json.dumps({"enabled": True, "username": key, **fields})
            self._write(f"{kind}/entry/create", Form(conf=conf), call, CREATED)
            return
        node = json.dumps({"uuid": found[0]["uuid"], **fields})
        self._write("idnode/save", Form(node=node), call, SAVED)
        for entry in found[1:]:
            self.delete(entry, call)

    def delete(self, entry: Entry, call: Call) -> None:
        """Remove an entry; it may be gone."""
        body = Form(uuid=entry["uuid"])
        said = self._api.request("POST", "idnode/delete", call, body=body, rules=DELETED)
        said.is_done(Meaning.ABSENT)

    def _write(self, path: str, body: Form, call: Call, rules: Sequence[AnswerRule]) -> None:
        said = self._api.request("POST", path, call, body=body, rules=rules)
        said.is_done()
        said.written()


def _following(page: Any, number: int) -> dict[str, int] | None:
    start = (number + 1) * PAGE
    total = page.get("total")
    return {"start": start} if isinstance(total, int) and start < total else None
