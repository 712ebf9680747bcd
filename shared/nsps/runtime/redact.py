"""What may be seen by whom: secrets by nobody, subscribers by those who hold the digest key.

Redaction goes by field. A secret field (Ki, a password, a token) becomes ``***``. A personal field
(IMSI, MSISDN, a name) becomes, in a log, its kind and a keyed hash (``imsi#3fa9c1d24b07``): the
same number has the same hash wherever it stands, so lines can be joined without showing it. Texts
that others wrote (an external system's error) are searched for both: by shape, by ``name=value``
and by known value.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from nsps.domain.event import storable
from nsps.runtime.secrets import SecretValue

HIDDEN = "***"
MAX_TEXT = 20_000
"""Characters of a text that are searched and kept; the rest is cut off."""

# Field names, in lower case and without everything but letters and digits.
SECRET_NAMES = frozenset(
    word
    for words in (
        "ki opc op opkey topc k key keys ck ik kasme tk4 sqn",
        "adm adm1 pin pin1 pin2 puk puk1 puk2 pwd pass passcode h323pass servicepass",
        "authkey authkeys authinfo auth xauth bearer jwt otp session sessionid signature",
    )
    for word in words.split()
)
SECRET_PARTS = (
    *("password", "passwd", "passphrase", "secret", "token", "authorization", "cookie"),
    *("credential", "apikey", "privatekey", "accesskey", "authkey", "encryptionkey"),
)
# Name endings and the label that stands in the log.
PERSONAL_ENDINGS = {
    ending: label
    for label, endings in {
        "imsi": "imsi",
        "msisdn": "msisdn",
        "iccid": "iccid",
        "imei": "imei imeisv",
        "email": "email mail",
        "phone": "phone phone1 phone2 phonenumber mobile fax faxnum",
        "name": "firstname lastname midinit fullname givenname familyname surname displayname"
        " companyname customername",
        "address": "address street baddr1 baddr2 baddr3 baddr4 baddr5",
        "zip": "zipcode postcode postalcode",
        "birthdate": "birthdate dateofbirth",
    }.items()
    for ending in endings.split()
}
PERSONAL_NAMES = {
    "id": "id",
    "number": "number",
    "cli": "number",
    "did": "number",
    "login": "login",
    "zip": "zip",
}
# A plain "name" is a product's as often as a person's: it is personal inside these alone.
_PERSON = frozenset(
    ["customerinfo", "customer", "contact", "contactinfo", "subscriber", "party", "individual"]
)
# A pair of members that together name a field: {"name": "ki", "value": "..."}.
_PAIR_NAMES = ("name", "attribute", "field", "parameter")
_PAIR_VALUES = frozenset({"value", "values", "effectivevalue", "dbvalue", "defaultvalue"})

_EMBEDDED = re.compile(r"[{\[]")
_PAIR = re.compile(
    r"""(?P<name>[A-Za-z][A-Za-z0-9_.-]{0,63})(?:\\*["'])?\s{0,8}(?:=>|[:=])\s{0,8}"""
)
_QUOTE = re.compile(r"""\\*["']""")
_BARE = re.compile(r"""[^\s,;&|)\]}"'<>]+""")
_LINE = re.compile(r"[^\r\n]*")
_ELEMENT = re.compile(r"<(?P<name>[\w:.-]{1,64})(?:\s[^<>]{0,256})?>(?P<value>[^<]*)(?=</)")
_SECRET_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"
    r"|\b(?:Bearer|Basic|Digest|Token)\s+(?=\S*[0-9=+/_~-]|\S+\.\S|(?-i:\S*[a-z][A-Z]))"
    r"[A-Z0-9._~+/=-]{6,}"
    r"|(?:\b0x)?(?<![0-9A-F])[0-9A-F]{32,}"
    r"|(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}[ :-]){15,}[0-9A-Fa-f]{2}(?![0-9A-Fa-f])"
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)",
    re.DOTALL | re.IGNORECASE,
)
# Shapes that are kept come first: ids of our own and times hold digits too.
_PERSONAL_SHAPES = re.compile(
    r"(?P<kept>\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"
    r"|\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?"
    r"|\b(?:account|customer|sim|invoice):\d{1,9}(?!\d)"
    r"|\bi_[a-z_]+\"?\s?[:=]\s?\"?\d{1,9}(?!\d)"
    r"|\b(?:imsi|msisdn|iccid|imei|id|number|phone|email|name|address|zip|login|birthdate)"
    r"#[0-9a-f]{12}\b)"
    r"|(?P<email>[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8})"
    r"|(?P<phone>\+\d[\d ()-]{5,22}\d)"
    r"|(?P<number>(?<!\d)\d{6,22}(?!\d))",
    re.IGNORECASE,
)


