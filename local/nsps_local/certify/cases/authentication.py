"""Who may send events."""

from __future__ import annotations

import base64

from nsps_local.certify import expectations as expect
from nsps_local.certify.case import Case, Level, Request
from nsps_local.certify.samples import Samples

_SOURCE = "contract, responses: 401 Invalid access token; practice list: verify it on every request"
_MEND = (
    "Compare the Authorization header with 'Bearer ' and your token before anything else, in "
    "constant time, and answer 401 with {message, error, type: AUTHENTICATION_ERROR}. "
    "(Python: hmac.compare_digest; Go: subtle.ConstantTimeCompare; Node: crypto.timingSafeEqual, "
    "which throws where the lengths differ, so compare digests of both.)"
)
WRONG = "certify-wrong-token-5d1f"


def none(_token: str) -> str | None:
    return None


def empty(_token: str) -> str | None:
    return "Bearer "


def wrong(_token: str) -> str | None:
    return f"Bearer {WRONG}"


def shortened(token: str) -> str | None:
    return f"Bearer {token[:-1]}"


def lengthened(token: str) -> str | None:
    return f"Bearer {token}x"


def basic(token: str) -> str | None:
    return "Basic " + base64.b64encode(f"nsps:{token}".encode()).decode()


def bare(token: str) -> str | None:
    return token


def not_ascii(_token: str) -> str | None:
    return "Bearer certify-\xe9\xff"


_MISTAKES = {
    "no Authorization header": none,
    "an empty token": empty,
    "a wrong token": wrong,
    "the token without its last character": shortened,
    "the token with one more character": lengthened,
    "the token as a Basic password": basic,
    "the token without Bearer": bare,
}


def cases(samples: Samples) -> list[Case]:
    who = samples.subscriber()
    strangers = [
        samples.request(what, who, authorization=given) for what, given in _MISTAKES.items()
    ]
    unauthorized = Case(
        name="authentication",
        level=Level.CONTRACT,
        title="Events without the right token are refused",
        why=f"Whoever knows the address could change subscribers. ({_SOURCE})",
        mend=_MEND,
        send=strangers,
        expect=[expect.status(401, 403), expect.error_bodies()],
    )
    return [
        unauthorized,
        Case(
            name="authentication-first",
            level=Level.ROBUST,
            title="The token is verified before the body is read",
            why="Otherwise a stranger learns from the 422 what a good body looks like, and makes "
            "the connector parse whatever he likes. (practice list: verify token on every request)",
            mend="Check the token in a filter before the body is parsed. FastAPI: in a dependency "
            "or middleware that takes no body; Express: in a middleware before express.json().",
            send=[
                Request(what="a wrong token, and no JSON", body=b"{", authorization=wrong),
                Request(what="no token, and an empty object", body=b"{}", authorization=none),
            ],
            expect=[expect.status(401, 403)],
        ),
        Case(
            name="authentication-not-ascii",
            level=Level.ROBUST,
            title="A token of odd bytes is refused like any other",
            why="Comparing texts that are not ASCII in constant time fails in Python "
            "(hmac.compare_digest), and that must not become a 500. (contract, responses: 401)",
            mend="Encode both sides to bytes before you compare them.",
            send=[samples.request("a token that is not ASCII", who, authorization=not_ascii)],
            expect=[expect.status(401, 403)],
        ),
        Case(
            name="authentication-401",
            level=Level.EXEMPLARY,
            title="It is exactly 401, with WWW-Authenticate: Bearer",
            why="The contract's table knows 401 alone; 403 is read as 'known, but not allowed'. "
            "(contract, responses: 401 with WWW-Authenticate: Bearer)",
            mend="Answer 401 and add the header WWW-Authenticate: Bearer. "
            "FastAPI's HTTPBearer answers 403 unless auto_error=False.",
            judges=[unauthorized.name],
            expect=[expect.status(401), expect.header(401, "WWW-Authenticate", "Bearer")],
        ),
        Case(
            name="authentication-nothing-done",
            level=Level.CONTRACT,
            title="What is refused is not carried out",
            why=f"A 401 after the change is no protection. ({_SOURCE})",
            mend="Return right after the token was refused.",
            judges=[unauthorized.name],
            needs_system=True,
            expect=[expect.nothing_to_system()],
        ),
    ]
