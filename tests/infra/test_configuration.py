"""A configuration is right as a whole, or refused with everything that is wrong with it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from nsps.domain.routing import matches
from nsps.runtime.settings import LONGEST_CALL_SECONDS, HandlerSettings
from nsps_local.manifest import load

from infra.components.handler import timeout_seconds
from infra.encoding import handler_json, json_text
from infra.stack_config import (
    ConfigError,
    Handler,
    Machine,
    StackConfig,
    load_stack,
    localised,
    read_file,
)
from infra.stack_keys import ATTRIBUTES, RESERVED
from tests.infra.conftest import FIXTURES, ROOT, base

CONNECTORS = FIXTURES / "functions" / "connectors"


def check(values: dict[str, Any], *, local: bool = False) -> StackConfig:
    return load_stack(values, "Pulumi.test.yaml", CONNECTORS, local=local)


def problems(values: dict[str, Any], *, local: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        check(values, local=local)
    prefix = "Pulumi.test.yaml: "
    assert all(line.startswith(prefix) for line in refused.value.problems)
    return [line.removeprefix(prefix) for line in refused.value.problems]


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set one key, like nsps:handlers/0/events."""

    def change(values: dict[str, Any]) -> None:
        place: Any = values
        *way, last = [int(p) if p.isdigit() else p for p in path.split("/")]
        for step in way:
            place = place[step]
        if value is None and isinstance(place, dict):
            place.pop(last)
        else:
            place[last] = value

    return change


