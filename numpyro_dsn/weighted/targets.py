"""What is asked of the means of statistics, in the units of what was asked."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.weighted.draws import Draws

NORMAL_RANGE = 3.29
"""Standard deviations between the 5 % and the 95 % quantile of a normal distribution."""


class Targets(NamedTuple):
    """Bounds on E[T] and the units of each, all of shape ``(num_constraints,)``.

    lower, upper
        Bounds on E[T]; equal for equalities.
    origin
        The finite one of the bounds, about which T is kept.
    unit
        Unit of T: what was asked of its spread, or the spread over the prior if nothing was.
    limit
        Units from the origin at which T is bounded.
    """

    lower: Array
    upper: Array
    origin: Array
    unit: Array
    limit: Array

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Bounds on E[T] about the origin, in units."""
        return (self.lower - self.origin) / self.unit, (self.upper - self.origin) / self.unit


def measure_units(
    lower: np.ndarray, upper: np.ndarray, asked: np.ndarray, draws: Draws, max_units: float
) -> Targets:
    """Return targets with their units.

    Parameters
    ----------
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    asked
        Unit of each entry of T, NaN where no spread was asked.
    draws
        Draws of the prior with T as the circuit gives it.
    max_units
        Units from the target at which T is bounded. At the optimum nothing is further out where a
        spread was asked.
    """
    dtype = np.asarray(lower).dtype
    statistics = np.asarray(draws.statistics, float)[np.asarray(draws.finite)]
    origin = np.where(np.isfinite(lower), lower, upper)
    if len(statistics) == 0:
        statistics = origin[None]
    low, median, high = np.quantile(statistics, [0.05, 0.5, 0.95], axis=0)
    spread = (high - low) / NORMAL_RANGE
    # What hardly ever varies still does so by something; what never does, by its distance.
    for fallback in (np.ptp(statistics, axis=0), np.abs(median - origin), np.ones_like(spread)):
        spread = np.where(spread > 0, spread, fallback)
    is_free = np.isnan(asked)
    unit = np.where(is_free, spread, asked)
    limit = max_units * np.where(is_free, 1 + np.abs(origin - median) / unit, 1.0)
    return Targets(*(jnp.asarray(leaf, dtype) for leaf in (lower, upper, origin, unit, limit)))


def in_units(draws: Draws, targets: Targets) -> Draws:
    """Return draws whose statistics are in units about the target, and bounded.

    All statistics of a draw are scaled down together. Bounded apart, a mean and a second moment
    that are both far out could outweigh each other, and what blows up would have a density.
    """
    scaled = (draws.statistics - targets.origin[None]) / targets.unit[None]
    excess = jnp.max(jnp.abs(scaled) / targets.limit[None], axis=-1, keepdims=True)
    return draws._replace(
        statistics=jnp.where(draws.finite[:, None], scaled / jnp.maximum(excess, 1.0), 0.0),
        noise=draws.noise / targets.unit[None, None],
    )


def is_beyond(draws: Draws, targets: Targets) -> Array:
    """Return which statistics are bounded, shape ``(num_draws, num_constraints)``."""
    scaled = (draws.statistics - targets.origin[None]) / targets.unit[None]
    return jnp.abs(scaled) > targets.limit[None]


def violation(mean: Array, targets: Targets) -> Array:
    """Return the signed distance of means, in units, from the interval that was asked."""
    lower, upper = targets.bounds
    return mean - jnp.clip(mean, lower, upper)