# What makes a short text worth a closer look: every pattern below needs one of these, or more than
# so many characters. Most texts (words, ids, dates) have none, and there are dozens in a snapshot.
_SHORT = 32
_LOUD = r"[{\[<:=]|-----|eyj|bearer|basic|digest|token"
_LOUD_SECRET = re.compile(_LOUD, re.IGNORECASE)
_LOUD_PERSONAL = re.compile(rf"{_LOUD}|[@+]|\d{{6}}", re.IGNORECASE)


def shortened(text: str, limit: int) -> str:
    """At most ``limit`` characters, never cut inside a word: half a secret is not known for one."""
    return text if len(text) <= limit else text[:limit].rstrip(_WORD)


_WORD = f"{string.ascii_letters}{string.digits}._~+/=%-"  # what tokens and keys are written in


def knowing_also(document: Any) -> None:
    """Take the texts of a subscriber's credential out of all texts, too, for the rest of the
    ``knowing`` that is at hand: no pattern finds a password."""
    known = _known.get()
    if known is not None:
        known.secret.add(
            form for text in _secret_texts(json.dumps(document)) for form in _forms(text)
        )


class Redactor:
    """Takes secrets out of everything, and subscribers out of logs. Safe to share by threads."""

    def __init__(self, digest_key: bytes) -> None:
        self._digest_key = digest_key
        self._registered: tuple[str, ...] = ()

    def register(self, secret: SecretValue) -> None:
        """From now on take this secret, and the texts inside it, out of every text by value."""
        found = set(self._registered)
        for text in _secret_texts(secret.reveal()):
            found.update(_forms(text))
        self._registered = tuple(sorted(found, key=len, reverse=True))

    @contextmanager
    def knowing(self, document: Any) -> Iterator[None]:
        """Inside, take the secrets and personal values of this document out of texts by value.

        For names, which no pattern can find: what an external system echoes in its errors.
        """
        secret: set[str] = set()
        personal: dict[str, str] = {}
        for label, value in _labelled(document):
            if len(value) >= 3 and label:
                personal.update((form, label) for form in _forms(value))
            elif len(value) >= 3:
                secret.update(_forms(value))
        token = _known.set(_Known(_Values(secret), _Values(personal), _by_folded(personal)))
        try:
            yield
        finally:
            _known.reset(token)

    def digest(self, document: Any) -> str:
        """A keyed hash (64 hexadecimal digits) of a JSON document, the same for equal ones."""
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hmac.new(self._digest_key, canonical.encode(), hashlib.sha256).hexdigest()

    def for_log(self, document: Any) -> Any:
        """A copy for logs: without secrets, with personal fields masked but joinable."""
        return self._walk(document, personal=True)

    def for_store(self, document: Any) -> Any:
        """A copy for Firestore: without secrets, with personal fields as they are."""
        return self._walk(document, personal=False)

    def text_for_log(self, text: str) -> str:
        """Free text for a log: without secrets, with everything that looks personal masked."""
        return self._text(text, personal=True)

    def text_for_store(self, text: str) -> str:
        """Free text for Firestore: without secrets."""
        return self._text(text, personal=False)

    def _walk(self, value: Any, *, personal: bool, within: str = "", depth: int = 0) -> Any:
        if depth > 60:
            return HIDDEN
        if isinstance(value, Mapping):
            return self._walk_mapping(value, personal=personal, within=within, depth=depth)
        if isinstance(value, list | tuple | set | frozenset):
            return [
                self._walk(item, personal=personal, within=within, depth=depth + 1)
                for item in value
            ]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            long = personal and abs(value) >= 10**9
            return self._mask("number", int(value)) if long and value == value // 1 else value
        if isinstance(value, bytes | bytearray):
            value = bytes(value).decode("utf-8", "replace")
        return self._text(value if isinstance(value, str) else str(value), personal=personal)

    def _walk_mapping(
        self, value: Mapping[Any, Any], *, personal: bool, within: str, depth: int
    ) -> dict[str, Any]:
        named = _pair_name(value)
        copy: dict[str, Any] = {}
        for key, item in value.items():
            plain = _plain(str(key))
            name = named if named and plain in _PAIR_VALUES else plain
            label = _label(name, within)
            shown = self._text(str(key), personal=personal)
            if item is None or isinstance(item, bool):
                copy[shown] = item
            elif _is_secret(name):
                copy[shown] = HIDDEN
            elif label and personal:
                copy[shown] = self._mask_all(label, item)
            elif str(key).startswith("i_") and _ROW_ID.fullmatch(str(item)):
                copy[shown] = item
            else:
                copy[shown] = self._walk(item, personal=personal, within=plain, depth=depth + 1)
        return copy

    def _mask_all(self, label: str, value: Any) -> Any:
        if isinstance(value, list | tuple | set | frozenset):
            return [self._mask_all(label, item) for item in value]
        if isinstance(value, Mapping):
            value = json.dumps(value, sort_keys=True, default=str)
        return self._mask(label, value)

    def _mask(self, label: str, value: Any) -> str:
        text = str(value).strip()
        if not text or _MASKED.fullmatch(text):
            return text
        digest = hmac.digest(
            self._digest_key, text.lower().lstrip("+").encode("utf-8", "replace"), "sha256"
        )
        return f"{label}#{digest.hex()[:12]}"

    def _text(self, text: str, *, personal: bool) -> str:
        text = storable(text)
        cut = len(text) > MAX_TEXT
        text = self._known_values(shortened(text, MAX_TEXT), personal=personal)
        loud = _LOUD_PERSONAL if personal else _LOUD_SECRET
        if len(text) < _SHORT and not cut and not loud.search(text):
            return text
        if "{" in text or "[" in text:
            text = self._embedded(text, personal=personal)
        if "</" in text:
            text = self._elements(text, personal=personal)
        if ":" in text or "=" in text:
            text = self._pairs(text, personal=personal)
        text = _SECRET_SHAPES.sub(HIDDEN, text)
        if personal:
            text = _PERSONAL_SHAPES.sub(self._mask_shape, text)
        return text + "... (cut)" if cut else text

    def _known_values(self, text: str, *, personal: bool) -> str:
        for secret in self._registered:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        known = _known.get()
        if known is None:
            return text
        text = known.secret.replaced(text, lambda _: HIDDEN)
        if personal:
            text = known.personal.replaced(
                text, lambda match: self._mask(known.labels[_folded(match[0])], match[0])
            )
        return text

    def _embedded(self, text: str, *, personal: bool) -> str:
        """Redact by field every JSON object and array that stands in the text."""
        pieces: list[str] = []
        at = 0
        for _ in range(64):
            found = _EMBEDDED.search(text, at)
            if found is None:
                break
            try:
                document, end = _DECODER.raw_decode(text, found.start())
            except (ValueError, RecursionError):
                end = found.end()
                pieces.append(text[at:end])
            else:
                pieces.append(text[at : found.start()])
                redacted = self._walk(document, personal=personal)
                unchanged = redacted == document
                kept = text[found.start() : end]
                pieces.append(kept if unchanged else json.dumps(redacted, ensure_ascii=False))
            at = end
        return "".join(pieces) + text[at:]

    def _elements(self, text: str, *, personal: bool) -> str:
        named = ""

        def masked(match: re.Match[str]) -> str:
            nonlocal named
            name = _plain(match["name"].rpartition(":")[2])
            shown = self._instead(name, named, match["value"], personal=personal)
            if name in _PAIR_NAMES:
                named = _plain(match["value"])
            return match[0] if shown is None else text[match.start() : match.start("value")] + shown

        return _ELEMENT.sub(masked, text)

    def _pairs(self, text: str, *, personal: bool) -> str:
        """Redact the value of every ``name=value``, ``name: value`` and ``"name": "value"``."""
        pieces: list[str] = []
        at = 0
        named = ""
        for match in _PAIR.finditer(text):
            name = _plain(match["name"])
            if match.start() < at:
                continue
            if name in _PAIR_NAMES:
                start, end = _plain_value_span(text, match.end())
                named = _plain(text[start:end])
            elif self._instead(name, named, "", personal=personal) is not None:
                start, end = _value_span(text, match.end(), whole_line=name in _WHOLE_LINE)
                if start == match.end() and _is_prose(name, match[0], text[start:end]):
                    continue
                shown = self._instead(name, named, text[start:end], personal=personal)
                pieces += [text[at:start], shown if shown and start < end else ""]
                at = end
        return "".join(pieces) + text[at:]

    def _instead(self, name: str, named: str, value: str, *, personal: bool) -> str | None:
        """What stands instead of a value under this plain name; None if the value may stay.

        ``named``: the field that a pair of members named before ({"name": "ki", "value": ...}).
        """
        field = named if named and name in _PAIR_VALUES else name
        if _is_secret(field):
            return HIDDEN
        label = _label(field, "") if personal else ""
        return self._mask(label, value) if label else None

    def _mask_shape(self, match: re.Match[str]) -> str:
        kind = match.lastgroup or "number"
        if kind == "kept":
            return match[0]
        value = re.sub(r"[ ()-]", "", match[0]) if kind == "phone" else match[0]
        return self._mask(kind, value)


