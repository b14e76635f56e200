"""The first sentence that applies to a fit, from the worst to the best."""

from typing import TYPE_CHECKING

import numpy as np

from numpyro_dsn.solver.history import Epoch
from numpyro_dsn.weighted.draws import Pool
from numpyro_dsn.weighted.feasibility import approaches, describe, separating_direction
from numpyro_dsn.weighted.targets import Targets

if TYPE_CHECKING:
    from numpyro_dsn.certificate.certificate import Certificate, Tolerances

MANY_UNITS = 0.1
"""A violation above this many units is named before all else."""

MAX_MISSED_MASS, MAX_BOUNDED_MASS = 0.05, 1e-3
"""Fractions of the optimum's mass that may be missed, or where a statistic may be bounded."""

UNIT = "of the unit that was asked"


def infeasible(pool: Pool, targets: Targets, labels: list[str], newest: int) -> str | None:
    """Return what no distribution over the simulated circuits can meet; ``None`` if all can.

    A fit that still comes closer with every epoch has not yet simulated the circuits that can.

    Parameters
    ----------
    pool
        Draws of the prior and of flows.
    targets
        Targets with their units.
    labels
        One label for each constraint.
    newest
        Number of the last proposal.
    """
    used = np.asarray(pool.draws.finite) & (np.asarray(pool.counts) > 0)[:, None]
    every = np.asarray(pool.draws.statistics)
    statistics = every[used]
    if not len(statistics):
        return None
    bounds = tuple(np.asarray(bound) for bound in targets.bounds)
    direction = separating_direction(statistics, *bounds)
    if direction is None:
        return None
    num_flows = len(used) - 1
    before = newest - 1 or (num_flows if num_flows > 1 and used[-1].any() else 0)
    weights = np.exp(np.asarray(pool.log_share)[before]) * used[before]
    last = every[newest][used[newest]]
    if newest > 0 and weights.any() and len(last):
        mean = weights @ every[before] / weights.sum()
        if approaches(mean, last, direction, *bounds):
            return None
    return describe(direction, labels)


def verdict(
    certificate: "Certificate",
    measured: Epoch,
    unmet: str | None,
    tolerances: "Tolerances",
    labels: list[str],
) -> str:
    """Return what may be believed of a fit, in one sentence.

    Parameters
    ----------
    certificate
        The numbers.
    measured
        Measurements of the fit.
    unmet
        What no distribution over the simulated circuits can meet.
    tolerances
        What the method asks for.
    labels
        One label for each constraint.
    """
    if unmet is not None:
        return f"Infeasible on the simulated circuits: {unmet}."
    violation = np.abs(measured.violation)
    worst, label = float(violation.max()), labels[int(violation.argmax())]
    if worst > max(MANY_UNITS, tolerances.violation):
        return f"The constraints are not met: {label} is off by {worst:.2f} {UNIT}."
    missed, error = certificate.missed_mass, certificate.missed_mass_se
    if missed - 2 * error > MAX_MISSED_MASS:
        return f"Mass is missing: the fit does not cover {missed:.0%} of the optimum."
    if certificate.bounded_mass > MAX_BOUNDED_MASS:
        return (
            f"The optimum has {certificate.bounded_mass:.1%} of its mass where a statistic is "
            "bounded, so that the natural parameters are not exact; raise `max_units` of "
            "`DualNewton`, or ask for a larger spread."
        )
    return _distance(certificate, tolerances, worst, label)


def _distance(
    certificate: "Certificate", tolerances: "Tolerances", worst: float, label: str
) -> str:
    """Return how far a fit that meets its constraints is from maximum entropy."""
    gap, error, missed = certificate.gap, certificate.gap_se, certificate.missed_mass
    strays = ""
    if certificate.stray_gap > 0.3 * gap:
        strays = (
            f", of which {certificate.stray_gap:.2f} nats are {certificate.stray_fraction:.2%} of "
            "the draws"
        )
    if gap - 2 * error > tolerances.gap:
        return f"Not at maximum entropy: {gap:.2f} nats from it{strays}."
    if not error < tolerances.gap:
        return "Cannot tell: too few draws know the optimum."
    if gap > tolerances.gap:
        return (
            f"Perhaps not at maximum entropy: {gap:.2f} nats from it{strays}, with a standard "
            f"error of {error:.2f}."
        )
    close = f"Close to maximum entropy: within {max(gap, 0.0):.3f} nats of it"
    if worst > tolerances.violation:
        close = f"{close}, but {label} is off by {worst:.2f} {UNIT}"
    if np.isnan(missed):
        return f"{close}; whether a mode was missed cannot be told from draws of the prior."
    return f"{close}, and covers all but {missed:.1%} of the optimum's mass."
