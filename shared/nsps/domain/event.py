"""What an ESPF event is: its parts, its identity, and whom it speaks of. Pure: no I/O, no clock."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

SnapshotTime = NewType("SnapshotTime", str)
"""The time at which the read of a snapshot began, on Firestore's clock; sorts as text.

``2026-11-21T02:10:03.123456Z/<event_id of the event that led the read>``: equal only for events
that were served by one and the same read.
"""

BEFORE_ALL = SnapshotTime("")
"""Older than every snapshot: what a missing ledger document says."""

_NAMESPACE = uuid.UUID("6f1c6c1e-0c8e-5b7e-9d59-0d6d7c1a5f01")

# Variables that name the entity an event is about, most specific owner first: what is true of an
# account is read through the account, whatever else the event mentions.
_OWNER_KEYS = (
    ("account", "i_account"),
    ("customer", "i_customer"),
    ("sim", "i_sim_card"),
    ("did", "number"),
    ("invoice", "i_invoice"),
)

# Variables that tell one event from another, and say nothing of what has happened.
_NUMBERING = frozenset({"i_event", "event_time"})

# Ids that may be texts: our own reconcile's i_event is one.
_MAY_BE_TEXT = ("i_event", "i_env")
LONGEST_ID = 100
"""Characters of the longest owner's id: it travels in message attributes and stands in tables."""
RECONCILE = "NSPS/Reconcile"
"""Our own event: bring an owner's resources to what PortaBilling says, whatever the ledger says."""
MAX_DEPTH = 50
"""Levels of objects and lists in a webhook; every later step can store and write so many."""
MESSAGE_KEY = "message/"
"""How the key of a message's resource begins; its owner follows. It is in no external system."""


class UnreadableOwner(ValueError):
    """An event says whom it is about, in a variable that is no id. The message says what to do."""


class InvalidWebhook(ValueError):
    """A webhook body that can never work. The message is safe to show: it quotes no values."""


@dataclass(frozen=True, slots=True)
class EspfEvent:
    """An event as PortaBilling's ESPF sends it; ``variables`` is an open map, kept unchanged."""

    event_type: str
    variables: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """The two members that ESPF sent, as the NSPS contract passes them on in ``data``."""
        return {"event_type": self.event_type, "variables": dict(self.variables)}

    def json(self) -> bytes:
        """A webhook's body that says the same."""
        return json.dumps(self.body()).encode()

    def entity(self, key: str) -> str | None:
        """The id in variable ``key`` as text; None where it is missing, empty or no id.

        PortaBilling's own ids (``i_account``) are whole numbers: whatever the spelling, the text is
        the same. In others (``number``) a leading zero has a meaning.
        """
        value = self.variables.get(key)
        if key.startswith(("i_", "prev_i_")):
            number = _whole_number(value)
            if number is not None:
                return str(number)
            if key not in _MAY_BE_TEXT:
                return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        return storable(str(value)).strip() or None

    def names(self, key: str) -> bool:
        """Whether variable ``key`` says anything, be it no id."""
        value = self.variables.get(key)
        return value is not None and not (isinstance(value, str) and not value.strip())

    @property
    def meaning(self) -> Mapping[str, Any]:
        """What the event says: all of it but its number and its time.

        Of two events that say the same of one owner the newer one says all.
        """
        said = {name: self.variables[name] for name in self.variables if name not in _NUMBERING}
        return {"event_type": self.event_type, "variables": said}

    @property
    def i_account(self) -> int | None:
        return _number(self.entity("i_account"))

    @property
    def i_env(self) -> str | None:
        return self.entity("i_env")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose snapshot an event calls for: what "newest wins" is decided by."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        kind, colon, ident = text.partition(":")
        if not (kind and colon and ident):
            raise ValueError(f"owner {text!r}: write KIND:ID, for example account:1000889")
        return cls(kind, ident)

    @property
    def i_account(self) -> int | None:
        return _number(self.id) if self.kind == "account" else None


def parse_webhook(body: bytes) -> EspfEvent:
    """Read a webhook body, whatever its content type says.

    Raises InvalidWebhook if it is not a JSON object with a text ``event_type`` and, where
    given, an object ``variables``. (Source: PortaOne docs, provisioning via webhooks.)
    """
    document = _read_json(body)
    if not isinstance(document, dict):
        raise InvalidWebhook('the body is not a JSON object: send {"event_type", "variables"}')
    event_type = document.get("event_type")
    if not isinstance(event_type, str) or not event_type.strip():
        raise InvalidWebhook("event_type is missing or not a text: send for example SIM/Updated")
    variables = document.get("variables", {})
    if variables is None:
        variables = {}
    if not isinstance(variables, dict):
        raise InvalidWebhook("variables is not a JSON object: send the event's ids in it")
    return EspfEvent(storable(event_type.strip()), variables)


