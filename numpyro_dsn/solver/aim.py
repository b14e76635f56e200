"""What an epoch of the dual Newton method aims at: the tilted prior, and an offset beside it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_dsn.solver.training import WeightedTarget
from numpyro_dsn.weighted.acceptance import Acceptance, accept, aimed_exponent
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import Pool, log_weights, softmax, training
from numpyro_dsn.weighted.dual import (
    Bounds,
    Weighted,
    exponent,
    of_allowed_sign,
    solve_dual,
    tilt,
)
from numpyro_dsn.weighted.own_draws import OwnDraws, Pace, kept_fraction, log_level, step
from numpyro_dsn.weighted.targets import Targets

NUM_SETTLING = 20
"""Steps on the dual after an epoch, of half a nat at the most, on draws that stay the same."""


class Aim(NamedTuple):
    """What the flow is to become.

    natural_parameters
        eta in the units of the targets, shape ``(num_constraints,)``.
    solved
        Whether eta minimizes the dual on all draws, shape ``()``.
    log_normalizer
        That of the tilted prior, shape ``()``.
    acceptance
        What the flow is fitted to, eta and the offset, and which of its draws are kept.
    """

    natural_parameters: Array
    solved: Array
    log_normalizer: Array
    acceptance: Acceptance

    @property
    def aimed(self) -> Array:
        """Eta and the offset."""
        return self.acceptance.aimed


class Limits(NamedTuple):
    """How far an epoch goes.

    min_ess
        Smallest effective sample size of the tilted draws.
    envelope
        How many times its own density a flow may have after draws are rejected; zero to keep all.
    goes_on
        Whether eta stays what the flow's own draws made it until weights know the solution.
    """

    min_ess: float
    envelope: float
    goes_on: bool = False


def weighted_prior(pool: Pool, used: Array | None = None) -> Weighted:
    """Return the draws of a pool with the weights that turn them into those of the prior."""
    log_base = log_weights(pool, pool.draws.log_prior, used).reshape(-1)
    num_constraints = pool.draws.statistics.shape[-1]
    statistics = pool.draws.statistics.reshape(-1, num_constraints)
    noise = pool.draws.noise.reshape(log_base.size, -1, num_constraints)
    return Weighted(log_base, statistics, noise)


@partial(quick_jit, static_argnames="limits")
def solve(
    pool: Pool,
    start: Array,
    offset: Array,
    targets: Targets,
    limits: Limits,
) -> Aim:
    """Solve the dual on all draws as far as they can be trusted, and add the offset.

    Parameters
    ----------
    pool
        The draws.
    start
        eta of the last epoch.
    offset
        What is added to eta to undo the flow's own error.
    targets
        Targets with their units.
    limits
        How far to go, and whether draws are rejected.
    """
    draws, bounds = weighted_prior(pool), targets.bounds
    eta, solved = solve_dual(start, draws, bounds, limits.min_ess)
    aimed = of_allowed_sign(eta + offset, bounds)
    if limits.goes_on:
        aimed = jnp.where(solved, aimed, start + offset)
        eta = jnp.where(solved, eta, aimed)
    log_normalizer = tilt(eta, draws).log_normalizer
    kept = accept(eta, aimed, draws, limits.envelope)
    return Aim(eta, solved, log_normalizer, kept)


@partial(quick_jit, static_argnames="envelope")
def settle(pool: Pool, index: Array, aim: Aim, targets: Targets, envelope: float) -> Aim:
    """Move what is aimed at until the draws of a flow that are kept meet the constraints.

    Where the simulator is too noisy to tell which draws to keep, all are, and nothing moves. The
    violation of these draws is then zero, and that of others as large as the standard error.

    Parameters
    ----------
    pool
        The draws.
    index
        Number of the flow in the pool, shape ``()``.
    aim
        What the flow was fitted to.
    targets
        Targets with their units.
    envelope
        One draw of so many is kept.
    """
    block = jax.tree.map(lambda leaf: leaf[index], pool.draws)
    log_ratio = jnp.where(block.finite, block.log_prior - pool.log_q[index, index], -jnp.inf)
    draws = OwnDraws(log_ratio, block.statistics, block.noise, block.statistics)
    error = jnp.sum((block.noise @ aim.aimed) ** 2, -1)
    fraction = kept_fraction(error, envelope)
    pace = Pace(fraction, 0.5, 1.0)

    def move(_: int, eta: Array) -> Array:
        return jnp.where(fraction < 1, step(eta, draws, targets.bounds, pace), eta)

    eta = jax.lax.fori_loop(0, NUM_SETTLING, move, aim.aimed)
    level = log_level(log_ratio + exponent(eta, block.statistics, block.noise), fraction)
    kept = Acceptance(eta, eta, jnp.zeros_like(level), level)
    return aim._replace(
        natural_parameters=jnp.where(aim.solved, aim.natural_parameters, eta), acceptance=kept
    )


@quick_jit
def weighted_target(pool: Pool, aim: Aim, last: Array) -> WeightedTarget:
    """Return what a flow is fitted to, as arrays alone.

    Parameters
    ----------
    pool
        The draws.
    aim
        The tilted prior, and what is aimed at beside it.
    last
        Number of the last flow in the pool, shape ``()``.
    """
    shape = pool.log_share.shape
    draws = weighted_prior(pool)
    exponents = aimed_exponent(aim.acceptance, draws.statistics, draws.noise).reshape(shape)
    log_tilted = log_weights(pool, pool.draws.log_prior) + exponents
    log_target = pool.draws.log_prior + exponents - logsumexp(log_tilted)
    usable = pool.draws.finite & (pool.counts > 0)[:, None]
    log_target = jnp.where(usable, log_target, -jnp.inf)
    # Draws at which the circuit failed have no mass in the target, but the flow's are to be known.
    simulated = pool._replace(draws=pool.draws._replace(finite=jnp.ones(shape, bool)))
    log_last = pool.log_q[last]
    of_last = log_weights(simulated, log_last)
    frequency = mismatch_frequency(softmax(of_last), log_last - log_target)

    def cumulative(log_weights: Array, used: Array) -> Array:
        return jnp.cumsum(softmax(jnp.where(used, log_weights, -jnp.inf)).reshape(-1))

    trained, taken = training(pool), of_last + jnp.log(frequency)
    return WeightedTarget(
        flat=pool.draws.flat.reshape(-1, pool.draws.flat.shape[-1]),
        log_target=log_target.reshape(-1),
        log_last=log_last.reshape(-1),
        frequency=frequency.reshape(-1),
        cumulative_target=cumulative(log_tilted, trained),
        cumulative_last=cumulative(taken, trained),
        held_out_target=cumulative(log_tilted, ~trained),
        held_out_last=cumulative(taken, ~trained),
    )


def mismatch_frequency(weights: Array, log_ratio: Array) -> Array:
    r"""Return how much more often than its weight says each draw should be taken.

    .. math:: a_i = \frac{r_i}{\sum_j w_j r_j}, \qquad r_i = |\log q_i - \log p_i|

    with r between 0.3 and 30. Draws where flow and target disagree are rare and matter most; draws
    taken in proportion to :math:`w_i a_i`, weighted by :math:`1 / a_i`, have the same means.

    Parameters
    ----------
    weights
        Weights of the draws, which sum to one.
    log_ratio
        Log ratio of flow and target at the draws, of the same shape.
    """
    ratio = jnp.clip(jnp.nan_to_num(jnp.abs(log_ratio), nan=0.0), 0.3, 30.0)
    return ratio / jnp.sum(weights * ratio)


def offset_move(residual: Array, is_active: Array, covariance: Array) -> Array:
    r"""Return the move of eta that would undo a violation, as far as it can be trusted.

    .. math:: -\sum_i \frac{v_i}{\sqrt{\lambda_i}} \operatorname{clip}
              \left( \frac{v_i^\top r}{\sqrt{\lambda_i}}, -0.3, 0.3 \right)

    Statistics that are nearly redundant have combinations of hardly any variance. A flow that
    cannot represent those violates them by many standard deviations, and would be sent far away.

    Parameters
    ----------
    residual
        r, shape ``(num_constraints,)``.
    is_active
        What is to be moved, of the same shape; the move of the others is zero.
    covariance
        That of T, with eigenvalues :math:`\lambda_i` and eigenvectors :math:`v_i` of its
        correlations, shape ``(num_constraints, num_constraints)``.
    """
    scale = jnp.sqrt(jnp.diag(covariance) + 1e-12)
    correlation = covariance / scale[:, None] / scale[None, :]
    alone = jnp.eye(residual.size)
    correlation = jnp.where(is_active[:, None] & is_active[None, :], correlation, alone)
    values, vectors = jnp.linalg.eigh(correlation)
    values = jnp.sqrt(jnp.maximum(values, 1e-6))
    residual = jnp.where(is_active, residual / scale, 0.0)
    whitened = jnp.clip(vectors.T @ residual / values, -0.3, 0.3)
    return jnp.where(is_active, -(vectors @ (whitened / values)) / scale, 0.0)


def active(above: Array, bounds: Bounds) -> Array:
    """Return which constraints hold their mean: equalities, and inequalities off their bound."""
    return (above != 0) | (bounds[0] == bounds[1])