WRONG: list[tuple[str, Any, str]] = [
    ("gcp:project", "Acme", "gcp:project: not written as it must be: write the id of a Google"),
    ("gcp:region", "europe", "gcp:region: not written as it must be: write a region"),
    ("gcp:region", None, "gcp:region: missing: write a region of Google Cloud, like europe-west3"),
    ("nsps:deployment", "a", "nsps:deployment: not written as it must be: write 3 to 16 small"),
    (
        "nsps:deployment",
        "acme-2",
        "nsps:deployment: not written as it must be: write 3 to 16 small",
    ),
    ("nsps:deployment", 7, "nsps:deployment: not a text: write 3 to 16 small"),
    ("nsps:handler", [], "nsps:handler: unknown key: write nsps:handlers"),
    (
        "nsps:zzzzzzzzzzzz",
        "red",
        "nsps:zzzzzzzzzzzz: unknown key: write one of gcp:project, gcp:region",
    ),
    ("nsps:handlers", None, "nsps:handlers: missing: write a list of handlers, or []"),
    ("nsps:handlers", {"hss": 1}, "nsps:handlers: not a list: write a list of hand"),
    ("nsps:static_egress", "yes", "nsps:static_egress: not true or false: write true or fal"),
    # PortaBilling
    ("nsps:portabilling/url", None, "nsps:portabilling.url: missing: write https://HOST"),
    ("nsps:portabilling/url", "http://pb.example", "nsps:portabilling.url: not the address of"),
    ("nsps:portabilling/url", "https://u:p@pb", "nsps:portabilling.url: not the address of a Po"),
    ("nsps:portabilling/url", "https://pb/rest", "nsps:portabilling.url: not the address of a P"),
    ("nsps:portabilling/url", "sandbox", "nsps:portabilling.url: the sandbox is there on the l"),
    ("nsps:portabilling/urls", "x", "nsps:portabilling.urls: unknown key: write url"),
    ("nsps:portabilling/credentials", "my password!", "nsps:portabilling.credentials: not the na"),
    ("nsps:portabilling/timeout_seconds", 0, "nsps:portabilling.timeout_seconds: must be greate"),
    ("nsps:portabilling/services", {"a": "b"}, "nsps:portabilling.services.a: not written as it"),
    ("nsps:portabilling/absence", {"sim": ["empty"]}, "nsps:portabilling.absence.sim"),
    ("nsps:portabilling/absence", {"sim_card_info": ["a b"]}, "nsps:portabilling.absence.sim_card"),
    (
        "nsps:portabilling/espf_status_content_type",
        "text/html",
        "nsps:portabilling.espf_status_content_type: must be 'application/json' or 'application/",
    ),
    # ESPF
    ("nsps:espf/method", "digest", "nsps:espf.method: must be 'basic', 'custom' or 'signature': w"),
    ("nsps:espf/credentials", [], "nsps:espf.credentials: has too few entries: write a list "),
    ("nsps:espf/credentials", ["a", "b", "c"], "nsps:espf.credentials: has too many entries: wri"),
    ("nsps:espf/credentials", ["a", "a"], "nsps:espf: the two credentials are the same secret: w"),
    ("nsps:espf/credentials", "espf", "nsps:espf.credentials: not a list: write a list"),
    ("nsps:espf/failure_status", 403, "nsps:espf.failure_status: must be 401 or 503: write "),
    ("nsps:espf/header", "X Y", "nsps:espf.header: not written as it must be: write a header's n"),
    ("nsps:espf/date_window_seconds", -1, "nsps:espf.date_window_seconds: must be greater than 0"),
    # handlers
    ("nsps:handlers/1", "hss", "nsps:handlers[1]: not a map: write {name, connector, events}"),
    ("nsps:handlers/0/name", "HSS", "nsps:handlers[0].name: not written as it must be: write 2 t"),
    ("nsps:handlers/0/name", "ingress", "nsps:handlers[0].name: ingress is a name of NSPS or Goo"),
    ("nsps:handlers/0/name", "a", "nsps:handlers[0].name: not written as it must be: write 2 to"),
    ("nsps:handlers/0/name", "hss-", "nsps:handlers[0].name: not written as it must be: write 2 "),
    ("nsps:handlers/0/name", "google", "nsps:handlers[0].name: google is a name of NSPS or Google"),
    ("nsps:handlers/0/name", "portabilling", "nsps:handlers[0].name: portabilling is a name of NS"),
    ("nsps:handlers/0/name", "owner", "nsps:handlers[0].name: owner is a name of NSPS or Google:"),
    (
        "nsps:handlers/1/name",
        "hss",
        "nsps:handlers[1].name: handlers[0] is named hss too: write another name, like hss-2",
    ),
    ("nsps:handlers/0/event", [], "nsps:handlers[0].event: unknown key: write events"),
    ("nsps:handlers/1/events", ["SIM/*", "SIM"], "nsps:handlers[1].events[1]: event pattern 'SIM'"),
    (
        "nsps:handlers/1/events",
        ["S M/*"],
        "nsps:handlers[1].events[0]: event pattern 'S M/*': write",
    ),
    ("nsps:handlers/1/events", [], "nsps:handlers[1].events: has too few entries: write a list "),
    ("nsps:handlers/1/events", None, "nsps:handlers[1].events: missing: write a list of event typ"),
    (
        "nsps:handlers/0/connector",
        "hss_osmocon",
        "nsps:handlers[0].connector: there is no connector hss_osmocon: write hss_osmocom",
    ),
    (
        "nsps:handlers/0/connector",
        "zte",
        "nsps:handlers[0].connector: there is no connector zte: "
        "write one of database, hss_osmocom, notification, oms_tmf641, webhook",
    ),
    ("nsps:handlers/0/requires", ["sim"], "nsps:handlers[0].requires[0]: must be 'account_info',"),
    ("nsps:handlers/0/kind", "message", "nsps:handlers[0].kind: the connector hss_osmocom cannot"),
    ("nsps:handlers/0/kind", "soap", "nsps:handlers[0].kind: must be 'state', 'message' or 'asyn"),
    ("nsps:handlers/0/group", "", "nsps:handlers[0].group: empty: write the name of an ESPF group"),
    (
        "nsps:handlers/0/call_timeout_seconds",
        286,
        "nsps:handlers[0].call_timeout_seconds: a call cannot take so long: Pub/Sub waits 600 s",
    ),
    (
        "nsps:handlers/0/call_timeout_seconds",
        0,
        "nsps:handlers[0].call_timeout_seconds: a call can",
    ),
    ("nsps:handlers/0/max_rate", 0, "nsps:handlers[0].max_rate: must be greater than 0: write cal"),
    ("nsps:handlers/0/when_installed", "hlr", "nsps:handlers[0].when_installed: only the local st"),
    # settings and secrets, by the manifest
    ("nsps:handlers/0/settings/host", None, "nsps:handlers[0].settings.host: missing; the connect"),
    ("nsps:handlers/0/settings/host", 4, "nsps:handlers[0].settings.host: not a text: write a te"),
    ("nsps:handlers/0/settings/prot", 1, "nsps:handlers[0].settings.prot: the connector hss_osmo"),
    (
        "nsps:handlers/0/settings/port",
        "1",
        "nsps:handlers[0].settings.port: not a whole number: write a number without quotes "
        "(its control port)",
    ),
    ("nsps:handlers/0/settings/port", True, "nsps:handlers[0].settings.port: not a whole number:"),
    ("nsps:handlers/0/settings/roaming", "no", "nsps:handlers[0].settings.roaming: not true or f"),
    ("nsps:handlers/0/settings/apns", "web", "nsps:handlers[0].settings.apns: not a list: write "),
    ("nsps:handlers/0/settings/apns", [1], "nsps:handlers[0].settings.apns[0]: not a text: write"),
    (
        "nsps:handlers/0/settings/network",
        "moon",
        "nsps:handlers[0].settings.network: must be 'home' or 'guest': write one of home, guest",
    ),
    ("nsps:handlers/0/settings/auc", "k", "nsps:handlers[0].settings.auc: is a secret of the conn"),
    (
        "nsps:handlers/0/settings/host",
        "postgresql://nsps:hunter2@db/x",
        "nsps:handlers[0].settings.host: carries a password: write the whole value into a secret",
    ),
    ("nsps:handlers/0/settings/host", "${state}/x", "nsps:handlers[0].settings.host: ${state} is "),
    ("nsps:handlers/0/secrets/key", "k", "nsps:handlers[0].secrets.key: the connector hss_osmocom"),
    ("nsps:handlers/0/secrets/auc", "a b", "nsps:handlers[0].secrets.auc: not the name of a secr"),
    (
        "nsps:handlers/0/retries",
        {"push": {"minimum": 0}},
        "nsps:handlers[0].retries.push.minimum: must be greater than or equal to 1: write {push: ",
    ),
    (
        "nsps:handlers/0/retries",
        {"push": {"minimum": 600, "maximum": 10}},
        "nsps:handlers[0].retries.push: minimum is above maximum: write it no larger",
    ),
    (
        "nsps:handlers/0/retries",
        {"long": {"hours": [0]}},
        "nsps:handlers[0].retries.long.hours[0]: must be greater than 0: write {push: ",
    ),
    ("nsps:handlers/0/retries", {"tries": 3}, "nsps:handlers[0].retries.tries: unknown key: wri"),
    (
        "nsps:handlers/0/breaker",
        {"owners": 0},
        "nsps:handlers[0].breaker.owners: must be greater than or equal to 1: write {failures",
    ),
    (
        "nsps:handlers/0/answer_within_hours",
        48,
        "nsps:handlers[0].answer_within_hours: the connector hss_osmocom answers at once: write ",
    ),
    ("nsps:handlers/2/secrets", None, "nsps:handlers[2].secrets.callback: missing; the connector "),
    ("nsps:console/domain", "https://x", "nsps:console.domain: not written as it must be: write a"),
    # alerts and encryption
    ("nsps:alerts", {"email": []}, "nsps:alerts.email: unknown key: write emails"),
    (
        "nsps:alerts",
        {"emails": ["noc"]},
        "nsps:alerts.emails[0]: not written as it must be: write ",
    ),
    ("nsps:alerts", {"channels": ["pager"]}, "nsps:alerts.channels[0]: not written as it must be:"),
    (
        "nsps:alerts",
        {"old_minutes": 0},
        "nsps:alerts.old_minutes: must be greater than or equal to",
    ),
    (
        "nsps:kms_key",
        "my-key",
        "nsps:kms_key: not written as it must be: write projects/PROJECT/loc",
    ),
    (
        "nsps:kms_key",
        "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k",
        "nsps:kms_key: the key is in us-central1, the deployment in europe-west3: write a key of",
    ),
    # sizes
    ("nsps:sizes/hhs", {}, "nsps:sizes.hhs: no such function: write hss"),
    ("nsps:sizes/hss", {"memory": "1G"}, "nsps:sizes.hss.memory: must be '512Mi', '1Gi', '2Gi' or"),
    ("nsps:sizes/hss", {"cpu": 1}, "nsps:sizes.hss.cpu: unknown key: write one of memory, concurr"),
    ("nsps:sizes/hss", {"concurrency": 0}, "nsps:sizes.hss.concurrency: must be greater than or e"),
    (
        "nsps:sizes/hss",
        {"min_instances": 3, "max_instances": 2},
        "nsps:sizes.hss: min_instances is above max_instances: write it no larger",
    ),
]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_a_wrong_configuration_says_what_and_what_to_write(
    path: str, value: Any, expected: str
) -> None:
    values = copy.deepcopy(base())
    put(path, value)(values)
    found = problems(values)
    assert len(found) == 1, found
    assert found[0].startswith(expected), found[0]
    assert ": write " in found[0]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    values = copy.deepcopy(base())
    for path, value in (
        ("nsps:colour", 1),
        ("gcp:region", None),
        ("nsps:portabilling/url", "pb"),
        ("nsps:espf/method", "x"),
        ("nsps:handlers/0/events", ["SIM"]),
        ("nsps:handlers/0/settings/host", None),
        ("nsps:handlers/1/connector", "zte"),
        ("nsps:handlers/2/name", "hss"),
        ("nsps:handlers/2/secrets", None),
    ):
        put(path, value)(values)
    where = [line.split(": ")[0] for line in problems(values)]
    assert sorted(where) == sorted(
        [
            "nsps:colour",
            "gcp:region",
            "nsps:portabilling.url",
            "nsps:espf.method",
            "nsps:handlers[0].events[0]",
            "nsps:handlers[0].settings.host",
            "nsps:handlers[1].connector",
            "nsps:handlers[2].name",
            "nsps:handlers[2].secrets.callback",
        ]
    )


