"""Systems by a shipped description: a handler names one, its function gets the whole."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from nsps_local.described import Described, connectors_in, load_connector_file
from nsps_local.manifest import InvalidManifest

from infra.stack_config import ConfigError, Handler, load_stack
from tests.infra.conftest import ROOT, base

CONNECTORS = ROOT / "functions" / "connectors"
ENUM = CONNECTORS / "rest" / "systems" / "enum_powerdns.yaml"
URL = {"url": "https://dns.acme.example/api"}


def handler(settings: dict[str, Any], connector: str = "enum_powerdns") -> Handler:
    values = base()
    values["nsps:handlers"] = [
        {
            "name": "enum",
            "connector": connector,
            "events": ["SIM/*"],
            "settings": settings,
            "secrets": {"credentials": "powerdns-api-key"},
        }
    ]
    [found] = load_stack(values, "Pulumi.test.yaml", CONNECTORS).handlers
    return found


def test_the_examples_of_the_readme_can_be_used() -> None:
    readme = (CONNECTORS / "rest" / "README.md").read_text(encoding="utf-8")
    examples = (
        yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    )
    enum, salesforce, described, _rules = examples
    values = base() | {"nsps:handlers": [*enum, *salesforce]}
    made = load_stack(values, "Pulumi.test.yaml", CONNECTORS).handlers
    assert [each.connector for each in made] == ["rest", "rest"]
    rest = load_connector_file(CONNECTORS / "rest" / "connector.yaml")
    assert not list(rest.problems(described["settings"], {}))


def test_a_function_gets_the_description_with_what_the_handler_says() -> None:
    made = handler({**URL, "zone": "0.2.4.e164.arpa.", "check": "zones"})
    assert (made.connector, made.requires) == ("rest", ("account_info", "sim_info"))
    settings: Any = made.settings
    assert (settings["url"], settings["check"]) == (URL["url"], "zones")
    assert "zone" not in settings
    [resource] = settings["resources"]
    assert resource["create"]["path"] == "zones/0.2.4.e164.arpa."
    assert resource["fields"]["ttl"] == {"value": 300}
    assert resource["when"]["account_info.assigned_addons.Ported number.description"] == "any"


def test_a_map_of_the_handler_stands_beside_what_the_description_has() -> None:
    given = {"city": "account_info.email", "pb_status": "name"}
    settings: Any = handler({"fields": given}, "crm_hubspot").settings
    [resource] = settings["resources"]
    assert (settings["url"], resource["fields"]["city"]) == (
        "https://api.hubapi.com", "account_info.email",
    )  # fmt: skip
    assert resource["fields"]["pb_status"] == "status", "the description's own"
    for fields, told in (
        ("name", r"settings\.fields: not a map: write a map"),
        ({"city": "account_info.city"}, r"fields\.city: 'account_info\.city' names no value"),
        ({"city": {"form": "name"}}, r"fields\.city\.form: unknown key: write format"),
    ):
        with pytest.raises(ConfigError, match=told):
            handler({"fields": fields}, "crm_hubspot")


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, "settings.url: missing"),
        ({**URL, "zon": "e164.arpa."}, "settings.zon: the connector enum_powerdns has no such"),
        ({**URL, "ttl": "300"}, "settings.ttl: not a number: write a number without quotes (For"),
        ({**URL, "zone": None}, "settings.zone: missing: write a text (The zone in PowerDNS"),
        ({**URL, "routing_number": "account_info.rn"}, "settings.resources[0].when: "),
        (
            {**URL, "routing_number": "policy.rn"},
            "settings.resources.ported.fields.routing_number (policy.rn): needs access_policy_info",
        ),
    ],
)
def test_what_is_wrong_is_found_before_anything_starts(
    settings: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        handler(settings)
    assert f"Pulumi.test.yaml: nsps:handlers[0].{wrong}" in str(refused.value)


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("zones/<zone>", "zones/<zne>", "<zne>: there is no such parameter: add it"),
        ("connector: enum_powerdns", "connector: enum", "write enum_powerdns"),
        ("description:\n  auth", "settings:\n  auth", "description: missing"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, right: str, wrong: str, fault: str) -> None:
    folder = shutil.copytree(CONNECTORS / "rest", tmp_path / "rest")
    file = folder / "systems" / ENUM.name
    text = ENUM.read_text(encoding="utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(InvalidManifest, match=fault):
        load_connector_file(file)


@pytest.mark.parametrize("file", connectors_in(CONNECTORS).values(), ids=lambda file: file.stem)
def test_every_shipped_description_is_complete_but_for_its_parameters(file: Path) -> None:
    manifest = load_connector_file(file)
    if isinstance(manifest, Described):
        given = {name: "x" for name, each in manifest.parameters.items() if each.default is None}
        assert not list(manifest.problems({**URL, **given}, dict.fromkeys(manifest.secrets, "x")))
