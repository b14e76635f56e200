"""Which draws of a flow are kept: the circuit itself says which ones the optimum does not have."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from numpyro_dsn.weighted.draws import Draws, Pool


class Acceptance(NamedTuple):
    r"""The tilted density that a flow is cut down to where its own is higher.

    .. math:: a(z) = \min \left( 1, \frac{p(z) \exp(\eta^\top T(z) - \log Z)}{M q(z)} \right)

    natural_parameters
        eta in the units of the targets, shape ``(num_constraints,)``.
    log_level
        log of Z times the envelope M, shape ``()``; minus infinity to keep every draw.

    References
    ----------
    von Neumann (1951), *Various techniques used in connection with random digits*; Stimper,
    Schölkopf and Hernández-Lobato (2022), *Resampling base distributions of normalizing flows*, who
    learn the probability that is known here.
    """

    natural_parameters: Array
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
    dtype = jnp.zeros(()).dtype
    return Acceptance(jnp.zeros(num_constraints, dtype), jnp.full((), -jnp.inf, dtype))


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
    log_p = draws.log_prior + draws.statistics @ rule.natural_parameters - rule.log_level
    return jnp.where(draws.finite, jnp.minimum(log_p - log_q, 0.0), -jnp.inf)


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
