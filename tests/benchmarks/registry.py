"""All cases: what runs in one process, under which name, and for how long at most."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """What one fresh process does.

    Parameters
    ----------
    topic, name
        Table and name of the case; names are unique in a topic.
    function
        ``module:function`` below ``tests.benchmarks.problems``.
    arguments
        Arguments of the function.
    limit
        Seconds after which it is ended.
    alone
        Whether its seconds count: it has both cores. Others run two at a time, one core each.
    cache
        Name of a compilation cache that is emptied before the first case that names it.
    package
        ``"baseline"`` for the worktree of an older commit.
    by_default
        Whether it runs without being asked for.
    """

    topic: str
    name: str
    function: str
    arguments: tuple[Any, ...] = ()
    limit: float = 300.0
    alone: bool = True
    cache: str | None = None
    package: str = "own"
    by_default: bool = True


TITLES = {
    "readme": "The README's example",
    "lds": "Linear system",
    "closed": "Closed forms",
    "hub": "Ganglion",
    "sheet": "Thin sheet",
    "isotropic": "Many latents",
    "v1": "V1",
    "units": "Units",
    "rank2": "Rank-two network",
    "calibration": "Calibration of the certificate",
    "penalty": "Penalty method",
    "suite": "Tests",
}
"""Topics in the order of the page."""

ORACLES = {
    "hub": ["hub"],
    "lds": ["lds-paper", "lds-published"],
    "sheet": ["sheet-smooth", "sheet-rounded"],
    "v1": ["v1s", "v1v", "v1s-0.005", "v1s-0.1", "v1v-0.005", "v1v-0.1", "ssn-5", "ssn-10"],
}
"""Exact answers that a topic needs, which are computed first."""

FORMS = ["gaussian", "uniform", "exponential", "truncated exponential", "gamma", "dirichlet",
         "laplace", "log-normal", "isotropic", "double well"]  # fmt: skip
CALIBRATED = ["truncated exponential", "laplace", "double well", "gaussian"]
TARGETS = ["paper", "published"]


def _readme() -> Iterator[Case]:
    example, name = "readme:example", "cold process, empty cache"
    yield Case("readme", "cold", example, (name, 20.0))
    yield Case("readme", "baseline", example, ("33a8834, " + name, None), package="baseline")
    yield Case("readme", "fill", example, ("cold process, fills a cache", None), cache="readme")
    name = "cold process, filled cache"
    yield Case("readme", "filled", example, (name, 8.0), cache="readme")
    yield Case("readme", "another", "readme:another")


def _lds() -> Iterator[Case]:
    for target in TARGETS:
        for seed in range(3):
            yield Case("lds", f"cold-{target}-{seed}", "lds:cold", (target, seed))
    # One cold fit of 33a8834 for each target: its times hardly differ between seeds.
    for target in TARGETS:
        arguments = target, 0, "33a8834,"
        name = f"baseline-{target}"
        yield Case("lds", name, "lds:cold", arguments, 600, package="baseline")
    for target in TARGETS:
        yield Case("lds", f"seeds-{target}", "lds:seeds", (target, 20), 1200, alone=False)


def _timed() -> Iterator[Case]:
    for seed in range(2):
        yield Case("hub", f"noisy-{seed}", "hub:hub", (True, seed), 300)
    yield Case("isotropic", "100", "isotropic:isotropic", (100, 180.0), 300)


def _untimed() -> Iterator[Case]:
    """Yield what one core is enough for, long ones before short ones of a topic."""
    for name in FORMS:
        yield Case(
            "closed", name.replace(" ", "-"), "closed_forms:closed_form", (name,), 300, False
        )
    for seed in range(5):
        yield Case("hub", f"quiet-{seed}", "hub:hub", (False, seed), 200, False)
    for seed in range(3):
        for kind in ("smooth", "rounded"):
            name = f"{kind}-{seed}"
            yield Case("sheet", name, "thin_sheet:thin_sheet", (kind, seed), 420, False)
    for size in (1000, 10):
        yield Case("isotropic", str(size), "isotropic:isotropic", (size, None), 900, False)
    for size, num_epochs in ((25, 5), (5, 20)):
        arguments = size, 0, num_epochs
        yield Case("rank2", str(size), "rank_two:rank_two", arguments, 900, False)
    yield Case("units", "units", "units:units", alone=False)
    yield from _v1()
    for name in CALIBRATED:
        label = name.replace(" ", "-")
        yield Case("calibration", label, "calibration:calibration", (name,), 400, False)
    yield Case("hub", "syncing", "hub:syncing", (0,), 600, False)
    yield Case("penalty", "penalty", "penalty:penalty", alone=False)


def _v1() -> Iterator[Case]:
    for seed in range(5):
        for population in "SV":
            name, arguments = f"{population}-nan-{seed}", (population, "nan", seed)
            yield Case("v1", name, "v1:motif", arguments, 900, False)
    for target in (5.0, 10.0):
        yield Case("v1", f"noise-{target:g}", "v1:noise", (target, 0), 900, False)
    for population in "SV":
        for seed in range(2):
            name, arguments = f"{population}-huge-{seed}", (population, "huge", seed)
            yield Case("v1", name, "v1:motif", arguments, 900, False)
        for tolerance in (0.005, 0.1):
            name = f"{population}-{tolerance}"
            yield Case("v1", name, "v1:tolerance", (population, tolerance), 900, False)


def _suite() -> Iterator[Case]:
    for name, command, limit in (("test", "make test", 480.0), ("ci", ".ci/run", 1500.0)):
        yield Case("suite", name, "suite:suite", (command, limit), 2 * limit, by_default=False)


CASES = [*_readme(), *_lds(), *_timed(), *_untimed(), *_suite()]


def chosen(only: list[str]) -> list[Case]:
    """Return the cases of some topics, or of some cases written ``topic/name``; else the default.

    Raises
    ------
    SystemExit
        If a name is unknown.
    """
    names = set(TITLES) | {f"{case.topic}/{case.name}" for case in CASES}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise SystemExit(f"No benchmark is named {unknown}; there are {', '.join(TITLES)}.")
    if not only:
        return [case for case in CASES if case.by_default]
    return [c for c in CASES if c.topic in only or f"{c.topic}/{c.name}" in only]
