"""What used up its quick attempts: until when it waits, why, and sending it now."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from nsps.console.pages import forms
from nsps.console.pages.site import Shown, Visit, moved

PAGE = 100


def parked(visit: Visit) -> Shown:
    """The next to be tried first."""
    handler, after = visit.query.get("handler") or None, visit.query.get("after")
    found = visit.get("parked", limit=PAGE, handler=handler, after=after)
    following = {"handler": handler or "", "after": found["next"]}
    return visit.page(
        "parked.html",
        rows=found["parked"],
        handler=handler,
        handlers=visit.get("handlers")["handlers"],
        following=urlencode(following) if found["next"] else None,
        first=not after,
    )


def send(visit: Visit) -> Shown:
    """Send one of them within a minute."""
    given = forms.document(visit.form)
    handler = given.pop("handler", "")
    visit.post(f"parked/{quote(visit.name, safe='')}/send", given)
    return moved(f"/parked?{urlencode({'handler': handler, 'done': 'sending'})}")
