"""PyHSS's API: how its answers are read, and its objects by IMSI.

PyHSS answers 200 with ``null`` for what is not there and for what it refuses: only an object with
the values that were sent counts as done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from nsps.connector.base import Call, Context
from nsps.domain.outcome import Terminal, Transient, Unclear
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps.transport.rest import NoAuthentication, Rest

from .keys import NAMES, without_keys

Kind = Literal["auc", "subscriber", "ims_subscriber"]
KINDS: tuple[Kind, ...] = ("ims_subscriber", "subscriber", "auc")
"""In the order in which they are removed."""
Object = Mapping[str, Any]

ANSWERS = AnswerRules(
    (
        AnswerRule(Meaning.ABSENT, status="200", is_value=None, hint="not there, or refused"),
        AnswerRule(Meaning.EXISTS, status="400", text="UNIQUE constraint"),  # SQLite, PostgreSQL
        AnswerRule(Meaning.EXISTS, status="400", text="Duplicate entry"),  # MySQL
        AnswerRule(Meaning.LATER, status="404", hint="no such route: is the address PyHSS's API?"),
    )
)
# PyHSS fails with an exception that it did not expect: that is how it says "no session".
NO_SESSION = AnswerRule(
    Meaning.ABSENT, status="500", member="message", equals="Internal Server Error"
)
PUSHED = (
    NO_SESSION,
    AnswerRule(Meaning.DONE, status="200", text="Successfully sent Gx RAR"),
    AnswerRule(Meaning.UNCLEAR, status="2xx", hint="was the RAR sent?"),
)


class PyHssApi:
    """The objects of a PyHSS. Safe to share between threads."""

    def __init__(self, url: str, context: Context) -> None:
        locked = context.has_secret("provisioning_key")
        shown = context.secret_header("provisioning_key", "Provisioning-Key", str)
        us = shown if locked else NoAuthentication()
        self._rest = Rest(context.http, url, us, ANSWERS, hide=without_keys)

    def apn(self, ident: int, call: Call) -> Object | None:
        return self._rest.get(f"apn/{ident}", call)

    def find(self, kind: Kind, imsi: str, call: Call) -> Object | None:
        lookup = "ims_subscriber_imsi" if kind == "ims_subscriber" else "imsi"
        return self._rest.get(f"{kind}/{lookup}/{imsi}", call)

    def bring(self, kind: Kind, held: Object | None, body: Object, call: Call) -> int:
        """Make the object, or change the one that is there; its id. Raises Transient if another
        has its MSISDN."""
        if held is None:
            made = self._rest.create(f"{kind}/", call, body, method="PUT")
            if made is None:
                raise _taken(kind)
            _assert_kept(body, made)
            return ident(kind, made)
        if any(held.get(name) != value for name, value in body.items()):
            self._change(f"{kind}/{ident(kind, held)}", kind, body, call)
        return ident(kind, held)

    def _change(self, path: str, kind: Kind, body: Object, call: Call) -> None:
        """Refused for good if it is there and PyHSS does not take the values."""
        said = self._rest.request("PATCH", path, call, body=body)
        if said.rule.meaning is Meaning.EXISTS:
            raise _taken(kind)
        if said.is_done(Meaning.ABSENT):
            _assert_kept(body, said.written())
        elif self._rest.get(path, call) is None:
            raise Unclear(f"PATCH {path}: it was removed meanwhile: read again")
        else:
            raise Terminal(f"PATCH {path}: PyHSS does not take the values, and does not say why")

    def push_rule(self, imsi: str, apn: int, rule: int, call: Call) -> None:
        """Install a charging rule in the session that the subscriber has by the APN, if any.

        That the RAR was sent is all that PyHSS says of it. Raises Transient if the rule is not
        there, for which PyHSS answers as for a session that is not.
        """
        body = {"imsi": imsi, "apn_id": apn, "charging_rule_id": rule}
        said = self._rest.request("PUT", "pcrf/", call, body=body, rules=PUSHED)
        if said.is_done(Meaning.ABSENT) or self._rest.get(f"charging_rule/{rule}", call):
            return
        raise Transient(f"PyHSS has no charging rule {rule}: correct charging_rule_list of the APN")

    def delete(self, kind: Kind, number: int, call: Call) -> None:
        self._rest.delete(f"{kind}/{number}", call)


def ident(kind: Kind, held: Object) -> int:
    """The object's own id, by which it is changed and removed."""
    found = held.get(f"{kind}_id")
    if not isinstance(found, int):
        raise Unclear(f"the answer has no {kind}_id: is the address PyHSS's API?")
    return found


def _taken(kind: Kind) -> Transient:
    return Transient(
        f"another {kind} of PyHSS still has the MSISDN or IMSI: tried again until it is given back"
    )


def _assert_kept(sent: Object, answer: Object) -> None:
    """Raise Terminal if PyHSS did not keep what was sent; keys are not compared."""
    lost = [name for name in sent if name not in NAMES and answer.get(name) != sent[name]]
    if lost:
        raise Terminal(f"PyHSS kept something else as {', '.join(lost)}: does it know the values?")
