"""docs/configuration.md, made of what decides: the keys' models, and the example's comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from infra.stack_config import KEYS, MODELS, OPTIONAL

EXAMPLE = "infra/Pulumi.example.yaml"
MORE = {
    "url": "PortaBilling's web server, where its API is.",
    "kind": "Which kind the handler is, for a connector that can be several.",
    "viewer": "May read.",
    "operator": "May also pause, resume, replay and reconcile.",
    "admin": "May do everything, except what `interception` may.",
    "emails": "Who is written to.",
    "max_instances": "No more than these, whatever comes.",
    "when_installed": "On the local stack the handler is left out where this is not installed.",
}
"""Of keys that the example need not explain."""

_BEGINNING = f"""\
# Configuration

<!-- Made by `python -m infra.documents` from the models and {EXAMPLE}; a test fails when
     it is not up to date. -->

A deployment is one file, `infra/Pulumi.<stack>.yaml`: one for each customer or PortaBilling
environment. [{EXAMPLE}](../{EXAMPLE}) has every key; copy it and keep what you
need. A wrong file is refused before anything is made, with every mistake at once: file, key, what
is wrong, what to write. To see that without deploying, and what a stack would cost:

```
.venv/bin/python -m nsps_local.recording --config infra/Pulumi.acme.yaml > /dev/null
.venv/bin/nsps cost --config infra/Pulumi.acme.yaml
.venv/bin/nsps doctor --config infra/Pulumi.acme.yaml --outputs outputs.json
```

A second system of the same kind is six lines:

```yaml
    - name: hss-guest
      connector: hss_osmocom
      events: [SIM/*]
      group: HSS-guest
      settings:
        host: hlr-guest.acme.example
```

No secret stands in the file, only names. `NAME` is a secret of the deployment's own: the program
makes it, empty, as `<deployment>-NAME` in Secret Manager (`acme-portabilling-api`), and you add its
value. `existing:NAME` is one that the project has already, under just that name. Either may be
pinned: `NAME/versions/N`. What is in them:

| secret | holds |
|---|---|
| `nsps:portabilling` credentials | `{{"login": "...", "password": "..."}}`, or `"token"` for it |
| `nsps:espf` credentials, method basic | `{{"user": "...", "password": "..."}}` |
| method custom | `{{"type": "...", "credentials": "..."}}` |
| method signature | `{{"key_id": "...", "key": "..."}}` |
| `nsps:digest_key` | any 32 random bytes, as text |
| a handler's `contract_token` | the Bearer token, as text |
| a handler's `secrets` | as its connector's page says |

What goes under a handler's `settings` and `secrets` is on the page of its `connector`:
[connectors/](connectors/README.md).

"""


def page(root: Path) -> str:
    """The whole page."""
    said = comments((root / EXAMPLE).read_text(encoding="utf-8"))
    return "".join([_BEGINNING, *_keys(said)])


def comments(text: str) -> dict[str, str]:
    """Key (like nsps:espf.method) -> the comment above it in the example, the first of its kind."""
    found: dict[str, str] = {}
    way: list[tuple[int, str]] = []
    above: list[str] = []
    for line in text.splitlines():
        if comment := re.match(r"\s+# ?(.*)", line):
            above.append(comment[1])
            continue
        key = re.match(r"(?P<indent>\s+)(?:- )?(?P<key>[a-z]+:[a-z_]+|[a-z_]+):(\s|$)", line)
        if key:
            indent = len(line) - len(line.lstrip(" -"))
            way = [(depth, name) for depth, name in way if depth < indent] + [(indent, key["key"])]
            found.setdefault(".".join(name for _, name in way), " ".join(above))
        above = []
    return found


def _keys(said: Mapping[str, str]) -> Iterator[str]:
    yield "## Keys\n\n| key | | what it is |\n|---|---|---|\n"
    for key, (_, expected) in KEYS.items():
        need = "optional" if key in OPTIONAL else "required"
        meaning = said.get(key) or f"{expected[:1].upper()}{expected[1:]}."
        yield f"| `{key}` | {need} | {_cell(meaning)} |\n"
    for key, model in MODELS.items():
        yield f"\n### {key}\n\n"
        yield "| key | write | default | what it is |\n|---|---|---|---|\n"
        for name, field in model.model_fields.items():
            meaning = said.get(f"{key}.{name}") or _of_sizes(said, name) or MORE.get(name, "")
            yield (
                f"| `{name}` | {_cell(field.description or '')} | {_default(field)} "
                f"| {_cell(_without_default(meaning))} |\n"
            )


def _of_sizes(said: Mapping[str, str], name: str) -> str:
    """Under nsps:sizes a function's name stands between."""
    return next(
        (
            text
            for key, text in said.items()
            if key.startswith("nsps:sizes.") and key.endswith(f".{name}")
        ),
        "",
    )


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return f"`{json.dumps(value)}`"


def _without_default(text: str) -> str:
    """The table has a column for it."""
    return re.sub(r"\s*Default: [^.;]*(\.(?=\s|$)|$)", "", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()