def test_a_value_that_may_be_a_secret_is_not_repeated() -> None:
    for path in (
        "nsps:portabilling/credentials",
        "nsps:handlers/0/contract_token",
        "nsps:handlers/0/secrets/auc",
    ):
        values = copy.deepcopy(base())
        put(path, "canary pass word")(values)
        assert "canary" not in "".join(problems(values))
    values = copy.deepcopy(base())
    put("nsps:handlers/0/settings/auc", "canary")(values)
    put("nsps:handlers/0/settings/host", "mysql://u:canary@h/d")(values)
    assert "canary" not in "".join(problems(values))


def test_a_secret_carries_the_deployments_name_unless_it_is_there_already() -> None:
    values = copy.deepcopy(base())
    put("nsps:portabilling/credentials", "existing:pb-api/versions/2")(values)
    config = check(values)
    assert config.portabilling.credentials == "pb-api/versions/2"
    assert config.existing == {"pb-api"}
    assert config.espf.credentials == ("acme-espf", "acme-espf-next")
    assert config.digest_key == "acme-digest-key"
    assert config.handlers[0].secrets == {"auc": "acme-auc/versions/3"}
    assert config.handlers[0].contract_token == "acme-hss-token"


@pytest.mark.parametrize(
    ("name", "expected"), [("sim-{imsi}", "acme-sim-{imsi}"), ("existing:sim-{imsi}", "sim-{imsi}")]
)
def test_a_secret_of_each_subscriber_carries_it_too(name: str, expected: str) -> None:
    values = copy.deepcopy(base())
    put("nsps:handlers/1/settings/credentials/name", name)(values)
    config = check(values)
    assert config.handlers[1].settings["credentials"]["name"] == expected  # type: ignore[index]
    assert config.existing == set(), "nothing is known of them"


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (
            {"source": "secret_manager", "name": "auc{imsi}"},
            "nsps:handlers[1].settings.credentials.name: acme-auc/versions/3 begins with acme-auc, "
            "so that the handler could read it as a subscriber's: write another beginning",
        ),
        (
            {"source": "http", "url": "https://auc.acme.example/{imsi}"},
            "nsps:handlers[1].secrets.look_up: missing; credentials.authentication bearer needs it",
        ),
    ],
)
def test_credentials_that_cannot_be_looked_up_are_refused(
    credentials: dict[str, str], expected: str
) -> None:
    values = copy.deepcopy(base())
    put("nsps:handlers/1/settings/credentials", credentials)(values)
    (found,) = problems(values)
    assert found.startswith(expected)


