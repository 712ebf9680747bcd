"""What was measured, as data: rows of (figure, value, aim), and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be: ``at_least`` or ``at_most`` this."""

    how: Literal["at_least", "at_most"]
    value: float

    def reached(self, value: float) -> bool:
        return value >= self.value if self.how == "at_least" else value <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.how == 'at_least' else '<='} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. ``name``: what; ``unit``: of the value; ``note``: how to read it."""

    name: str
    value: float
    unit: str = ""
    aim: Aim | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"name": self.name, "value": self.value, "unit": self.unit}
        if self.aim is not None:
            document["aim"] = {self.aim.how: self.aim.value}
            document["reached"] = self.aim.reached(self.value)
        return document | ({"note": self.note} if self.note else {})


@dataclass(slots=True)
class Section:
    """Figures that belong together, under one title."""

    title: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self, name: str, value: float, unit: str = "", aim: Aim | None = None, note: str = ""
    ) -> None:
        self.figures.append(Figure(name, round(value, 3), unit, aim, note))

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "figures": [figure.as_json() for figure in self.figures]}

    def as_markdown(self) -> str:
        """A table; aims that were not reached are in bold."""
        lines = [f"**{self.title}**", "", "| figure | measured | aim | |", "|---|---|---|---|"]
        for figure in self.figures:
            missed = figure.aim is not None and not figure.aim.reached(figure.value)
            value = f"{_rounded(figure.value)} {figure.unit}".strip()
            shown = f"**{value}**" if missed else value
            lines.append(f"| {figure.name} | {shown} | {figure.aim or ''} | {figure.note} |")
        return "\n".join(lines)

    def show(self, console: Console) -> None:
        table = Table(title=self.title, title_justify="left", box=None, header_style="bold")
        table.add_column("figure", min_width=34)
        table.add_column("measured", justify="right")
        table.add_column("")
        table.add_column("aim", justify="right")
        table.add_column("")
        for figure in self.figures:
            style, aim = "", ""
            if figure.aim is not None:
                style = "green" if figure.aim.reached(figure.value) else "red"
                aim = str(figure.aim)
            value = _rounded(figure.value)
            value = f"[{style}]{value}[/]" if style else value
            table.add_row(figure.name, value, figure.unit, aim, f"[bright_black]{figure.note}[/]")
        console.print(table)
        console.print()


def _rounded(value: float) -> str:
    """Three digits: what follows them is noise."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 3 if value < 1 else 2
    return f"{round(value, decimals):g}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
