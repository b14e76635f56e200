"""Every circuit ever simulated, reweighted: adaptive multiple importance sampling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

HELD_OUT = 4
"""One draw in this many is kept from training."""


class Pool(NamedTuple):
    r"""Draws from several proposals, weighted by their mixture.

    .. math:: w_i \propto \frac{p(u_i)}{\sum_k n_k q_k(u_i)}

    Component 0 is the prior, or the first flow if the prior cannot be sampled; the others are
    the flows of the last epochs.

    flat
        Draws in unconstrained space, shape ``(num_draws, D)``.
    statistics
        T in units of its scale about its target, shape ``(num_draws, num_constraints)``.
    noise
        Factor N of the covariance :math:`N^\top N` of the mean of T over replicates, shape
        ``(num_draws, num_replicates, num_constraints)``; zero without noise.
    log_prior
        Log density of the prior in unconstrained space, shape ``(num_draws,)``.
    log_det
        Log of the volume on the constrained space per unconstrained volume, of the same shape.
    finite
        Whether T was finite, of the same shape; false in slots that are not used yet.
    component
        Number of the component that each draw is from, of the same shape.
    log_share
        Log of the number of draws that each one stands for, of the same shape: zero but where
        draws of the prior were thinned.
    held_out
        Whether a draw is kept from training, of the same shape.
    log_q
        Log density of every component at every draw, shape ``(num_components, num_draws)``.
    counts
        Number of draws of every component, before any were thinned, shape ``(num_components,)``.
    params
        Parameters of the flows; arrays have a leading axis ``num_components - 1``.
    """

    flat: Array
    statistics: Array
    noise: Array
    log_prior: Array
    log_det: Array
    finite: Array
    component: Array
    log_share: Array
    held_out: Array
    log_q: Array
    counts: Array
    params: Any


class Draws(NamedTuple):
    """Simulated draws; fields as in :class:`Pool`, with a leading axis ``num_draws``."""

    flat: Array
    statistics: Array
    noise: Array
    log_prior: Array
    log_det: Array
    finite: Array


def empty_pool(first: Draws, log_first: Array, params: Any, num_flows: int, size: int) -> Pool:
    """Return a pool that holds the draws of component 0 alone.

    Parameters
    ----------
    first
        Draws of component 0.
    log_first
        Log density of component 0 at its draws, shape ``(num_first,)``.
    params
        Parameters of a flow, for shapes.
    num_flows
        Number of flows that the pool can hold.
    size
        Number of draws of each flow.
    """
    room = num_flows * size

    def pad(leaf: Array, value: float) -> Array:
        widths = [(0, room)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=value)

    num_draws = first.flat.shape[0] + room
    log_q = jnp.full((num_flows + 1, num_draws), -jnp.inf, first.log_prior.dtype)
    sizes = [first.flat.shape[0]] + [size] * num_flows
    return Pool(
        flat=pad(first.flat, 0.0),
        statistics=pad(first.statistics, 0.0),
        noise=pad(first.noise, 0.0),
        log_prior=pad(first.log_prior, 0.0),
        log_det=pad(first.log_det, 0.0),
        finite=pad(first.finite, False),
        component=jnp.concatenate([jnp.full(n, k) for k, n in enumerate(sizes)]),
        log_share=jnp.zeros(num_draws, log_q.dtype),
        held_out=jnp.concatenate([jnp.arange(n) % HELD_OUT == 0 for n in sizes]),
        log_q=log_q.at[0].set(pad(log_first, -jnp.inf)),
        counts=jnp.zeros(num_flows + 1).at[0].set(first.flat.shape[0]),
        params=jax.tree.map(lambda leaf: jnp.stack([leaf] * num_flows), params),
    )


def component_of(epoch: Array, pool: Pool) -> Array:
    """Return the number of the component that holds the draws of an epoch."""
    return jnp.where(epoch == 0, 0, 1 + (epoch - 1) % (pool.counts.size - 1))


def seen(pool: Pool) -> Pool:
    """Return the pool with the draws that flows are trained on alone."""
    return pool._replace(
        finite=pool.finite & ~pool.held_out,
        counts=pool.counts - jnp.ceil(pool.counts / HELD_OUT),
    )


def unseen(pool: Pool, newest: Array) -> Pool:
    """Return the pool with the draws that no flow was trained on alone.

    A flow's density is too high at draws that it was trained on, and so would be the weights that
    measure it there.

    Parameters
    ----------
    pool
        The pool.
    newest
        Number of the component whose draws are too new for any flow to know, shape ``()``.
    """
    is_newest = jnp.arange(pool.counts.size) == newest
    return pool._replace(
        finite=pool.finite & (pool.held_out | (pool.component == newest)),
        counts=jnp.where(is_newest, pool.counts, jnp.ceil(pool.counts / HELD_OUT)),
    )


def log_weights(pool: Pool, log_density: Array) -> Array:
    """Return log weights that turn the pool into draws of a density, shape ``(num_draws,)``.

    Their exponentials sum to the density's integral, up to Monte Carlo error. Draws whose
    statistics were not finite have no weight.

    Parameters
    ----------
    pool
        The pool.
    log_density
        Log density at every draw in unconstrained space, shape ``(num_draws,)``.
    """
    mixture = logsumexp(pool.log_q + jnp.log(pool.counts)[:, None], axis=0)
    safe = jnp.where(pool.finite, mixture, 0.0)
    return jnp.where(pool.finite, log_density - safe + pool.log_share, -jnp.inf)


def divergence(pool: Pool, log_q: Array, log_p: Array) -> tuple[Array, Array]:
    r"""Estimate a KL divergence on all draws.

    .. math:: KL(q \,\|\, p) = E_q[\log q - \log p]

    Parameters
    ----------
    pool
        The pool.
    log_q, log_p
        Log densities at every draw in unconstrained space, each of shape ``(num_draws,)``.

    Returns
    -------
    The divergence in nats and the square of its standard error, each of shape ``()``.
    """
    weights = jax.nn.softmax(log_weights(pool, log_q))
    ratio = jnp.where(weights > 0, log_q - log_p, 0.0)
    value = weights @ ratio
    return value, weights**2 @ (ratio - value) ** 2


def relative_variance(pool: Pool, log_weights: Array) -> Array:
    r"""Return the squared relative standard error of the sum of weights, shape ``()``.

    .. math:: \sum_k \left[ \sum_{i \in k} w_i^2
              - \frac{1}{n_k} \Bigl( \sum_{i \in k} w_i \Bigr)^2 \right]

    The number of draws of each component k is fixed, so that equal weights have no error.

    Parameters
    ----------
    pool
        The pool.
    log_weights
        Normalized log weights, shape ``(num_draws,)``.
    """
    weights = jnp.exp(log_weights)
    shares = jnp.zeros_like(pool.counts).at[pool.component].add(weights)
    used = pool.counts > 0
    within = jnp.where(used, shares**2 / jnp.where(used, pool.counts, 1.0), 0.0)
    return jnp.maximum(jnp.sum(weights**2) - within.sum(), 0.0)


def insert_draws(
    pool: Pool,
    component: Array,
    params: Any,
    draws: Draws,
    log_first: Array,
    log_density: Callable[[Any, Array], Array],
) -> Pool:
    """Add a flow and its draws, in the place of the component that had this number.

    Parameters
    ----------
    pool
        The pool.
    component
        Number of the component, from 1, shape ``()``.
    params
        Parameters of the flow.
    draws
        Draws from the flow, as many as the pool has room for.
    log_first
        Log density of component 0 at the new draws, shape ``(size,)``.
    log_density
        Function of a flow's parameters and draws that returns log densities.

    Returns
    -------
    The pool with the densities of all components at all draws.
    """
    size = draws.flat.shape[0]
    num_flows = pool.counts.size - 1
    start = pool.flat.shape[0] - num_flows * size + (component - 1) * size

    def put(leaf: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(leaf, new.astype(leaf.dtype), start, axis=0)

    # Places that are still empty cost nothing: early epochs would otherwise pay for the last ones.
    counts = pool.counts.at[component].set(size)
    nothing = jnp.full(size, -jnp.inf, pool.log_q.dtype)

    def where_used(function: Callable[[Any], Array], places: Any) -> Array:
        def evaluate(place_and_used: tuple[Any, Array]) -> Array:
            place, used = place_and_used
            return jax.lax.cond(used, function, lambda place: nothing, place)

        return jax.lax.map(evaluate, (places, counts[1:] > 0))

    flows = jax.tree.map(lambda leaf, new: leaf.at[component - 1].set(new), pool.params, params)
    at_new = where_used(lambda flow: log_density(flow, draws.flat), flows)
    columns = jnp.concatenate([log_first[None], at_new])
    log_q = jax.lax.dynamic_update_slice_in_dim(pool.log_q, columns, start, axis=1)
    flat = put(pool.flat, draws.flat)
    num_first = flat.shape[0] - num_flows * size
    blocks = flat[num_first:].reshape(num_flows, size, -1)
    of_new = where_used(lambda block: log_density(params, block), blocks).reshape(-1)
    of_new = jnp.concatenate([log_density(params, flat[:num_first]), of_new])
    return pool._replace(
        flat=flat,
        statistics=put(pool.statistics, draws.statistics),
        noise=put(pool.noise, draws.noise),
        log_prior=put(pool.log_prior, draws.log_prior),
        log_det=put(pool.log_det, draws.log_det),
        finite=put(pool.finite, draws.finite),
        log_q=log_q.at[component].set(of_new),
        counts=counts,
        params=flows,
    )
