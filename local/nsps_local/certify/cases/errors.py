"""What errors look like, and what they must not hold."""

from __future__ import annotations

from nsps_local.certify import expectations as expect
from nsps_local.certify.case import Case, Level, Request, Target
from nsps_local.certify.samples import Samples

_KINDS = {
    401: "AUTHENTICATION_ERROR",
    404: "VALIDATION_ERROR",
    405: "VALIDATION_ERROR",
    422: "VALIDATION_ERROR",
    429: "RATE_LIMIT_ERROR",
    503: "CONNECTION_ERROR",
}


def cases(samples: Samples) -> list[Case]:
    who = samples.subscriber()
    unknown = Case(
        name="unknown-path",
        level=Level.CONTRACT,
        title="A path that is not there is answered 404",
        why="So a wrong service URL in the handler is noticed. (contract, responses: 404; vendor's "
        "test list: unknown resource)",
        mend="Serve events at one path only and answer 404 at every other, with a JSON body "
        "(a framework's own page for 404 is HTML or text).",
        send=[samples.request("another path", who, target=Target.UNKNOWN)],
        expect=[expect.status(404), expect.error_bodies()],
    )
    method = Case(
        name="wrong-method",
        level=Level.CONTRACT,
        title="Another method is answered 405",
        why="So that a sender that is set up wrongly is noticed. (contract, responses: 405; "
        "vendor's test list: wrong method)",
        mend="Answer 405 to everything but POST, with a JSON body (Express answers 404 by itself).",
        send=[
            Request(what="GET", method="GET"),
            samples.request("PUT", who, method="PUT"),
            Request(what="DELETE", method="DELETE"),
        ],
        expect=[expect.status(405), expect.error_bodies()],
    )
    return [
        unknown,
        method,
        Case(
            name="nothing-repeated",
            level=Level.ROBUST,
            title="No answer repeats a secret, or who the subscriber is",
            why="NSPS keeps every answer in its event history, for months, for all who may see "
            "it. (NSPS, management UI: response codes, messages and error details are stored)",
            mend="Name the field that is wrong, not its value (pydantic: errors(include_input="
            "False)); do not pass on the text of the system's error.",
            judges=["*"],
            expect=[expect.nothing_repeated()],
        ),
        Case(
            name="error-form",
            level=Level.EXEMPLARY,
            title="Errors look exactly like the contract's",
            why="Then operators and alerts can go by type. (contract, responses: {message, error, "
            "type}, types in upper case)",
            mend="Answer {message, error, type} without a wrapper such as FastAPI's detail: "
            "register exception handlers for HTTPException and for validation errors.",
            judges=["authentication", "malformed-body", "unknown-path", "wrong-method"],
            expect=[expect.error_form(_KINDS)],
        ),
        Case(
            name="allow",
            level=Level.EXEMPLARY,
            title="405 says which method is allowed",
            why="Whoever set it up wrongly sees what to do. (RFC 9110 15.5.6)",
            mend="Add the header Allow: POST.",
            judges=[method.name],
            only=405,
            expect=[expect.header(405, "Allow")],
        ),
        Case(
            name="retry-after",
            level=Level.EXEMPLARY,
            title="429 says when to come back",
            why="Otherwise the sender has to guess. (RFC 6585 4; contract, responses: 429)",
            mend="Add the header Retry-After, in seconds.",
            judges=["*"],
            only=429,
            expect=[expect.header(429, "Retry-After")],
        ),
    ]
