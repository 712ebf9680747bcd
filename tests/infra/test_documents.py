"""What the documents on deployment and security say is there: commands, files, roles, outputs."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest
from nsps_local import cli

from tests.infra.conftest import ROOT
from tests.infra.policy import IN_THE_PROJECT, PUBLIC

PAGES = ("deploy.md", "security.md")


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands() -> dict[str, argparse.ArgumentParser]:
    """The subcommands of nsps."""
    known: dict[str, argparse.ArgumentParser] = {}
    real = argparse._SubParsersAction.add_parser

    def noted(self: Any, name: str, **more: Any) -> Any:
        made = real(self, name, **more)
        if name == asked:  # the others are named without their options
            known[name] = made
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse._SubParsersAction, "add_parser", noted)
        for asked in cli.COMMANDS:
            with pytest.raises(SystemExit):
                cli.main([asked, "--help"])
    return known


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_with_its_options(
    commands: dict[str, argparse.ArgumentParser], page: str
) -> None:
    found = re.findall(r"(?:`|/|^)nsps ([a-z-]+)([^`\n]*)", text(page), re.MULTILINE)
    assert len(found) > 5
    for name, rest in found:
        assert name in commands, name
        options = set(re.findall(r"(--[a-z-]+)", rest.partition("#")[0]))
        assert options <= set(commands[name]._option_string_actions), (name, options)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_link_is_there(page: str) -> None:
    written = text(page)
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", written):
        assert (ROOT / "docs" / link).exists(), link
    for path in re.findall(r"`((?:tests|infra|docs)/[A-Za-z0-9_/.]+)`", written):
        generic = "Pulumi.acme.yaml" in path
        assert generic or (ROOT / path).exists(), path


def test_the_outputs_that_are_named_are_exported() -> None:
    program = (ROOT / "infra" / "program.py").read_text(encoding="utf-8")
    exported = set(re.findall(r'pulumi\.export\("(\w+)"', program))
    named = set(re.findall(r"\b(\w+_url|egress_address)\b", text("deploy.md")))
    assert named <= exported


def test_the_exceptions_of_the_policy_are_explained() -> None:
    security = text("security.md")
    for role in IN_THE_PROJECT:
        assert f"`{role}`" in security
    for part in PUBLIC:
        assert f"| {part} |" in security