class _Values:
    """Values to look for, as whole words and in any case.

    Almost no text holds one of them. Their pattern is made when a text may.
    """

    __slots__ = ("_folded", "_forms", "_pattern")

    def __init__(self, forms: Iterable[str]) -> None:
        self._forms = frozenset(forms)
        self._folded = frozenset(map(_folded, self._forms))
        self._pattern: re.Pattern[str] | None = None

    def add(self, forms: Iterable[str]) -> None:
        self._forms |= frozenset(forms)
        self._folded |= frozenset(map(_folded, self._forms))
        self._pattern = None

    def replaced(self, text: str, by: Callable[[re.Match[str]], str]) -> str:
        folded = _folded(text)
        if not any(form in folded for form in self._folded):
            return text
        if self._pattern is None:
            self._pattern = _alternatives(self._forms)
        return self._pattern.sub(by, text)


@dataclass(frozen=True, slots=True)
class _Known:
    """The values that ``knowing`` takes out; ``labels`` by personal value, folded."""

    secret: _Values
    personal: _Values
    labels: Mapping[str, str]


_known: ContextVar[_Known | None] = ContextVar("nsps_known", default=None)
_ROW_ID = re.compile(r"-?[0-9]{1,12}")  # PortaBilling's own numbering says nothing of anybody
_DECODER = json.JSONDecoder()
_NUMBERS = frozenset({"imsi", "msisdn", "iccid", "imei"})
"""Labels of values that always have digits."""
_T = TypeVar("_T")
_MASKED = re.compile(r"[a-z]+#[0-9a-f]{12}|\*\*\*")
_WHOLE_LINE = frozenset({"authorization", "proxyauthorization", "cookie", "setcookie"})
_NOT_SECRET_PARTS = frozenset({"user", "username", "login", "type", "keyid", "url", "name"})


