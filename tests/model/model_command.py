"""What the models' command lines share: --without RULE, --variants, the table of all scenarios."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

NONE_FOUND = ["NO COUNTEREXAMPLE"]


def variants(
    doc: str | None, rules: Any, names: Iterable[str], counterexample: Callable[[Any], list[str]]
) -> int | None:
    """Print what breaks without a rule, as the arguments ask; the exit code. None: check all rules.

    ``rules``: the class of the model's rules. ``counterexample``: its steps, or NONE_FOUND.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names_of_all = [each.name for each in dataclasses.fields(rules)]
    parser.add_argument("--without", metavar="RULE", choices=names_of_all)
    parser.add_argument("--variants", action="store_true")
    options = parser.parse_args()
    if not (options.without or options.variants):
        return None
    missed = 0
    for name in [options.without] if options.without else names:
        lines = counterexample(dataclasses.replace(rules(), **{name: False}))
        missed += lines == NONE_FOUND
        print(f"without {name}: " + "\n".join(lines), end="\n\n", flush=True)
    return 1 if missed else 0


def table(explored: Iterable[tuple[str, Any, Any]], width: int) -> int:
    """Print (name, model, what was found) of each scenario; 0 if all hold, else 1."""
    good, total = True, 0
    print(f"{'scenario':{width}}{'states':>8}{'steps':>8}{'ends':>6}{'s':>6}  result")
    for name, model, found in explored:
        total += found.states
        good &= not found.violation
        print(
            f"{name:{width}}{found.states:8}{found.steps:8}{found.ends:6}{found.seconds:6.1f}  "
            f"{'BROKEN' if found.violation else 'holds'}",
            flush=True,
        )
        if found.violation:
            print("\n".join(model.history(found)))
    print(f"{'together':{width}}{total:8}")
    return 0 if good else 1