def test_a_custom_group_is_allowed_and_noted() -> None:
    (note,) = check(base()).notes
    assert note.startswith("Pulumi.test.yaml: nsps:handlers[2].group: Orders is not one of ESPF's")
    assert "register it through the ESPF API" in note


def test_a_wrong_manifest_is_named_with_its_faults(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "connector.yaml").write_text("connector: other\nkind: magic\n", encoding="utf-8")
    values = base() | {
        "nsps:handlers": [{"name": "abc", "connector": "broken", "events": ["SIM/*"]}],
        "nsps:sizes": {},
    }
    with pytest.raises(ConfigError) as refused:
        load_stack(values, "Pulumi.x.yaml", tmp_path)
    assert "nsps:handlers[0].connector: its manifest is wrong: broken/connector.yaml" in str(
        refused.value
    )
    assert "the connector lies in the folder broken: write broken" in str(refused.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    with pytest.raises(ConfigError, match="there is no such file"):
        read_file(file)
    for content in ("a: [", "- 1\n", "config: 3\n"):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"Pulumi\.x\.yaml"):
            read_file(file)


def test_a_second_hss_is_six_lines_and_changes_nothing_of_the_first() -> None:
    text = (ROOT / "infra" / "Pulumi.example.yaml").read_text(encoding="utf-8")
    (lines,) = re.findall(r"    - name: hss-guest\n(?:      .*\n)*", text)
    assert len(lines.splitlines()) == 6
    with_it = yaml.safe_load(text)["config"]
    without = yaml.safe_load(text.replace(lines, ""))["config"]
    before, after = (
        load_stack(values, "Pulumi.example.yaml", CONNECTORS) for values in (without, with_it)
    )
    assert [h for h in after.handlers if h.name != "hss-guest"] == list(before.handlers)
    assert {h.name for h in after.handlers} - {h.name for h in before.handlers} == {"hss-guest"}


