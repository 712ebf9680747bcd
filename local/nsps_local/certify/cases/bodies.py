"""What a body may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from nsps_local.certify import expectations as expect
from nsps_local.certify.case import Case, Level, Request
from nsps_local.certify.samples import Samples, Subscriber, addon

_BLOCKS = (
    "account_info",
    "sim_info",
    "access_policy_info",
    "product_info",
    "full_vd_counter_info",
)
_LARGE = 1_000_000
_DEEP = 100_000


def cases(samples: Samples) -> list[Case]:
    return [
        _malformed(samples),
        _sample_without_variables(samples),
        *_blocks(samples),
        _unknown_fields(samples),
        _published_variants(samples),
        _large(samples),
        _strange(samples),
        _wrong_types(samples),
        _not_text(samples),
        _content_type(samples),
        _echo(samples),
    ]


def _malformed(samples: Samples) -> Case:
    who = samples.subscriber()

    def without(*path: str) -> dict[str, Any]:
        document: dict[str, Any] = samples.document(who)
        inner = document
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]
        return document

    wrong_data = samples.document(who) | {"data": ["SIM/Updated"]}
    wrong_type = samples.document(who)
    wrong_type["data"]["event_type"] = 5
    bodies: dict[str, Any] = {
        "no JSON": b'{"event_id": ',
        "an empty body": b"",
        "a list": b"[]",
        "null": b"null",
        "a text": b'"SIM/Updated"',
        "an empty object": b"{}",
        "no event_id": without("event_id"),
        "event_id is null": samples.document(who) | {"event_id": None},
        "no data": without("data"),
        "data is a list": wrong_data,
        "no event_type": without("data", "event_type"),
        "event_type is a number": wrong_type,
    }
    return Case(
        name="malformed-body",
        level=Level.CONTRACT,
        title="A body that is no event is answered 422",
        why="It says that the event itself is wrong, and which field. (contract, responses: 422 "
        "Validation failed / VALIDATION_ERROR; the vendor's test list: malformed body 422)",
        mend="Validate the body against the schema (event_id and data.event_type are mandatory) "
        "and answer every mistake 422, a body that is no JSON too (frameworks answer that with 400 "
        "unless told otherwise).",
        send=[samples.request(what, who, body) for what, body in bodies.items()],
        expect=[expect.status(422), expect.error_bodies()],
    )


def _sample_without_variables(samples: Samples) -> Case:
    who = samples.subscriber()
    document = samples.document(who)
    del document["data"]["variables"], document["pb_data"]
    return Case(
        name="without-variables",
        level=Level.CONTRACT,
        title="data without variables is answered",
        why="The published contract says two things: the table that variables are {} by default, "
        "the vendor's malformed sample (data without variables, no pb_data) that it is 422. "
        "Both are right; a failure is not. (contract, request body; vendor's test list)",
        mend="Take variables for {} or answer 422.",
        send=[samples.request("no variables, no pb_data", who, document)],
        expect=[expect.processed(422), expect.error_bodies()],
    )


def _blocks(samples: Samples) -> Iterator[Case]:
    who = samples.subscriber()
    absent, null = [], []
    for block in _BLOCKS:
        document = samples.document(who)
        del document["pb_data"][block]
        absent.append(samples.request(f"no {block}", who, document))
        document = samples.document(who)
        document["pb_data"][block] = None
        null.append(samples.request(f"{block} is null", who, document))
    for what, value in (("pb_data is null", None), ("pb_data is empty", dict[str, Any]())):
        null.append(samples.request(what, who, samples.document(who) | {"pb_data": value}))
    minimal = {"event_id": samples.document(who)["event_id"], "data": samples.document(who)["data"]}
    absent.append(samples.request("nothing but event_id and data", who, minimal))
    yield Case(
        name="missing-blocks",
        level=Level.CONTRACT,
        title="Blocks of pb_data may be missing or null",
        why="Which are there depends on the handler's required data, and on what PortaBilling "
        "has. (contract, pb_data fields: all optional and nullable)",
        mend="Treat every block as optional. One that you cannot do without: answer 422 and say "
        "which, so that the handler's required data get mended; never guess that it is gone.",
        send=[*absent, *null],
        expect=[expect.processed(422), expect.error_bodies()],
    )
    document = samples.document(who)
    for block in ("account_info", "sim_info"):
        document["pb_data"][block] = dict.fromkeys(document["pb_data"][block])
    yield Case(
        name="null-members",
        level=Level.CONTRACT,
        title="Members of a block may be null",
        why="An account without e-mail, a card without number. (contract, pb_data fields: all "
        "optional and nullable)",
        mend="Treat every member as optional; what you cannot do without: 422, and say which.",
        send=[samples.request("every member of account_info and sim_info is null", who, document)],
        expect=[expect.processed(422), expect.error_bodies()],
    )


def _unknown_fields(samples: Samples) -> Case:
    who = samples.subscriber()
    document = samples.document(who, variables={"prev_status": "active", "of_tomorrow": [1]})
    document |= {"of_tomorrow": {"a": [1, None]}}
    document["data"]["of_tomorrow"] = True
    document["pb_data"]["of_tomorrow_info"] = {"i_tomorrow": 1}
    for block in ("account_info", "sim_info", "access_policy_info", "product_info"):
        document["pb_data"][block]["of_tomorrow"] = "a member of a later release"
    document["pb_data"]["full_vd_counter_info"][0]["of_tomorrow"] = 1
    return Case(
        name="unknown-fields",
        level=Level.CONTRACT,
        title="Fields that it does not know are ignored",
        why="variables differ per event type and release: an open map; blocks grow as well. "
        "(contract, request shape and pb_data fields)",
        mend="Ignore unknown fields (pydantic: extra='ignore'; Jackson: FAIL_ON_UNKNOWN_PROPERTIES "
        "false; Go: no DisallowUnknownFields; JSON Schema: no additionalProperties: false).",
        send=[samples.request("a field more in every object", who, document)],
        expect=[expect.processed()],
    )


def _published_variants(samples: Samples) -> Case:
    who = samples.subscriber()

    def changed(block: str, **members: Any) -> dict[str, Any]:
        document = samples.document(who)
        document["pb_data"][block] |= members
        return document

    policies = samples.document(who)
    policies["pb_data"]["access_policy_info"] = [policies["pb_data"]["access_policy_info"]]

    def remaining(value: str) -> dict[str, Any]:
        document = samples.document(who)
        document["pb_data"]["full_vd_counter_info"][0]["remaining"] = value
        return document

    dated = addon(3775) | {"addon_effective_from": "2025-05-16 12:59:46"}
    return Case(
        name="published-variants",
        level=Level.ROBUST,
        title="Both forms are read where the published contract has two",
        why="Its tables, samples and OpenAPI differ: bill_status active or open, "
        "access_policy_info a list or an object, dates with T or a space, remaining a number, a "
        "text or N/A. (contract, contradictions)",
        mend="Accept both forms; see the list of contradictions in the reference.",
        send=[
            samples.request(
                "bill_status is active", who, changed("account_info", bill_status="active")
            ),
            samples.request("access_policy_info is a list", who, policies),
            samples.request(
                "a date with a space", who, changed("account_info", assigned_addons=[dated])
            ),
            samples.request("remaining is N/A", who, remaining("N/A")),
            samples.request("remaining is a numeric text", who, remaining("10")),
            samples.request("SIM status is active", who, changed("sim_info", status="active")),
        ],
        expect=[expect.processed()],
    )


def _large(samples: Samples) -> Case:
    who = samples.subscriber()
    document = samples.document(who)
    addons = document["pb_data"]["account_info"]["assigned_addons"]
    addons += [addon(number) for number in range(_LARGE // len(json.dumps(addon(3775))) - 10)]
    return Case(
        name="large",
        level=Level.CONTRACT,
        title="An event of 1 MB is processed",
        why="Enriched events are 1.5 KB as a rule, complex ones up to 1 MB. (contract, technical "
        "specification: sizes)",
        mend="Raise the limit on the body's size in your framework and in the proxy before it to "
        "2 MB (nginx: client_max_body_size; Express, which stops at 100 kB: express.json({limit: "
        "'2mb'})).",
        send=[samples.request("some 7000 add-ons", who, document)],
        expect=[expect.processed()],
    )


def _strange(samples: Samples) -> Case:
    who = samples.subscriber()
    names = {
        "quotes and SQL": "O'Hara\"; DROP TABLE subscribers; --",
        "other scripts": "名前 שם 😀",
        "control characters": "Zoë\r\n\t\x1b[31m\x00",
        "markup": "<script>alert(1)</script> ${7*7} {{7*7}} %s",
        "10 000 characters": "n" * 10_000,
        "an empty text": "",
    }
    send = []
    for what, name in names.items():
        document = samples.document(who)
        document["pb_data"]["account_info"] |= {"firstname": name, "product_name": name}
        send.append(samples.request(f"a name of {what}", who, document))
    for what, number in {"huge": 2**63, "negative": -1, "a fraction": 0.5}.items():
        document = samples.document(who)
        document["pb_data"]["account_info"] |= {"i_product": number, "i_customer": number}
        send.append(samples.request(f"ids are {what}", who, document))
    return Case(
        name="strange-values",
        level=Level.ROBUST,
        title="Strange values are processed or refused, and never a failure",
        why="People's names and imported data hold anything. A 5xx says 'try again': the same "
        "event would fail a hundred times. (contract, responses: 422 for what is wrong with the "
        "event)",
        mend="Escape what goes into SQL, XML, LDAP or a shell by the library's own means; answer "
        "422 for a value that the system cannot hold.",
        send=send,
        expect=[expect.processed(422), expect.error_bodies()],
    )


def _wrong_types(samples: Samples) -> Case:
    who = samples.subscriber()

    def block(name: str, value: Any) -> dict[str, Any]:
        document = samples.document(who)
        document["pb_data"][name] = value
        return document

    def member(name: str, **members: Any) -> dict[str, Any]:
        document = samples.document(who)
        document["pb_data"][name] |= members
        return document

    bodies = {
        "account_info is a list": block("account_info", []),
        "sim_info is a text": block("sim_info", "none"),
        "pb_data is a list": samples.document(who) | {"pb_data": []},
        "service_features is an object": member("account_info", service_features={"a": 1}),
        "an add-on is a text": member("account_info", assigned_addons=["none"]),
        "blocked is a text": member("account_info", blocked="perhaps"),
        "id is a list": member("account_info", id=["a"]),
        "imsi is a number": member("sim_info", imsi=int(who.imsi)),
        "imsi is too short": member("sim_info", imsi="00101"),
        "imsi holds letters": member("sim_info", imsi="00101abcdefghij"),
        "updated_at is no time": samples.document(who) | {"updated_at": "yesterday"},
    }
    return Case(
        name="wrong-types",
        level=Level.ROBUST,
        title="Values of another type are refused, and never a failure",
        why="It is the event that is wrong, and it stays so. The sample connector ignores (202) an "
        "event whose IMSI it cannot use. (contract, responses: 422; 202 Event ignored)",
        mend="Validate what you use; answer 422, or 202 'Event ignored', never 5xx.",
        send=[samples.request(what, who, body) for what, body in bodies.items()],
        expect=[expect.processed(422), expect.error_bodies()],
    )


def _not_text(samples: Samples) -> Case:
    who: Subscriber = samples.subscriber()
    whole = json.dumps(samples.document(who))
    name = '"firstname": "Zebulonia"'
    assert name in whole
    deep = b'{"event_id": "certify", "data": ' + b"[" * _DEEP + b"]" * _DEEP + b"}"
    bodies = {
        "bytes that are not UTF-8": whole.encode().replace(b"Zebulonia", b"\xff\xfe"),
        "half a character": whole.replace(name, r'"firstname": "\ud800"').encode(),
        f"lists {_DEEP} deep": deep,
        "a number of 5000 digits": whole.replace("6392", "9" * 5000).encode(),
    }
    return Case(
        name="bytes-that-break-parsers",
        level=Level.ROBUST,
        title="Bodies that break parsers are refused, and never a failure",
        why="They raise other errors than bad JSON does (recursion, decoding, number size). "
        "(contract, responses: 422; practice list: always answer)",
        mend="Turn every error of reading the body into 422, not only the JSON parser's own.",
        send=[samples.request(what, who, body) for what, body in bodies.items()],
        expect=[expect.no_fault_of_its_own()],
    )


def _content_type(samples: Samples) -> Case:
    who = samples.subscriber()
    return Case(
        name="content-type",
        level=Level.ROBUST,
        title="application/json with a charset is JSON too",
        why="Senders and proxies add it. (contract, endpoints: JSON body)",
        mend="Compare the media type without its parameters.",
        send=[
            samples.request(
                "Content-Type: application/json; charset=utf-8",
                who,
                headers={"Content-Type": "application/json; charset=utf-8"},
            )
        ],
        expect=[expect.processed()],
    )


def _echo(samples: Samples) -> Case:
    """Bad events that hold secrets; whether they come back is judged by ``nothing-repeated``."""
    who = samples.subscriber()
    secrets = {
        "ki": "C0FFEE00112233445566778899AABBCC",
        "opc": "C0FFEE99887766554433221100FFEEDD",
        "password": "Cn4ry-s3rvice-p4ssword",
        "h323_password": "Cn4ry-h323-p4ssword",
    }

    def request(what: str, document: Any) -> Request:
        private = who.private | set(secrets.values())
        return Request(what=what, body=json.dumps(document).encode(), private=frozenset(private))

    known = samples.document(who)
    known["pb_data"]["account_info"] |= secrets
    known["pb_data"]["sim_info"] |= secrets
    refused = samples.document(who)
    refused["pb_data"]["sim_info"] |= secrets | {"imsi": [who.imsi]}
    refused["pb_data"]["account_info"] |= secrets | {"id": {"was": who.msisdn}, "blocked": who.imsi}
    malformed = samples.document(who) | {"data": {"event_type": {"of": who.imsi}, **secrets}}
    return Case(
        name="secrets-in-the-event",
        level=Level.ROBUST,
        title="Events that hold more than they should are answered",
        why="Keys and passwords do turn up in fields that are passed on. (contract, request "
        "shape: an open map)",
        mend="Ignore unknown fields; refuse what is wrong with 422.",
        send=[
            request("keys in unknown fields", known),
            request("a wrong IMSI beside keys", refused),
            request("a malformed event with keys", malformed),
        ],
        expect=[expect.processed(422), expect.error_bodies()],
    )
