"""A connector's manifest: what it may say, and what it makes of a handler's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nsps_local.manifest import InvalidManifest, Manifest, Setting, load

from tests.infra.conftest import ROOT


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "connector": "hss_x",
        "title": "HSS",
        "kind": "state",
        "summary": "An HSS",
        "events": ["SIM/*"],
        "requires": ["sim_info"],
        "groups": "HSS",
        "settings": {"host": {"type": "text", "required": True, "description": "where"}},
        "secrets": {"key": {"description": "the key"}},
        "rate": 5,
        "quality": {"tier": "silver", "rules": ["timeouts"]},
    } | changes


def load_from(tmp_path: Path, content: Any) -> Manifest:
    file = tmp_path / "hss_x" / "connector.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load(file)


def test_a_manifest_is_read(tmp_path: Path) -> None:
    read = load_from(tmp_path, manifest())
    assert read.kind == ("state",)
    assert read.groups == ("HSS",)
    assert read.secrets["key"].required
    assert load_from(tmp_path, manifest(groups=None)).groups == ()
    assert load_from(tmp_path, manifest(kind=["message", "state"])).kind == ("message", "state")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"connector": "other"}, "the connector lies in the folder hss_x: write hss_x"),
        ({"kind": "soap"}, "kind.0: Input should be 'state', 'message' or 'asynchronous'"),
        ({"kind": []}, "kind: "),
        ({"events": ["SIM"]}, "events.0: "),
        ({"requires": ["sim"]}, "requires.0: "),
        ({"rate": 0}, "rate: "),
        ({"quality": {"tier": "tin"}}, "quality.tier: "),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"settings": {"a": {"type": "text"}}}, "settings.a.description: Field required"),
        ({"settings": {"a": {"type": "choice", "description": "x"}}}, "`choices` go with type"),
        (
            {"settings": {"a": {"type": "text", "choices": ["x"], "description": "x"}}},
            "`choices` go with type choice",
        ),
        (
            {"settings": {"a": {"type": "number", "default": "1", "description": "x"}}},
            "the default is a text: write a number without quotes",
        ),
        (
            {
                "settings": {
                    "a": {"type": "text", "required": True, "default": "", "description": "x"}
                }
            },
            "a required setting has no default",
        ),
    ],
)
def test_a_wrong_manifest_is_refused(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidManifest) as refused:
        load_from(tmp_path, manifest(**changes))
    assert str(refused.value).startswith("hss_x/connector.yaml: ")
    assert expected in str(refused.value)


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="cannot be read"):
        load(tmp_path / "connector.yaml")


VALUES = {
    "text": st.text(),
    "number": st.integers() | st.floats(),
    "boolean": st.booleans(),
    "list": st.lists(st.integers()),
    "map": st.dictionaries(st.text(), st.integers()),
}


@given(st.sampled_from(sorted(VALUES)), st.sampled_from(sorted(VALUES)), st.data())
def test_a_setting_takes_values_of_its_type_and_no_others(
    kind: Any, other: Any, data: st.DataObject
) -> None:
    setting = Setting(type=kind, description="x")
    assert setting.trouble(data.draw(VALUES[kind])) is None
    if other != kind:
        trouble = setting.trouble(data.draw(VALUES[other]))
        assert trouble is not None
        assert ": write " in trouble
    assert setting.trouble(None) == f"is empty: write {setting.how_to_write}"


def test_the_defaults_fill_in_what_a_handler_leaves_out(tmp_path: Path) -> None:
    port = {"type": "number", "default": 1, "description": "x"}
    off = {"type": "boolean", "default": False, "description": "x"}
    none = {"type": "text", "description": "x"}
    read = load_from(tmp_path, manifest(settings={"port": port, "off": off, "none": none}))
    assert read.complete({}) == {"port": 1, "off": False}
    assert read.complete({"port": 2}) == {"port": 2, "off": False}


@pytest.mark.parametrize(
    "file",
    sorted(ROOT.glob("functions/connectors/*/connector.yaml")),
    ids=lambda file: file.parent.name,
)
def test_every_connectors_manifest_is_valid(file: Path) -> None:
    assert load(file).connector == file.parent.name
