"""A connector's manifest: what it may say, and what it finds wrong in a handler's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from nsps.transport.tls import TLS_SECRETS
from nsps_local.declared_settings import InvalidModel, Setting, declared
from nsps_local.manifest import InvalidManifest, Manifest, load
from pydantic import BaseModel, ConfigDict, Field, create_model

from tests.infra.conftest import ROOT

CODE = """
from enum import StrEnum
from typing import Annotated, Literal

from nsps.connector.base import Call, Connector
from pydantic import BaseModel, ConfigDict, Field, field_validator


class Ordering(StrEnum):
    NEWEST = "newest"
    EVERY = "every"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: str = Field(description="html or plain")


class Wording(BaseModel):
    model_config = ConfigDict(extra="forbid")

    subject: str
    text: str = Field(default="", min_length=1, description="the text of the mail")
    parts: list[Part] = []


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    host: str = Field(min_length=1, description="Where it is.")
    port: int = Field(default=1, ge=1, description="Its port.")
    name: str | None = Field(default=None, description="Its name.")
    mode: Literal["one", "two"] = Field(default="one", description="How.")
    ordering: Ordering = Field(default=Ordering.NEWEST, description="In which order.")
    templates: dict[str, Wording] = Field(default_factory=dict, description="The wording.")
    codes: list[Annotated[int, Field(ge=400)]] = Field(default=[], description="The codes.")

    @field_validator("name")
    @classmethod
    def _short(cls, name: str | None) -> str | None:
        if name is not None and len(name) > 3:
            raise ValueError("write at most 3 letters")
        return name


class Fixture(Connector[Settings]):
    settings_model = Settings

    def check(self, call: Call) -> None: ...
