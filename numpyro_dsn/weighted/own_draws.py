"""Natural parameters from a flow's own draws, where no weights know the tilted density yet."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_dsn.weighted.dual import Bounds, damped_newton_step, exponent, weighted_moments

MAX_NOISE = 0.1
"""Squared error of the exponent, in squared nats, with which draws can still be rejected: what is
kept is denser where errors are larger, by a half of their square."""

NUM_BISECTIONS = 40
"""Halvings of the interval that holds the level below which draws are rejected."""


class OwnDraws(NamedTuple):
    """Draws of a flow, each field with a leading axis ``num_draws``.

    log_ratio
        Log density of the prior over that of the flow, shape ``(num_draws,)``; minus infinity
        where the circuit failed.
    statistics, noise
        T and a factor of the covariance of its error, as in
        :class:`~numpyro_dsn.weighted.dual.Weighted`, by which draws are kept.
    again
        T of another run, which their being kept does not depend on; ``statistics`` if the
        simulator has no noise.
    """

    log_ratio: Array
    statistics: Array
    noise: Array
    again: Array


class Pace(NamedTuple):
    """How far natural parameters move.

    fraction
        Fraction of the draws that is kept, one to keep all, shape ``()``.
    max_nats, rate
        Largest divergence that a step crosses, and the fraction of a step that is taken.
    """

    fraction: Array
    max_nats: float
    rate: float


def kept_fraction(error: Array, envelope: float) -> Array:
    """Return which fraction of the draws is kept: all if the simulator is too noisy to tell.

    Parameters
    ----------
    error
        Squared error of the exponent at every draw, shape ``(num_draws,)``.
    envelope
        One draw of so many is kept if the simulator can tell.
    """
    can_tell = jnp.median(error) <= MAX_NOISE
    return jnp.where(can_tell, 1 / envelope, 1.0).astype(error.dtype)


def log_level(log_ratio: Array, fraction: Array) -> Array:
    r"""Return the level at which a given fraction of the draws is kept.

    .. math:: \frac{1}{n} \sum_i \min(1, e^{r_i - l}) = f

    Parameters
    ----------
    log_ratio
        r, log density of the target over that of the flow, minus infinity where there is none.
    fraction
        f; minus infinity is returned for one.
    """
    usable = jnp.isfinite(log_ratio)
    low = jnp.min(jnp.where(usable, log_ratio, jnp.inf))
    high = jnp.max(jnp.where(usable, log_ratio, -jnp.inf)) - jnp.log(fraction)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        keeps = jnp.mean(jnp.exp(jnp.minimum(log_ratio - middle, 0.0))) > fraction
        return jnp.where(keeps, middle, ends[0]), jnp.where(keeps, ends[1], middle)

    level, _ = jax.lax.fori_loop(0, NUM_BISECTIONS, halve, (low, high))
    return jnp.where(fraction < 1, level, -jnp.inf)


def kept_weights(eta: Array, draws: OwnDraws, fraction: Array) -> Array:
    """Return weights of the draws that are kept, which sum to one."""
    log_ratio = draws.log_ratio + exponent(eta, draws.statistics, draws.noise)
    log_kept = jnp.minimum(log_ratio - log_level(log_ratio, fraction), 0.0)
    log_kept = jnp.where(jnp.isfinite(log_ratio), log_kept, -jnp.inf)
    total = logsumexp(log_kept)
    return jnp.exp(log_kept - jnp.where(jnp.isfinite(total), total, 0.0))


def step(eta: Array, draws: OwnDraws, bounds: Bounds, pace: Pace) -> Array:
    """Return natural parameters after a step towards the target, on draws that are kept.

    Parameters
    ----------
    eta
        Natural parameters, shape ``(num_constraints,)``.
    draws
        Draws of a flow.
    bounds
        Bounds on E[T].
    pace
        How far to go.
    """
    moments = weighted_moments(kept_weights(eta, draws, pace.fraction), draws.again)
    new = eta + pace.rate * (damped_newton_step(eta, *moments, bounds, pace.max_nats) - eta)
    return jnp.where(jnp.all(jnp.isfinite(new)), new, eta)