def _is_prose(name: str, pair: str, value: str) -> bool:
    """Whether what follows a number's name is a word, as in "refused the MSISDN: tried again"."""
    word = value.isalpha() and value.isascii()
    return word and pair.endswith(": ") and _label(name, "") in _NUMBERS


def _plain(name: str) -> str:
    known = _plain_names.get(name)
    if known is None:
        known = "".join(filter(str.isalnum, name.lower()))
        _remember(_plain_names, name, known)
    return known


def _is_secret(name: str) -> bool:
    known = _secret_names.get(name)
    if known is None:
        known = name in SECRET_NAMES or any(part in name for part in SECRET_PARTS)
        _remember(_secret_names, name, known)
    return known


def _label(name: str, within: str) -> str:
    """The label of a personal field, empty for others. Both names are plain."""
    if name == "name" and within in _PERSON:
        return "name"
    known = _labels.get(name)
    if known is None:
        endings = (label for end, label in PERSONAL_ENDINGS.items() if name.endswith(end))
        known = PERSONAL_NAMES.get(name) or next(endings, "")
        _remember(_labels, name, known)
    return known


# The same few hundred field names come with every document.
_plain_names: dict[str, str] = {}
_secret_names: dict[str, bool] = {}
_labels: dict[str, str] = {}