"""


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "connector": "hss_x",
        "title": "HSS",
        "kind": "state",
        "summary": "An HSS",
        "events": ["SIM/*"],
        "requires": ["sim_info"],
        "groups": "HSS",
        "secrets": {"key": {"description": "the key"}},
        "rate": 5,
        "quality": {"tier": "silver"},
    } | changes


def load_from(tmp_path: Path, content: Any, code: str = CODE) -> Manifest:
    file = tmp_path / "hss_x" / "connector.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    (file.parent / "connector.py").write_text(code, encoding="utf-8")
    return load(file)


def test_a_manifest_is_read(tmp_path: Path) -> None:
    read = load_from(tmp_path, manifest())
    assert read.kind == ("state",)
    assert read.groups == ("HSS",)
    assert read.secrets["key"].required
    assert load_from(tmp_path, manifest(groups=None)).groups == ()
    assert load_from(tmp_path, manifest(kind=["message", "state"])).kind == ("message", "state")


def test_a_connector_with_tls_has_the_secrets_of_all_such_connectors(tmp_path: Path) -> None:
    read = load_from(tmp_path, manifest(tls=True))
    assert list(read.secrets) == ["key", *TLS_SECRETS]
    assert not any(read.secrets[name].required for name in TLS_SECRETS)
    assert list(load_from(tmp_path, manifest(secrets=None, tls=True)).secrets) == [*TLS_SECRETS]


def test_the_settings_are_those_of_the_model(tmp_path: Path) -> None:
    assert load_from(tmp_path, manifest()).settings == {
        "host": Setting(("text",), (), True, None, "Where it is."),
        "port": Setting(("number",), (), False, 1, "Its port."),
        "name": Setting(("text",), (), False, None, "Its name."),
        "mode": Setting(("text",), ("one", "two"), False, "one", "How."),
        "ordering": Setting(("text",), ("newest", "every"), False, "newest", "In which order."),
        "templates": Setting(("map",), (), False, {}, "The wording."),
        "codes": Setting(("list",), (), False, [], "The codes."),
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"connector": "other"}, "the connector lies in the folder hss_x: write hss_x"),
        ({"kind": "soap"}, "kind[0]: must be 'state', 'message' or 'asynchronous'"),
        ({"kind": []}, "kind: "),
        ({"events": ["SIM"]}, "events[0]: "),
        ({"requires": ["sim"]}, "requires[0]: "),
        ({"rate": 0}, "rate: "),
        ({"quality": {"tier": "tin"}}, "quality.tier: "),
        ({"colour": "red"}, "colour: unknown key"),
        ({"secrets": {"a": {}}}, "secrets.a.description: missing"),
        ({"settings": {"host": {"type": "text"}}}, "settings: not written here: describe them in"),
    ],
)
def test_a_wrong_manifest_is_refused(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidManifest) as refused:
        load_from(tmp_path, manifest(**changes))
    assert str(refused.value).startswith("hss_x/connector.yaml: ")
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        (', description="Its port."', "", "Settings.port: has no description: write Field(descr"),
        ('"Its port."', '" "', "Settings.port: has no description: write Field(description="),
        (
            'extra="forbid")\n\n    host',
            'extra="ignore")\n\n    host',
            'takes settings that it does not know: write model_config = ConfigDict(extra="forbid")',
        ),
        ("name: str | None = F", "name: type | None = F", "Settings: no form in YAML: "),
        ("settings_model = Settings", "settings_model = Setings", "cannot be loaded: name 'Setin"),
        ("class Fixture", "def", "cannot be loaded: "),
        ("class Fixture(Connector[Settings])", "class Fixture", "defines 0 connectors, not one"),
    ],
)
def test_a_model_that_people_cannot_use_is_refused(
    tmp_path: Path, right: str, wrong: str, expected: str
) -> None:
    assert CODE.count(right) == 1
    with pytest.raises(InvalidManifest) as refused:
        load_from(tmp_path, manifest(), CODE.replace(right, wrong))
    assert str(refused.value).startswith("hss_x/connector.py: ")
    assert expected in str(refused.value)


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="cannot be read"):
        load(tmp_path / "connector.yaml")


HOST = {"host": "hss.example"}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {},
            "settings.host: missing; the connector hss_x needs it (Where it is): write a text",
        ),
        ({"host": 4}, "settings.host: not a text: write a text (Where it is)"),
        ({"host": ""}, "settings.host: empty: write a text (Where it is)"),
        (
            {**HOST, "port": "1"},
            "settings.port: not a whole number: write a number without quotes (Its port)",
        ),
        (
            {**HOST, "port": 0},
            "settings.port: must be greater than or equal to 1: "
            "write a number without quotes (Its port)",
        ),
        (
            {**HOST, "mode": "x"},
            "settings.mode: must be 'one' or 'two': write one of one, two (How)",
        ),
        (
            {**HOST, "codes": [400, 1]},
            "settings.codes[1]: must be greater than or equal to 400: "
            "write a list, [one, two] (The codes)",
        ),
        (
            {**HOST, "templates": {"SIM/*": {}}},
            "settings.templates.SIM/*.subject: missing: write a map, {name: value} (The wording)",
        ),
        (
            {**HOST, "templates": {"SIM/*": {"subject": "x", "colour": 1}}},
            "settings.templates.SIM/*.colour: unknown key: write one of subject, text, parts",
        ),
        (
            {**HOST, "templates": {"SIM/*": {"subject": "x", "text": ""}}},
            "settings.templates.SIM/*.text: empty: write the text of the mail",
        ),
        (
            {**HOST, "templates": {"SIM/*": {"subject": "x", "parts": [{"kind": "a", "x": 1}]}}},
            "settings.templates.SIM/*.parts[0].x: unknown key: write one of kind",
        ),
        ({**HOST, "name": "Alfred"}, "settings.name: write at most 3 letters"),
        ({**HOST, "prot": 1}, "settings.prot: the connector hss_x has no such setting: write port"),
        (
            {**HOST, "key": "k"},
            "settings.key: is a secret of the connector hss_x: "
            "write the name of a Secret Manager secret under secrets.key instead",
        ),
    ],
)
def test_a_wrong_setting_says_what_where_and_what_to_write(
    tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    found = load_from(tmp_path, manifest()).problems(settings, {"key": "the-key"})
    assert [f"{each.where}: {each.text}" for each in found] == [problem]


def test_a_right_handler_has_no_problem_and_a_wrong_one_all_at_once(tmp_path: Path) -> None:
    read = load_from(tmp_path, manifest())
    right = {**HOST, "port": 2, "name": None, "mode": "two", "ordering": "every"}
    assert not list(read.problems(right, {"key": "the-key"}))
    found = read.problems({"port": "x", "colour": 1}, {"token": "a"})
    assert sorted(each.where for each in found) == [
        "secrets.key",
        "secrets.token",
        "settings.colour",
        "settings.host",
        "settings.port",
    ]


def test_alternatives_of_a_setting_are_all_named() -> None:
    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid")

        either: int | list[str] | None = Field(default=None, description="Either.")

    assert declared(Model)["either"].types == ("number", "list")
    assert declared(Model)["either"].how_to_write == (
        "a number without quotes or a list, [one, two]"
    )


def test_every_fault_of_a_model_is_named() -> None:
    with pytest.raises(InvalidModel) as refused:
        declared(create_model("Model", a=(int, 1), b=(int, 2)))
    assert len(str(refused.value).splitlines()) == 3


@pytest.mark.parametrize(
    "file",
    sorted(ROOT.glob("functions/connectors/*/connector.yaml")),
    ids=lambda file: file.parent.name,
)
def test_every_connectors_manifest_is_valid(file: Path) -> None:
    assert load(file).connector == file.parent.name
