"""Run in an unpacked archive: imports whatever its main.py may import, late imports too.

Prints {"modules": [the archive's own, reached], "missing": {module: who imports it}}. Imports that
are only for type checkers do not count.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path.cwd()


def main() -> None:
    sys.path.insert(0, str(HERE))
    seen: dict[str, Path] = {}
    missing: dict[str, str] = {}
    todo = [("main", HERE / "main.py")]
    for file in HERE.glob("functions/connectors/*/connector.py"):  # loaded by its folder
        todo.append((".".join(file.relative_to(HERE).with_suffix("").parts), file))
    while todo:
        name, file = todo.pop()
        if name in seen:
            continue
        seen[name] = file
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for wanted in _imports(tree, name, file):
            own = _own(wanted)
            if own:
                todo.append((wanted, own))
            elif not _there(wanted):
                missing[wanted] = name
    print(json.dumps({"modules": sorted(seen), "missing": missing}))


def _imports(tree: ast.AST, name: str, file: Path) -> Iterator[str]:
    """Modules that a file imports anywhere; ``from a import b`` as a, and a.b where it is one."""
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".")[: None if file.name == "__init__.py" else -1]
                base = ".".join([*package[: len(package) - node.level + 1], base]).strip(".")
            yield base
            yield from (f"{base}.{a.name}" for a in node.names if _is_module(base, a.name))


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below ``if TYPE_CHECKING``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield from _running(child)


def _is_module(base: str, name: str) -> bool:
    if _own(f"{base}.{name}"):
        return True
    try:
        return not hasattr(importlib.import_module(base), name)
    except ImportError:
        return False  # the base is reported itself


def _own(module: str) -> Path | None:
    path = HERE.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        # A folder of the archive without __init__.py (functions, functions.connectors).
        return HERE.joinpath(*module.split(".")).is_dir()
    return True


if __name__ == "__main__":
    main()
