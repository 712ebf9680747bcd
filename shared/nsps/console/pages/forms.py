"""Forms that only our own pages can send, and what was written into them."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

FIELD = "form_key"
SECONDS = 12 * 3600
"""A page's forms work for so long, and at most twice as long."""


class FormKey:
    """Makes and checks the hidden key of a form: it is of one person, and runs out.

    Another site cannot read our pages, and so cannot know it. ``secret``: the deployment's own.
    """

    def __init__(self, secret: Callable[[], bytes], clock: Callable[[], float] = time.time) -> None:
        self._secret, self._clock = secret, clock

    def of(self, email: str) -> str:
        """The key for the forms of a page that this person is shown now."""
        return self._key(email, int(self._clock() // SECONDS))

    def holds(self, email: str, key: str) -> bool:
        """Whether a form with this key comes from one of our pages, shown to this person."""
        now = int(self._clock() // SECONDS)
        keys = [self._key(email, period) for period in (now, now - 1)]
        return any(hmac.compare_digest(each.encode(), key.encode()) for each in keys)

    def _key(self, email: str, period: int) -> str:
        message = f"console form\n{email}\n{period}".encode()
        return hmac.new(self._secret(), message, hashlib.sha256).hexdigest()


def read(body: bytes) -> dict[str, list[str]]:
    """The fields of a form as a browser sends it. Raises ValueError."""
    fields: dict[str, list[str]] = {}
    for name, value in parse_qsl(body.decode("utf-8"), max_num_fields=200):
        fields.setdefault(name, []).append(value.strip())
    return fields


def from_elsewhere(headers: Any) -> bool:
    """Whether the browser says that another site's page sends this."""
    return str(headers.get("sec-fetch-site", "same-origin")) not in ("same-origin", "none")


def document(fields: Mapping[str, list[str]], *, flags: tuple[str, ...] = ()) -> dict[str, Any]:
    """A form as the JSON that the API takes: what is left empty is left out.

    ``flags``: names of check boxes. Names that end in ``[]`` are lists.
    """
    found: dict[str, Any] = {name: fields.get(name, [""])[-1] == "yes" for name in flags}
    for name, values in fields.items():
        given = [value for value in values if value]
        if name == FIELD or name in flags or not given:
            continue
        found[name.removesuffix("[]")] = given if name.endswith("[]") else given[-1]
    return found
