"""Draws of the prior, as many as it takes to know the tilted density."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_dsn.dual import solve_dual, tilt
from numpyro_dsn.pool import Draws

ENOUGH = 0.1
"""Effective draws of the tilted density to look for, as a share of the draws that are kept."""


class PriorDraws(NamedTuple):
    """Draws of the prior, perhaps thinned.

    draws
        The draws that are kept.
    log_share
        Log of the number of draws that each one stands for, shape ``(num_kept,)``.
    num_simulated, num_nonfinite
        Number of all draws, and of those whose statistics were not finite, each of shape ``()``.
    """

    draws: Draws
    log_share: Array
    num_simulated: Array
    num_nonfinite: Array


def gather(
    rng_key: Array,
    simulate: Callable[[Array], Draws],
    max_simulations: int,
    lower: Array,
    upper: Array,
    min_ess: float,
) -> PriorDraws:
    r"""Simulate the prior until the tilted density is known, and keep the draws that matter.

    .. math:: \pi_i = \min\left(1, \tfrac{c}{2} (w_i + p_i)\right), \qquad \sum_i \pi_i = n

    Of a rare property, few draws of the prior have any weight w under the tilted density. Draws
    are simulated n at a time and thinned to n: each is kept with probability :math:`\pi_i`, p
    being its weight under the prior, and from then on stands for :math:`1 / \pi_i` draws, so that
    weighted sums have the means that they had.

    Parameters
    ----------
    rng_key
        Key of all draws.
    simulate
        Function of a key that returns n draws of the prior.
    max_simulations
        Largest number of simulations; the first n draws are simulated in any case.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    min_ess
        Smallest effective sample size of the trust region. The search ends with as many at the
        least, or with the share :data:`ENOUGH` of n.

    References
    ----------
    Horvitz and Thompson (1952), *A generalization of sampling without replacement from a finite
    universe*, for the weights.
    """
    shapes = jax.eval_shape(simulate, rng_key)
    num_draws, num_replicates, _ = shapes.noise.shape
    origin = jnp.where(jnp.isfinite(lower), lower, upper)

    def proceeds(carry: tuple) -> Array:
        _, kept, _, done = carry
        spent = (kept.num_simulated + num_draws) * num_replicates
        return (kept.num_simulated == 0) | (~done & (spent <= max_simulations))

    def step(carry: tuple) -> tuple:
        index, kept, start, _ = carry
        draw_key, thin_key = jax.random.split(jax.random.fold_in(rng_key, index))
        new = simulate(draw_key)
        both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), new, kept.draws)
        log_share = jnp.concatenate([jnp.zeros(num_draws), kept.log_share])
        log_base = jnp.where(both.finite, log_share, -jnp.inf)
        hopeless = ~jnp.any(both.finite)
        log_base -= jnp.where(hopeless, 0.0, logsumexp(log_base))

        scale = spread(both.statistics, jnp.exp(log_base))
        statistics = (both.statistics - origin[None]) / scale[None]
        weighted = log_base, statistics, both.noise / scale[None, None]
        bounds = (lower - origin) / scale, (upper - origin) / scale
        eta, solved = solve_dual(start * scale, *weighted, *bounds, min_ess)
        tilted = tilt(eta, *weighted)

        weights = jnp.where(hopeless, 0.0, jnp.exp(tilted.log_weights))
        chosen, chance = thin(thin_key, 0.5 * (weights + jnp.exp(log_base)), num_draws)
        kept = PriorDraws(
            draws=jax.tree.map(lambda leaf: leaf[chosen], both),
            log_share=log_share[chosen] - jnp.log(chance),
            num_simulated=kept.num_simulated + num_draws,
            num_nonfinite=kept.num_nonfinite + (~new.finite).sum(),
        )
        done = hopeless | (solved & (tilted.ess >= max(min_ess, ENOUGH * num_draws)))
        return index + 1, kept, eta / scale, done

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    kept = PriorDraws(nothing, jnp.zeros(num_draws), jnp.zeros(()), jnp.zeros((), int))
    start = 0, kept, jnp.zeros_like(lower), jnp.zeros((), bool)
    return jax.lax.while_loop(proceeds, step, start)[1]


def unthinned(draws: Draws) -> PriorDraws:
    """Return draws that stand for themselves alone."""
    size = draws.finite.shape[0]
    return PriorDraws(draws, jnp.zeros(size), jnp.asarray(size, float), (~draws.finite).sum())


def spread(statistics: Array, weights: Array) -> Array:
    """Return the standard deviation of every statistic, one where it does not vary.

    Parameters
    ----------
    statistics
        T, shape ``(num_draws, num_constraints)``.
    weights
        Weights that sum to one, shape ``(num_draws,)``.
    """
    mean = weights @ statistics
    scale = jnp.sqrt(weights @ (statistics - mean[None]) ** 2)
    return jnp.where(scale > 0, scale, 1.0)


def thin(rng_key: Array, score: Array, num_kept: int) -> tuple[Array, Array]:
    r"""Choose draws without replacement, in proportion to their score where this is possible.

    .. math:: \pi_i = \min(1, c s_i), \qquad \sum_i \pi_i = \text{num\_kept}

    Draws without a score only fill up where fewer than ``num_kept`` have one.

    Parameters
    ----------
    rng_key
        Key of the choice.
    score
        s, not negative, shape ``(num_draws,)``.
    num_kept
        Number of draws to choose.

    Returns
    -------
    Indices of the chosen draws and the chance that each had, each of shape ``(num_kept,)``.
    """
    order = jnp.argsort(-score)
    descending = score[order]
    rest = jnp.cumsum(descending[::-1])[::-1]
    # With the k largest certain, the others share what is left; the first k that is possible is c.
    left = num_kept - jnp.arange(score.size)
    possible = (left > 0) & (left * descending <= rest)
    first = jnp.argmax(possible)
    factor = left[first] / jnp.maximum(rest[first], jnp.finfo(score.dtype).tiny)
    certain = ~jnp.any(possible) | (jnp.arange(score.size) < first)
    chance = jnp.where(certain, 1.0, jnp.minimum(factor * descending, 1.0))
    chance = jnp.where(descending > 0, chance, 0.0)
    # In this order those without a score come last, and only when the others are all certain.
    num_scored = jnp.sum(descending > 0)
    position = jax.random.uniform(rng_key) + jnp.arange(num_kept)
    drawn = jnp.searchsorted(jnp.cumsum(chance), position, side="right")
    drawn = jnp.minimum(drawn, num_scored - 1)
    chosen = jnp.where(num_scored <= num_kept, jnp.arange(num_kept), drawn)
    return order[chosen], jnp.where(chance[chosen] > 0, chance[chosen], 1.0)