# ---- what a machine puts in place ----------------------------------------------------------


def local_values() -> dict[str, Any]:
    values = copy.deepcopy(base())
    values["nsps:portabilling"]["url"] = "sandbox"
    values["nsps:handlers"][0]["settings"]["host"] = '${state}/a "b"'
    values["nsps:handlers"][1]["when_installed"] = "osmo-hlr"
    values["nsps:sizes"]["hss-2"] = {"memory": "1Gi"}
    return values


@pytest.mark.parametrize("installed", [True, False])
def test_the_local_stack_resolves_what_only_it_knows(installed: bool) -> None:
    check(local_values(), local=True)
    machine = Machine("http://127.0.0.1:8070", '/s "x"', lambda program: installed)
    config = check(localised(local_values(), machine))
    assert config.portabilling.url == "http://127.0.0.1:8070"
    assert config.handlers[0].settings["host"] == '/s "x"/a "b"'
    assert [h.name for h in config.handlers] == (
        ["hss", "hss-2", "oms"] if installed else ["hss", "oms"]
    )


def test_localising_leaves_the_values_as_they_were() -> None:
    values = local_values()
    localised(values, Machine("http://127.0.0.1:1", "/s", lambda program: False))
    assert values == local_values()


# ---- the files of the repository -----------------------------------------------------------


