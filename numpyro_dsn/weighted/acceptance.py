"""Which draws of a flow are kept: the circuit itself says which ones the optimum does not have."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_dsn.weighted.draws import Draws, Pool
from numpyro_dsn.weighted.dual import Weighted, exponent

MAX_OFFSET_NATS = 2.0
"""Nats by which an offset raises or lowers a density at most. Statistics with long tails are many
units off at some circuits: an offset that hardly moves the others would raise these above all."""


class Acceptance(NamedTuple):
    r"""The tilted density, with an offset, that a flow is cut down to where its own is higher.

    .. math:: a(z) = \min \left( 1, \frac{p(z) \exp(h(z) - \log Z)}{M q(z)} \right), \qquad
              h = \eta^\top T + \operatorname{clip} \left( c^\top T - m, -2, 2 \right)

    natural_parameters, aimed
        eta, and eta with the offset c, in the units of the targets, shape ``(num_constraints,)``.
    center
        m, the mean of the offset's exponent, shape ``()``.
    log_level
        log of Z times the envelope M, shape ``()``; minus infinity to keep every draw.

    References
    ----------
    von Neumann (1951), *Various techniques used in connection with random digits*; Stimper,
    Schölkopf and Hernández-Lobato (2022), *Resampling base distributions of normalizing flows*, who
    learn the probability that is known here.
    """

    natural_parameters: Array
    aimed: Array
    center: Array
    log_level: Array


class Accepted(NamedTuple):
    """Density of the draws that are kept.

    log_q
        Log density at every draw of a pool, of the shape of its draws.
    rate, rate_variance
        Fraction that is kept, and the squared relative standard error of it, each of shape ``()``.
    """

    log_q: Array
    rate: Array
    rate_variance: Array


def keep_all(num_constraints: int) -> Acceptance:
    """Return the rule that keeps every draw at which the circuit runs."""
    zeros = jnp.zeros(num_constraints)
    return Acceptance(zeros, zeros, jnp.zeros(()), jnp.full((), -jnp.inf, zeros.dtype))


def accept(natural_parameters: Array, aimed: Array, draws: Weighted, envelope: float) -> Acceptance:
    """Return the rule that cuts a flow down to a tilted density with an offset.

    Parameters
    ----------
    natural_parameters, aimed
        eta, and eta with the offset.
    draws
        Weighted draws of the prior.
    envelope
        M; zero to keep every draw.
    """
    plain = exponent(natural_parameters, draws.statistics, draws.noise)
    change = exponent(aimed, draws.statistics, draws.noise) - plain
    center = jax.nn.softmax(draws.log_base + plain) @ change
    rule = Acceptance(natural_parameters, aimed, center, jnp.full_like(center, -jnp.inf))
    if not envelope:
        return rule
    log_normalizer = logsumexp(draws.log_base + aimed_exponent(rule, *draws[1:]))
    return rule._replace(log_level=log_normalizer + math.log(envelope))


def aimed_exponent(rule: Acceptance, statistics: Array, noise: Array) -> Array:
    """Return h at every draw; shapes as of :func:`~numpyro_dsn.weighted.dual.exponent`."""
    plain = exponent(rule.natural_parameters, statistics, noise)
    change = exponent(rule.aimed, statistics, noise) - plain
    return plain + jnp.clip(change - rule.center, -MAX_OFFSET_NATS, MAX_OFFSET_NATS)


def log_acceptance(rule: Acceptance, log_q: Array, draws: Draws) -> Array:
    """Return the log probability that each draw is kept, of the shape of ``log_q``.

    Parameters
    ----------
    rule
        The rule.
    log_q
        Log density of the flow in unconstrained space.
    draws
        The draws, simulated, in the units of the targets.
    """
    log_p = draws.log_prior + aimed_exponent(rule, draws.statistics, draws.noise)
    return jnp.where(draws.finite, jnp.minimum(log_p - rule.log_level - log_q, 0.0), -jnp.inf)


def accepted(pool: Pool, index: Array, rule: Acceptance) -> Accepted:
    """Return the density of those draws of a proposal that are kept.

    Parameters
    ----------
    pool
        The draws.
    index
        Number of the proposal.
    rule
        Which of its draws are kept.
    """
    log_q = pool.log_q[index]
    log_kept = log_acceptance(rule, log_q, pool.draws)
    kept, weights = jnp.exp(log_kept[index]), jnp.exp(pool.log_share[index])
    weights /= weights.sum()
    rate = weights @ kept
    safe = jnp.where(rate > 0, rate, 1.0)
    variance = weights**2 @ (kept - rate) ** 2 / safe**2
    return Accepted(log_q + log_kept - jnp.log(safe), rate, variance)
