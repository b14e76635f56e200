"""Every circuit simulated so far, reweighted: adaptive multiple importance sampling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_dsn.weighted.compilation import quick_jit

Values = Array | np.ndarray

HELD_OUT = 4
"""One draw in this many is kept from training."""


class Draws(NamedTuple):
    r"""Simulated draws, each field with a leading axis ``num_draws``.

    flat
        Latents in unconstrained space, shape ``(num_draws, D)``.
    statistics
        T, a mean over replicates if the simulator is stochastic, shape
        ``(num_draws, num_constraints)``; zero where it was not finite.
    noise
        Factor N of the covariance :math:`N^\top N` of this mean's error, shape
        ``(num_draws, num_replicates, num_constraints)``; no replicates without noise.
    log_prior
        Log density of the prior in unconstrained space, shape ``(num_draws,)``.
    log_det
        Log of the volume on the constrained space per unconstrained volume, of the same shape.
    finite
        Whether T was finite, of the same shape.
    """

    flat: Array
    statistics: Array
    noise: Array
    log_prior: Array
    log_det: Array
    finite: Array


class Pool(NamedTuple):
    r"""Draws of several proposals, weighted by their mixture.

    .. math:: w_i \propto \frac{p(u_i)}{\sum_k n_k q_k(u_i)}

    Proposal 0 is the prior, or the start if the prior cannot be sampled; the others are the flows
    of the last epochs. Each has a block of as many draws; leading axes are
    ``(num_proposals, num_draws)``.

    draws
        The draws; T in units of what was asked, bounded, about the target.
    log_share
        Log of the number of draws that each one stands for: zero but where draws of the prior
        were subsampled.
    log_q
        Log density of every proposal at every draw, shape
        ``(num_proposals, num_proposals, num_draws)``.
    counts
        Number of draws of every proposal before any were subsampled, zero if its block is empty,
        shape ``(num_proposals,)``.
    """

    draws: Draws
    log_share: Array
    log_q: Array
    counts: Array


def start_pool(first: Draws, log_share: Array, log_first: Array, count: Array, size: int) -> Pool:
    """Return a pool that holds the draws of proposal 0.

    Parameters
    ----------
    first
        Draws of proposal 0.
    log_share
        Log of the number of draws that each one stands for, shape ``(num_draws,)``.
    log_first
        Log density of proposal 0 at its draws, shape ``(num_draws,)``.
    count
        Number of draws before any were subsampled.
    size
        Number of proposals that the pool has room for.
    """

    def block(leaf: Array) -> Array:
        return jnp.zeros((size, *leaf.shape), leaf.dtype).at[0].set(leaf)

    log_q = jnp.full((size, size, log_first.size), -jnp.inf, log_first.dtype)
    return Pool(
        draws=jax.tree.map(block, first),
        log_share=block(log_share),
        log_q=log_q.at[0, 0].set(log_first),
        counts=jnp.zeros(size, log_first.dtype).at[0].set(count),
    )


@quick_jit
def insert(pool: Pool, index: int, draws: Draws) -> Pool:
    """Put draws of a flow in the place of the proposal of this index."""
    return pool._replace(
        draws=jax.tree.map(lambda leaf, new: leaf.at[index].set(new), pool.draws, draws),
        log_share=pool.log_share.at[index].set(0.0),
        counts=pool.counts.at[index].set(draws.finite.size),
    )


@quick_jit
def with_densities(pool: Pool, index: int, of_new: Values, at_new: Values) -> Pool:
    """Return the pool with the densities of a flow, and of all proposals at its draws.

    Parameters
    ----------
    pool
        The pool with the flow's draws.
    index
        Number of the proposal.
    of_new
        Log density of the flow at all draws, shape ``(num_proposals, num_draws)``; minus infinity
        in blocks that are empty.
    at_new
        Log density of all proposals at its draws, of the same shape.
    """
    return pool._replace(log_q=pool.log_q.at[index].set(of_new).at[:, index].set(at_new))


def is_held_out(num_draws: int) -> np.ndarray:
    """Return which draws of a block are kept from training, shape ``(num_draws,)``."""
    return np.arange(num_draws) % HELD_OUT == 0


def training(pool: Pool) -> Array:
    """Return which draws flows are trained on, shape ``(num_proposals, num_draws)``."""
    return jnp.broadcast_to(~is_held_out(pool.log_share.shape[1])[None], pool.log_share.shape)


def validation(pool: Pool, newest: Array) -> Array:
    """Return which draws no flow was trained on, shape ``(num_proposals, num_draws)``.

    A flow's density is too high at draws that it was trained on, and so would be the weights that
    measure it there.

    Parameters
    ----------
    pool
        The pool.
    newest
        Number of the proposal whose draws no flow was trained on yet, shape ``()``.
    """
    is_newest = jnp.arange(pool.counts.size) == newest
    return ~training(pool) | is_newest[:, None]


def log_weights(pool: Pool, log_density: Array, used: Array | None = None) -> Array:
    """Return log weights that turn the pool into draws of a density, of the shape of the draws.

    Their exponentials sum to the density's integral, up to Monte Carlo error. Draws whose
    statistics were not finite have no weight.

    Parameters
    ----------
    pool
        The pool.
    log_density
        Log density at every draw in unconstrained space, shape ``(num_proposals, num_draws)``.
    used
        Which draws count, of the same shape; all by default.
    """
    usable = pool.draws.finite & (pool.counts > 0)[:, None]
    counts = pool.counts
    if used is not None:
        usable &= used
        counts = counts * used.mean(1, dtype=counts.dtype)
    mixture = logsumexp(pool.log_q + jnp.log(counts)[:, None, None], axis=0)
    safe = jnp.where(usable, mixture, 0.0)
    return jnp.where(usable, log_density - safe + pool.log_share, -jnp.inf)


def divergence(log_weights: Array, log_q: Array, log_p: Array) -> tuple[Array, Array]:
    r"""Estimate a KL divergence on weighted draws.

    .. math:: KL(q \,\|\, p) = E_q[\log q - \log p]

    Parameters
    ----------
    log_weights
        Log weights that turn the draws into those of q, up to a constant.
    log_q, log_p
        Log densities at every draw in unconstrained space, of the same shape.

    Returns
    -------
    The divergence in nats and the square of its standard error, each of shape ``()``.
    """
    weights = softmax(log_weights)
    ratio = jnp.where(weights > 0, log_q - log_p, 0.0)
    value = jnp.sum(weights * ratio)
    return value, jnp.sum(weights**2 * (ratio - value) ** 2)


def softmax(log_weights: Array) -> Array:
    """Return weights that sum to one over all axes."""
    return jnp.exp(log_weights - logsumexp(log_weights))


def relative_variance(pool: Pool, log_weights: Array) -> Array:
    r"""Return the squared relative standard error of the sum of weights, shape ``()``.

    .. math:: \sum_k \left[ \sum_{i \in k} w_i^2
              - \frac{1}{n_k} \Bigl( \sum_{i \in k} w_i \Bigr)^2 \right]

    The number of draws of each proposal k is fixed, so that equal weights have no error.

    Parameters
    ----------
    pool
        The pool.
    log_weights
        Log weights of the draws that count; minus infinity for the others.
    """
    weights = softmax(log_weights)
    used = jnp.sum(weights > 0, axis=1)
    # Draws that were subsampled stand for more than themselves.
    counts = jnp.maximum(used, jnp.where(pool.counts > weights.shape[1], pool.counts, 0.0))
    within = jnp.sum(weights, axis=1) ** 2 / jnp.maximum(counts, 1.0)
    return jnp.maximum(jnp.sum(weights**2) - jnp.sum(within), 0.0)
