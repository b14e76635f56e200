"""Choosing draws by their weights: the one place where draws are resampled or subsampled."""

import jax
import jax.numpy as jnp
from jax import Array


def resample(rng_key: Array, cumulative: Array, num_draws: int) -> Array:
    """Return indices of systematically resampled draws, shape ``(num_draws,)``.

    Evenly spaced positions add less noise than independent ones.

    Parameters
    ----------
    rng_key
        Key of the choice.
    cumulative
        Cumulative sum of the weights, shape ``(num_all,)``.
    num_draws
        Number of draws to choose.
    """
    positions = (jnp.arange(num_draws) + jax.random.uniform(rng_key)) / num_draws
    chosen = jnp.searchsorted(cumulative, positions * cumulative[-1], side="right")
    return jnp.minimum(chosen, cumulative.size - 1)


def subsample(rng_key: Array, score: Array, num_kept: int) -> tuple[Array, Array]:
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

    References
    ----------
    Horvitz and Thompson (1952), *A generalization of sampling without replacement from a finite
    universe*.
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
