"""docs/connectors/: a page for each connector and the table of all, made of the manifests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nsps_local.declared_settings import Setting
from nsps_local.described import SYSTEMS, Described, connectors_in, load_connector_file
from nsps_local.manifest import PREDEFINED_GROUPS, Manifest

_MADE = "<!-- Made by `python -m infra.documents` from the manifests, not by hand. -->\n"
_BEGINNING = f"""\
# Connectors

{_MADE}
Each system, and how far its connector has come: the
[tiers](../connectors.md#the-standard-tests), each earned by tests. Read back: whether NSPS can ask
the system what it holds. A handler may have any ESPF group; the one here is the usual.

"""


def manifests(root: Path) -> list[Manifest]:
    """Those of all connectors, in the order of ESPF's own groups."""
    files = connectors_in(root / "functions" / "connectors").values()
    found = [load_connector_file(file) for file in files]
    return sorted(found, key=lambda each: (_place(each.groups), each.connector))


def pages(found: Iterable[Manifest]) -> dict[str, str]:
    """File name -> its text, of everything in docs/connectors/."""
    found = list(found)
    made = {f"{each.connector}.md": "".join(_page(each)) for each in found}
    return {"README.md": "".join([_BEGINNING, *_table(found)]), **made}


def short_table(found: Iterable[Manifest]) -> str:
    """Which systems, tested against what, as the project's README has it."""
    rows = (
        f"| {_groups(each)} | [{each.of_system}](docs/connectors/{each.connector}.md) "
        f"| {_tested(each)} |\n"
        for each in found
    )
    return "".join(["| ESPF group | system | tested against |\n|---|---|---|\n", *rows])


def _place(groups: Sequence[str]) -> int:
    known = [PREDEFINED_GROUPS.index(group) for group in groups if group in PREDEFINED_GROUPS]
    return min(known, default=len(PREDEFINED_GROUPS))


def _table(found: Iterable[Manifest]) -> Iterator[str]:
    yield "| group | system | connector | kind | read back | tier | tested against |\n"
    yield "|---|---|---|---|---|---|---|\n"
    for each in found:
        read_back = "yes" if "read-back" in each.quality.tests else "no"
        yield f"| {_groups(each)} | {each.of_system} | [{each.connector}]({each.connector}.md) "
        yield f"| {' or '.join(each.kind)} | {read_back} | {each.quality.tier} "
        yield f"| {_tested(each)} |\n"


def _page(manifest: Manifest) -> Iterator[str]:
    name = manifest.connector
    yield f"# {name}: {manifest.title}\n\n{_MADE}\n{manifest.summary}\n"
    readme = f"../../functions/connectors/{manifest.folder}/README.md"
    yield f"[What it writes, limits and traps]({readme}).\n\n"
    yield "| | |\n|---|---|\n"
    for what, value in _facts(manifest).items():
        yield f"| {what} | {value} |\n"
    if manifest.settings:
        yield "\n## Settings\n\n| setting | type | default | what it is |\n|---|---|---|---|\n"
        for key, setting in manifest.settings.items():
            yield f"| `{key}` | {_type(setting)} | {_default(setting)} "
            yield f"| {_cell(setting.description)} |\n"
    if manifest.secrets:
        yield "\n## Secrets\n\n| secret | | what it is |\n|---|---|---|\n"
        for key, secret in manifest.secrets.items():
            need = "required" if secret.required else "optional"
            yield f"| `{key}` | {need} | {_cell(secret.description)} |\n"


def _facts(manifest: Manifest) -> Mapping[str, str]:
    facts = {
        "system": manifest.of_system,
        "tested against": _tested(manifest),
        "tier": manifest.quality.tier,
        "kind": " or ".join(manifest.kind),
        "made of": _made_of(manifest),
        "usual ESPF groups": _groups(manifest),
        "usual events": _names(manifest.events),
        "reads of PortaBilling": _names(manifest.requires) or "nothing of its own",
        "without `requires` in the handler": _names(manifest.passes_on),
        "a call may take": f"{manifest.call_timeout_seconds:g} s",
        "bears": f"{manifest.rate:g} calls a second" if manifest.rate else "",
    }
    return {what: value for what, value in facts.items() if value}


def _made_of(manifest: Manifest) -> str:
    if not isinstance(manifest, Described):
        return ""
    file = f"{manifest.folder}/{SYSTEMS}/{manifest.connector}.yaml"
    shown = f"[a description](../../functions/connectors/{file})"
    return f"{shown} for the connector [{manifest.folder}]({manifest.folder}.md)"


def _groups(manifest: Manifest) -> str:
    return ", ".join(manifest.groups) or "your own"


def _tested(manifest: Manifest) -> str:
    return _cell(", ".join(manifest.tested)) or "nothing yet"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _type(setting: Setting) -> str:
    if setting.choices:
        return " or ".join(f"`{choice}`" for choice in setting.choices)
    return " or ".join(setting.types)


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    return "" if setting.default is None else _cell(f"`{json.dumps(setting.default)}`")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()
