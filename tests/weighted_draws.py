"""Draws, targets and pools made by hand, for tests of functions of arrays."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from numpyro_dsn.weighted.draws import Draws, insert, log_weights, start_pool, with_densities
from numpyro_dsn.weighted.dual import Weighted, solve_dual
from numpyro_dsn.weighted.targets import Targets

NORMAL = ndtri((jnp.arange(10_000) + 0.5) / 10_000)
"""Quantiles of the standard normal, evenly weighted."""

solve_compiled = jax.jit(solve_dual)
"""One program for all problems of the same shapes."""


def draws_of(flat, statistics=None, log_prior=0.0, finite=True, noise=None):
    """Draws of latents of shape (n, D); the statistic is the latent itself if none is given."""
    size, statistics = len(flat), flat if statistics is None else statistics
    return Draws(
        flat=flat,
        statistics=statistics,
        noise=jnp.zeros((size, 0, statistics.shape[1])) if noise is None else noise,
        log_prior=jnp.broadcast_to(jnp.asarray(log_prior), (size,)),
        log_det=jnp.zeros(size),
        finite=jnp.broadcast_to(jnp.asarray(finite), (size,)),
    )


def targets_of(lower, upper=None, unit=1.0, limit=jnp.inf):
    """Targets about the origin, in units of one if no other are given."""
    lower = jnp.atleast_1d(jnp.asarray(lower, float))
    upper = lower if upper is None else jnp.atleast_1d(jnp.asarray(upper, float))
    rest = [jnp.full(lower.shape, value) for value in (0.0, unit, limit)]
    return Targets(lower, upper, *rest)


def evenly_weighted(statistics, noise=None):
    """Draws of the prior with equal weights."""
    size, num_constraints = statistics.shape
    noise = jnp.zeros((size, 0, num_constraints)) if noise is None else noise
    return Weighted(jnp.full(size, -jnp.log(size)), statistics, noise)


def pool_of(blocks, log_densities):
    """A pool of blocks of draws, each of a proposal with a log density of flat draws.

    A block that is ``None`` stays empty.
    """
    first, log_first = blocks[0], log_densities[0](blocks[0].flat)
    size, num_draws = len(blocks), len(first.flat)
    pool = start_pool(first, jnp.zeros(num_draws), log_first, jnp.asarray(float(num_draws)), size)
    empty, used = jnp.full(num_draws, -jnp.inf), [0]
    for index in range(1, size):
        if blocks[index] is None:
            continue
        pool, used = insert(pool, index, blocks[index]), [*used, index]
        flat = pool.draws.flat
        of_new = [log_densities[index](flat[k]) if k in used else empty for k in range(size)]
        at_new = [log_densities[k](flat[index]) if k in used else empty for k in range(size)]
        pool = with_densities(pool, index, jnp.stack(of_new), jnp.stack(at_new))
    return pool


def prior_of(pool, used=None):
    """The draws of a pool with the weights of the prior."""
    log_base = log_weights(pool, pool.draws.log_prior, used).reshape(-1)
    num_constraints = pool.draws.statistics.shape[-1]
    statistics = pool.draws.statistics.reshape(-1, num_constraints)
    return Weighted(
        log_base, statistics, pool.draws.noise.reshape(len(log_base), -1, num_constraints)
    )