def _read_json(body: bytes) -> Any:
    """The document, if every later step can store it and write it as JSON again."""
    try:
        document = json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except InvalidWebhook:
        raise
    except RecursionError:
        raise InvalidWebhook(_TOO_DEEP) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidWebhook("the body is not JSON: send one JSON object in UTF-8") from error
    except ValueError:  # Python's limit for the digits of an integer
        raise InvalidWebhook("a number has thousands of digits: send it as a text") from None
    if _deeper(document, MAX_DEPTH):
        raise InvalidWebhook(_TOO_DEEP)
    return document


_TOO_DEEP = f"the body is nested deeper than {MAX_DEPTH} levels"


def _deeper(document: Any, levels: int) -> bool:
    """Whether objects and lists stand in one another on more than so many levels."""
    level = [document]
    for _ in range(levels + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return True


def _no_constant(name: str) -> None:
    """NaN and Infinity are Python's; no other JSON reader would take them."""
    raise InvalidWebhook(f"the body is not JSON: {name.lstrip('-')} is no number there")


def _finite(text: str) -> float:
    """A number with a fraction or an exponent. One that overflows could never be written again."""
    number = float(text)
    if not math.isfinite(number):
        raise InvalidWebhook("a number is beyond 1.8e308: send it as a text")
    return number


def storable(text: str) -> str:
    """The text with a question mark for each half of a character, which no store takes: JSON can
    write it, UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def event_id(deployment: str, event: EspfEvent) -> str:
    """The one identity of an event: equal for every re-send, redelivery and replay.

    Derived from deployment, i_env, i_event, event_type and owner: under the same number, an event
    about somebody else is another one. What has no id there (no i_event, or one that is no id) is
    told apart by its content. Spread evenly, so that it can be a document id (i_event is
    sequential).
    """
    i_event = event.entity("i_event")
    if i_event is None or (event.i_env is None and event.names("i_env")):
        i_event = _content(event)
    try:
        owner = str(owner_of(event, _NO_OWNER))
    except UnreadableOwner:
        owner = _content(event)
    name = json.dumps([deployment, event.i_env, i_event, event.event_type, owner])
    return str(uuid.uuid5(_NAMESPACE, name))


def delivery_id(event_id: str, run: int | None = None) -> str:
    """The id of an event's delivery to a handler: each replay is a run of its own, from 1."""
    return f"{event_id}.{run}" if run else event_id


def parse_delivery_id(text: str) -> tuple[str, int]:
    """The event's id and the run; 0 for the first delivery."""
    ident, _, run = text.partition(".")
    return ident, int(run or 0)


_NO_OWNER = "none"


def _content(event: EspfEvent) -> str:
    canonical = json.dumps(event.variables, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def owner_of(event: EspfEvent, ident: str) -> Owner:
    """Whom the event speaks of; an event that names no owner owns itself (``event:<event_id>``).

    Raises UnreadableOwner where the most specific owner is named by no id: it is never taken for
    another one, nor for none.
    """
    for kind, key in _OWNER_KEYS:
        entity = event.entity(key)
        if entity is not None and len(entity) <= LONGEST_ID:
            return Owner(kind, entity)
        if event.names(key):
            value = json.dumps(event.variables[key])
            shown = value if len(value) <= 60 else f"{value[:60]}..."
            raise UnreadableOwner(
                f"{key} should say whom the event is about, and is no id: {shown}. PortaBilling "
                "can be neither asked nor told FAILED: correct what sends it, and reconcile the "
                "account that was meant"
            )
    return Owner("event", ident)


def naming(owner: Owner) -> dict[str, int | str]:
    """The variables by which an event speaks of this owner; {} where none does."""
    key = dict(_OWNER_KEYS).get(owner.kind)
    number = _number(owner.id)
    return {} if key is None else {key: owner.id if number is None else number}


def _whole_number(value: object) -> int | None:
    """PortaBilling's number of something, in whatever spelling: 7, 7.0, "7", " 007 ", "7.0"."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOATS:
        value = int(value)
    if isinstance(value, str) and (match := _WHOLE.fullmatch(value.strip())):
        value = int(match[1])
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _LARGEST_ID else None


_WHOLE = re.compile(r"\+?0*([0-9]{1,19})(?:\.0*)?")
_EXACT_FLOATS = 2**53
_LARGEST_ID = 2**63  # what a database has for it, Firestore too


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