def _remember(names: dict[str, _T], name: str, value: _T) -> None:
    if len(name) <= 64 and len(names) < 4096:
        names[name] = value


def _pair_name(value: Mapping[Any, Any]) -> str:
    for key in _PAIR_NAMES:
        name = value.get(key)
        if isinstance(name, str):
            return _plain(name)
    return ""


def _labelled(value: Any, label: str = "-", within: str = "", depth: int = 0) -> Iterable[Any]:
    """(label, text) of every secret (label "") and personal leaf of a document."""
    if depth > 60 or value is None or isinstance(value, bool):
        return
    if isinstance(value, Mapping):
        named = _pair_name(value)
        for key, item in value.items():
            plain = _plain(str(key))
            name = named if named and plain in _PAIR_VALUES else plain
            inner = "" if _is_secret(name) or label == "" else _label(name, within) or label
            yield from _labelled(item, inner, plain, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _labelled(item, label, within, depth + 1)
    elif label != "-":
        yield label, str(value)


def _secret_texts(text: str) -> set[str]:
    """The texts to look for: the secret, its members, and what Basic authentication makes of it."""
    found = {text, _basic(text)}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        found.update(
            str(value)
            for key, value in document.items()
            if isinstance(value, str | int) and _plain(key) not in _NOT_SECRET_PARTS
        )
        found.update(_inner_secrets(document))
        user = document.get("user") or document.get("login")
        found.add(_basic(f"{user}:{document.get('password')}"))
    return {value for value in found if len(value) >= 4}


def _inner_secrets(document: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """What is secret by its name below the first level: a table of SIM cards' keys."""
    for name, value in document.items():
        if isinstance(value, Mapping) and depth < 10:
            yield from _inner_secrets(value, depth + 1)
        elif isinstance(value, str) and depth and _is_secret(_plain(name)):
            yield value


def _basic(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def _forms(text: str) -> set[str]:
    """How a value may be written: as it is, in an address, in JSON."""
    if text.isascii() and text.isalnum():
        return {text}
    return {text, quote(text, safe=""), json.dumps(text)[1:-1]}


def _by_folded(labels: Mapping[str, str]) -> dict[str, str]:
    return {_folded(value): label for value, label in labels.items()}


def _folded(text: str) -> str:
    """Equal for texts that a pattern takes for equal when it ignores case."""
    folded = text.casefold()
    if folded.isascii():
        return folded
    return folded.replace("\N{LATIN SMALL LETTER DOTLESS I}", "i").replace(
        "\N{COMBINING DOT ABOVE}", ""
    )


def _alternatives(values: Iterable[str]) -> re.Pattern[str]:
    """Any of the values as whole words, the longest first."""
    ordered = sorted(values, key=len, reverse=True)
    either = "|".join(re.escape(value) for value in ordered)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)


def _value_span(text: str, start: int, *, whole_line: bool) -> tuple[int, int]:
    """Where the value that begins at ``start`` stands: quoted, bracketed or bare."""
    if text[start : start + 1] in ("{", "[", "("):
        return start, _bracket_end(text, start)
    if whole_line and not _QUOTE.match(text, start):
        line = _LINE.match(text, start)
        return start, line.end() if line else start
    return _plain_value_span(text, start)


def _plain_value_span(text: str, start: int) -> tuple[int, int]:
    opening = _QUOTE.match(text, start)
    if opening is None:
        bare = _BARE.match(text, start)
        return start, bare.end() if bare else start
    # The value ends at the same quote, written with as many backslashes.
    end = text.find(opening[0], opening.end())
    while end > 0 and not opening[0].startswith("\\") and text[end - 1] == "\\":
        end = text.find(opening[0], end + 1)
    return opening.end(), end if end >= 0 else len(text)


def _bracket_end(text: str, start: int) -> int:
    depth = 0
    for at in range(start, len(text)):
        if text[at] in "{[(":
            depth += 1
        elif text[at] in "}])":
            depth -= 1
            if depth == 0:
                return at + 1
    return len(text)