def test_the_example_is_valid_and_shows_every_key() -> None:
    values = read_file(ROOT / "infra" / "Pulumi.example.yaml")
    load_stack(values, "Pulumi.example.yaml", CONNECTORS)
    text = (ROOT / "infra" / "Pulumi.example.yaml").read_text(encoding="utf-8")
    from infra import stack_config

    for key in stack_config.KEYS:
        assert key in values, key
    for model in stack_config.MODELS.values():
        for name in model.model_fields:
            if name not in ("when_installed", "kind"):
                assert re.search(rf"^ +-? ?{name}:", text, re.MULTILINE), name


def test_the_local_stack_is_valid_with_the_connectors_there_are() -> None:
    file = ROOT / "infra" / "Pulumi.local.yaml"
    load_stack(read_file(file), file.name, ROOT / "functions" / "connectors", local=True)


# ---- whatever is valid, works --------------------------------------------------------------

_names = st.from_regex(r"[a-z][a-z0-9-]{0,29}[a-z0-9]", fullmatch=True).filter(
    lambda name: name not in RESERVED | ATTRIBUTES and not name.startswith("goog")
)
_secrets = st.from_regex(r"(existing:)?[A-Za-z0-9_-]{1,40}(/versions/[1-9])?", fullmatch=True)
_segments = st.sampled_from(["*", "SIM", "Account", "Sta*", "Updated"])
_patterns = st.lists(_segments, min_size=2, max_size=4).map("/".join)
_handlers = st.fixed_dictionaries(
    {
        "name": _names,
        "connector": st.just("hss_osmocom"),
        "events": st.lists(_patterns, min_size=1, max_size=4),
        "settings": st.fixed_dictionaries(
            {"host": st.text(st.characters(codec="utf-8", exclude_characters="$:"), max_size=30)},
            optional={
                "port": st.integers(1, 65535),
                "apns": st.lists(st.sampled_from(["web", "mms", "ims"])),
                "network": st.sampled_from(["home", "guest"]),
            },
        ),
    },
    optional={
        "group": st.sampled_from(["HSS", "PCRF", "Mine"]),
        "secrets": st.fixed_dictionaries({}, optional={"auc": _secrets}),
        "contract_token": _secrets,
        "call_timeout_seconds": st.integers(1, LONGEST_CALL_SECONDS),
        "max_rate": st.floats(0.1, 1000),
        "requires": st.lists(st.sampled_from(["product_info", "sim_info"])),
    },
)
_whole: dict[str, st.SearchStrategy[Any]] = {
    "gcp:project": st.from_regex(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", fullmatch=True),
    "gcp:region": st.sampled_from(["europe-west3", "us-central1", "africa-south1"]),
    "nsps:deployment": st.from_regex(r"[a-z][a-z0-9]{2,15}", fullmatch=True),
    "nsps:portabilling": st.fixed_dictionaries(
        {"url": st.sampled_from(["https://pb", "https://pb:8444"]), "credentials": _secrets},
        optional={"timeout_seconds": st.floats(1, 300)},
    ),
    "nsps:espf": st.fixed_dictionaries(
        {"credentials": st.lists(_secrets, min_size=1, max_size=2, unique=True)},
        optional={"method": st.sampled_from(["basic", "custom", "signature"])},
    ),
    "nsps:handlers": st.lists(_handlers, max_size=5, unique_by=lambda h: h["name"]),
}
_optional: dict[str, st.SearchStrategy[Any]] = {
    "nsps:static_egress": st.booleans(),
    "nsps:digest_key": _secrets,
    "nsps:alerts": st.fixed_dictionaries(
        {},
        optional={
            "emails": st.lists(st.sampled_from(["a@b.example", "noc@acme.example"]), unique=True),
            "old_minutes": st.integers(1, 1440),
        },
    ),
    "nsps:console": st.fixed_dictionaries(
        {},
        optional={
            "viewer": st.lists(st.sampled_from(["a@b.example", "domain:b.example"]), unique=True),
            "admin": st.just(["ci@acme.iam.gserviceaccount.com", "a@b.example"]),
            "domain": st.just("console.acme.example"),
        },
    ),
}
valid_values = st.fixed_dictionaries(_whole, optional=_optional)


@settings(max_examples=150, deadline=None)
@given(valid_values)
def test_every_valid_configuration_is_taken_and_understood(values: dict[str, Any]) -> None:
    again = yaml.safe_load(yaml.safe_dump(values))
    config = check(again)
    assert [h.name for h in config.handlers] == [h["name"] for h in values["nsps:handlers"]]
    for handler in config.handlers:
        parsed = HandlerSettings.model_validate_json(json_text(handler_json(handler)))
        assert parsed.name == handler.name
        assert parsed.settings == json.loads(json_text(dict(handler.settings)))
        assert all(isinstance(matches(pattern, "SIM/Updated"), bool) for pattern in parsed.events)


@settings(max_examples=150, deadline=None)
@given(
    valid_values,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=5,
    ),
    st.data(),
)
def test_anything_else_is_refused_with_a_report_or_taken_never_a_crash(
    values: dict[str, Any], junk: Any, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(values)))
    broken = copy.deepcopy(values)
    if isinstance(broken[key], dict) and data.draw(st.booleans()):
        broken[key][data.draw(st.sampled_from([*broken[key], "other"]))] = junk
    elif isinstance(broken[key], list) and broken[key] and data.draw(st.booleans()):
        inner = broken[key][0]
        inner[data.draw(st.sampled_from(sorted(inner)))] = junk
    else:
        broken[key] = junk
    try:
        check(broken)
    except ConfigError as refused:
        assert all(line.startswith("Pulumi.test.yaml: ") for line in refused.problems)


