"""How far a flow is from the optimum, by weighted draws that it was not trained on."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from numpyro_dsn.solver.aim import Aim, active, offset_move, weighted_prior
from numpyro_dsn.weighted.acceptance import accepted
from numpyro_dsn.weighted.compilation import quick_jit
from numpyro_dsn.weighted.draws import (
    Draws,
    Pool,
    divergence,
    log_weights,
    relative_variance,
    softmax,
    validation,
)
from numpyro_dsn.weighted.dual import Tilt, dual_value, excess, tilt, weighted_moments
from numpyro_dsn.weighted.targets import Targets, is_beyond, violation


class Measured(NamedTuple):
    """What is known of a flow; statistics in units about the target.

    entropy, entropy_se, kl_to_prior
        In nats, shape ``()``.
    mean, mean_se, residual
        E[T], its standard error and its distance from what was asked, shape
        ``(num_constraints,)``.
    dual_bound, gap, gap_se, ess
        Bound, distance to the optimum with its standard error, and effective draws, shape ``()``.
    acceptance
        Fraction of the flow's draws that are kept, shape ``()``.
    distance
        The gap, a standard error, and what the violation is worth, in nats, shape ``()``.
    move
        What would undo the violation if it were added to eta, shape ``(num_constraints,)``.
    """

    entropy: Array
    entropy_se: Array
    kl_to_prior: Array
    mean: Array
    mean_se: Array
    residual: Array
    dual_bound: Array
    gap: Array
    gap_se: Array
    ess: Array
    acceptance: Array
    distance: Array
    move: Array


@partial(quick_jit, static_argnames="own_draws")
def measure(
    pool: Pool, index: Array, newest: Array, aim: Aim, targets: Targets, own_draws: bool
) -> Measured:
    """Measure those draws of a flow that are kept.

    Parameters
    ----------
    pool
        The draws.
    index, newest
        Number of the flow in the pool, and of the draws that no flow was trained on.
    aim
        The tilted prior.
    targets
        Targets with their units.
    own_draws
        Whether the flow's own draws alone tell of it: in many dimensions no others do.
    """
    used, bounds, eta = validation(pool, newest), targets.bounds, aim.natural_parameters
    kept = accepted(pool, index, aim.acceptance)
    log_q, log_prior = kept.log_q, pool.draws.log_prior
    of_flow = log_weights(pool, log_q, used)
    if own_draws:
        own = (jnp.arange(pool.counts.size) == index)[:, None] & pool.draws.finite
        log_kept = jnp.where(own, log_q - pool.log_q[index], -jnp.inf)
        of_flow = jnp.where(own, pool.log_share + log_kept, -jnp.inf)
    tilted = tilt(eta, weighted_prior(pool, used))
    everywhere = tilt(eta, weighted_prior(pool))
    draws = of_flow, softmax(of_flow).reshape(-1)
    mean, mean_se, covariance = _moments(draws[1], pool, tilted, everywhere, eta)
    entropy, variance = divergence(of_flow, log_q, pool.draws.log_det)
    kl_to_prior, _ = divergence(of_flow, log_q, log_prior)
    gap, gap_se = gap_to(pool, of_flow, log_q, eta, tilted, bounds)
    gap_se = jnp.sqrt(gap_se**2 + kept.rate_variance)
    residual = violation(mean, targets)
    above = excess(aim.aimed, mean, bounds)
    return Measured(
        entropy=-entropy,
        entropy_se=jnp.sqrt(variance + kept.rate_variance),
        kl_to_prior=kl_to_prior,
        mean=mean,
        mean_se=mean_se,
        residual=residual,
        dual_bound=dual_value(eta, tilted.log_normalizer, bounds),
        gap=gap,
        gap_se=gap_se,
        ess=tilted.ess,
        acceptance=kept.rate,
        distance=gap + gap_se + jnp.abs(eta @ residual),
        move=offset_move(above, active(above, bounds), covariance),
    )


def _moments(
    weights: Array, pool: Pool, tilted: Tilt, everywhere: Tilt, eta: Array
) -> tuple[Array, Array, Array]:
    """Return mean of T under a flow, its standard error, and covariance.

    The difference to the tilted density on the same draws, whose mean all draws know better,
    has less noise where the two are close.
    """
    draws = weighted_prior(pool)
    mean, covariance = weighted_moments(weights, draws.statistics)
    direct_se = jnp.sqrt(weights**2 @ (draws.statistics - mean[None]) ** 2)
    other = jnp.exp(tilted.log_weights)
    projected = jnp.einsum("nr,nrk->nk", draws.noise @ eta, draws.noise)
    apart = weights[:, None] * (draws.statistics - mean[None])
    apart -= other[:, None] * (draws.statistics - projected - tilted.mean[None])
    known = jnp.exp(everywhere.log_weights) ** 2 @ (draws.statistics - everywhere.mean[None]) ** 2
    paired_se = jnp.sqrt(jnp.sum(apart**2, axis=0) + known)
    paired = mean - tilted.mean + everywhere.mean
    is_better = paired_se < direct_se
    return jnp.where(is_better, paired, mean), jnp.minimum(paired_se, direct_se), covariance


def gap_to(
    pool: Pool, of_flow: Array, log_q: Array, eta: Array, tilted: Tilt, bounds: tuple[Array, Array]
) -> tuple[Array, Array]:
    r"""Return the distance of a fit to the tilted density, and its standard error, in nats.

    .. math:: KL(q \,\|\, p_\eta) = \left[ g(\eta) + KL(q \,\|\, p) \right]
              - \eta^\top (E_q[T] - \mu)

    The bracket is the distance to the dual bound. Where a constraint is violated it can be small,
    or negative, for a poor fit; the divergence cannot. An inequality that is met further than its
    bound, although eta is not zero, costs entropy: there the last term is left out.

    Parameters
    ----------
    pool
        Draws of the prior and of flows.
    of_flow
        Log weights that turn them into draws of the fit, of the shape of the draws.
    log_q
        Log density of the fit at every draw, of the same shape.
    eta
        Natural parameters in the pool's units, shape ``(num_constraints,)``.
    tilted
        The tilted density on these draws.
    bounds
        Bounds on E[T] in the pool's units.
    """
    statistics = pool.draws.statistics
    mean = jnp.einsum("kn,knj->j", softmax(of_flow), statistics)
    above = excess(eta, mean, bounds)
    is_inside = (bounds[0] < bounds[1]) & (eta * above > 0)
    bound = jnp.where(is_inside, mean - above, 0.0)
    slack = (statistics - bound[None, None]) @ jnp.where(is_inside, eta, 0.0)
    # T enters linearly, so the noise of a stochastic simulator needs no correction here.
    log_target = pool.draws.log_prior + statistics @ eta - tilted.log_normalizer
    gap, variance = divergence(of_flow, log_q, log_target - slack)
    # The two estimates share draws; their errors are added as if they did not.
    log_tilted = tilted.log_weights.reshape(pool.log_share.shape)
    return gap, jnp.sqrt(variance + relative_variance(pool, log_tilted))


class Strays(NamedTuple):
    """Fractions of draws that are astray.

    failed, beyond
        At which each statistic fails, or is bounded, each of shape ``(num_constraints,)``.
    nonfinite
        At which any statistic fails, shape ``()``.
    """

    failed: Array
    beyond: Array
    nonfinite: Array


@quick_jit
def count_strays(raw: Draws, targets: Targets) -> Strays:
    """Return what share of draws the circuit does not run at, or is far from the target.

    Parameters
    ----------
    raw
        Draws with T as the circuit gives it.
    targets
        Targets with their units.
    """
    failed = ~jnp.isfinite(raw.statistics)
    beyond = is_beyond(raw, targets) & ~failed
    dtype = raw.log_prior.dtype
    return Strays(
        failed.mean(0, dtype=dtype), beyond.mean(0, dtype=dtype), (~raw.finite).mean(dtype=dtype)
    )
