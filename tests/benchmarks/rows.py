"""One line of the table: what was required, what came out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Row:
    """A line of the table, filled check by check.

    Parameters
    ----------
    problem
        What was fitted.
    seed
        Seed of the run; ``None`` where there is none.
    seconds
        What it took; ``None`` for that of the whole process.
    """

    problem: str
    seed: int | None = None
    seconds: float | None = None
    required: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    passed: bool | None = None
    most_seconds: float | None = None
    numbers: dict[str, float] = field(default_factory=dict)

    def _check(self, name: str, value: float, text: str, met: bool, digits: str) -> "Row":
        self.required.append(text)
        self.results.append(f"{name} {value:{digits}}")
        self.passed = bool(met) and self.passed is not False
        self.numbers[name] = float(value)
        return self

    def at_most(self, name: str, value: float, limit: float, digits: str = ".3f") -> "Row":
        """Require that a number is at most a limit; NaN is not."""
        return self._check(name, value, f"{name} ≤ {limit:g}", value <= limit, digits)

    def between(
        self, name: str, value: float, low: float, high: float, digits: str = ".3f"
    ) -> "Row":
        """Require that a number is in an interval."""
        return self._check(name, value, f"{name} {low:g}–{high:g}", low <= value <= high, digits)

    def near(
        self, name: str, value: float, exact: float, limit: float, digits: str = ".3f"
    ) -> "Row":
        """Require that a number is no further from an exact one than a limit."""
        text = f"{name} {exact:{digits}} ± {limit:g}"
        return self._check(name, value, text, abs(value - exact) <= limit, digits)

    def that(self, name: str, met: bool, came_out: str) -> "Row":
        """Require something that is no number."""
        self.required.append(name)
        self.results.append(came_out)
        self.passed = bool(met) and self.passed is not False
        return self

    def within_seconds(self, limit: float) -> "Row":
        """Require that the row's seconds, or else the whole process, are at most a limit."""
        self.most_seconds = limit
        return self

    def note(self, name: str, value: float | str, digits: str = ".3f") -> "Row":
        """Report something of which nothing is required."""
        if isinstance(value, str):
            self.results.append(f"{name} {value}".strip())
        else:
            self.results.append(f"{name} {value:{digits}}")
            self.numbers[name] = float(value)
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return vars(self)


def finish(row: Mapping[str, Any], process_seconds: float) -> dict[str, Any]:
    """Fill in the seconds of the process and judge a limit on them."""
    done = dict(row)
    if done["seconds"] is None:
        done["seconds"] = process_seconds
    limit = done.pop("most_seconds")
    if limit is not None:
        done["required"] = [*done["required"], f"{limit:g} s"]
        done["passed"] = done["passed"] is not False and done["seconds"] <= limit
    return done


def worst(violation: Any) -> float:
    """Return the largest violation of a fit; NaN if one is."""
    return float(np.max(np.abs(np.asarray(violation))))