def partner(**keys: Any) -> Handler:
    """A handler of the real webhook connector, as it is configured with these keys."""
    values = base()
    values["nsps:handlers"] = [
        {
            "name": "partner",
            "connector": "webhook",
            "events": ["SIM/*"],
            "settings": {"url": "https://partner.acme.example/process-event"},
            "secrets": {"token": "partner-token"},
            **keys,
        }
    ]
    real = ROOT / "functions" / "connectors"
    (handler,) = load_stack(values, "Pulumi.test.yaml", real).handlers
    return handler


@pytest.mark.parametrize(("keys", "seconds"), [({}, 45), ({"call_timeout_seconds": 5}, 5)])
def test_a_call_takes_as_long_as_its_connector_s_contract_allows(
    keys: dict[str, Any], seconds: float
) -> None:
    assert partner(**keys).call_timeout_seconds == seconds


def test_a_push_has_time_for_two_of_the_longest_calls() -> None:
    longest = partner(call_timeout_seconds=LONGEST_CALL_SECONDS)
    assert timeout_seconds(longest) == 600
    assert timeout_seconds(longest) >= 2 * LONGEST_CALL_SECONDS + 30


@pytest.mark.parametrize(
    ("keys", "blocks"),
    [
        (
            {},
            "account_info sim_info prev_sim_info access_policy_info product_info",
        ),
        ({"requires": ["sim_info"]}, "sim_info"),
        ({"requires": []}, ""),
        ({"requires": ["sim_info", "customer_info", "sim_info"]}, "sim_info customer_info"),
    ],
)
def test_a_partner_gets_the_blocks_that_its_handler_lists(
    keys: dict[str, Any], blocks: str
) -> None:
    assert partner(**keys).requires == tuple(blocks.split())


@pytest.mark.parametrize("asked", [None, (), ("product_info",), ("sim_info", "product_info")])
def test_what_a_connector_computes_with_is_read_whatever_a_handler_lists(
    asked: tuple[str, ...] | None,
) -> None:
    manifest = load(ROOT / "functions" / "connectors" / "hss_osmocom" / "connector.yaml")
    more = ("product_info",) if asked else ()
    assert manifest.blocks(asked) == ("account_info", "sim_info", *more)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"columns": {"i_account": "account_info.i_acount"}}, "settings.columns"),
        (
            {"columns": {"i_account": "account_info.i_account", "plan": "product_info.name"}},
            "settings.columns.plan (product_info.name): needs product_info, which is not read from "
            "PortaBilling: add product_info to requires",
        ),
        ({"key": "imsi", "columns": {"i_account": "account_info.i_account"}}, "settings: "),
        (
            {"url": "oracle://db.acme.example/crm"},
            "settings.url: write sqlite:///FILE or postgresql",
        ),
        (
            {"url": "postgresql://nsps:hunter2@db.acme.example/crm"},
            "settings.url: carries a password: write the whole value into a secret",
        ),
    ],
)
def test_a_mistake_that_only_the_connector_knows_is_found_before_anything_starts(
    settings: dict[str, Any], wrong: str
) -> None:
    values = base()
    values["nsps:handlers"] = [
        {"name": "crm", "connector": "database", "events": ["SIM/*"], "settings": settings}
    ]
    with pytest.raises(ConfigError) as error:
        load_stack(values, "Pulumi.test.yaml", ROOT / "functions" / "connectors")
    (problem,) = error.value.problems
    assert problem.startswith(f"Pulumi.test.yaml: nsps:handlers[0].{wrong}")


def described(**resource: Any) -> dict[str, Any]:
    """The settings of a REST system with one resource."""
    whole = {
        "name": "party",
        "key": "id",
        "fields": {"id": "account_info.i_account"},
        "read": {"path": "parties/{id}"},
        "create": {"method": "POST", "path": "parties", "body": {"id": "{id}"}},
        "delete": {"method": "DELETE", "path": "parties/{id}"},
    }
    return {
        "url": "https://crm.acme.example",
        "authentication": {"type": "none"},
        "check": "health",
        "resources": [whole | resource],
    }


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (described(key="imsi"), "settings.resources[0]: key: imsi is no field with a source: wri"),
        (described(read={}), "settings.resources[0].read.path: missing: write the path below url"),
        (described(reed={}), "settings.resources[0].reed: unknown key: write read"),
        (
            described(fields={"id": {"form": "msisdn"}}),
            "settings.resources[0].fields.id.form: unknown key: write format",
        ),
        (
            described(fields={"id": "account_info.nummer"}),
            "settings.resources[0].fields.id: 'account_info.nummer' names no value: write ",
        ),
        (
            described(delete={"method": "DELETE", "path": "parties/{imsi}"}),
            "settings.resources[0]: delete.path: {imsi} cannot be filled in here: write {NAME} wi",
        ),
        (
            described() | {"authentication": {"type": "password"}},
            "settings.authentication.type: must be 'none', 'bearer', 'basic', 'api_key' or 'sign_",
        ),
        (
            described() | {"answers": [{"meaning": "absent", "status": "4o4"}]},
            "settings.answers[0].status: ",
        ),
    ],
)
def test_a_rest_system_that_is_described_wrongly_is_refused_before_anything_starts(
    settings: dict[str, Any], wrong: str
) -> None:
    values = base()
    values["nsps:handlers"] = [
        {"name": "crm", "connector": "rest", "events": ["SIM/*"], "settings": settings}
    ]
    with pytest.raises(ConfigError) as error:
        load_stack(values, "Pulumi.test.yaml", ROOT / "functions" / "connectors")
    assert f"Pulumi.test.yaml: nsps:handlers[0].{wrong}" in str(error.value)
