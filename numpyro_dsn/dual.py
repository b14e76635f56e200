"""The dual problem of maximum entropy on weighted draws: numbers in, numbers out."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp


class Tilt(NamedTuple):
    r"""Weighted draws of the tilted density :math:`p_\eta \propto p \exp(\eta^\top T)`.

    log_weights
        Normalized log weights, shape ``(num_draws,)``.
    log_normalizer
        log of the sum of base weights times exp(eta . T), shape ``()``.
    mean
        Of T without its error, shape ``(num_constraints,)``: the gradient of the log normalizer.
    covariance
        That of T with its error, shape ``(num_constraints, num_constraints)``: without noise the
        Hessian, else a larger matrix.
    ess
        Effective sample size, shape ``()``.
    """

    log_weights: Array
    log_normalizer: Array
    mean: Array
    covariance: Array
    ess: Array


def tilt(natural_parameters: Array, log_base: Array, statistics: Array, noise: Array) -> Tilt:
    r"""Reweight draws of the prior to the tilted density.

    .. math:: w_i \propto b_i \exp(\eta^\top T_i)

    Parameters
    ----------
    natural_parameters
        eta, shape ``(num_constraints,)``.
    log_base
        Log weights b that turn the draws into the prior, shape ``(num_draws,)``.
    statistics, noise
        T and a factor of the covariance of its error, as for :func:`exponent`.
    """
    log_weights = log_base + exponent(natural_parameters, statistics, noise)
    log_normalizer = logsumexp(log_weights)
    log_weights = log_weights - log_normalizer
    weights = jnp.exp(log_weights)
    # Weights favor draws whose error happens to point along eta, by S eta on average.
    denoised = statistics - jnp.einsum("nr,nrk->nk", noise @ natural_parameters, noise)
    mean, covariance = weighted_moments(weights, denoised)
    return Tilt(log_weights, log_normalizer, mean, covariance, 1 / jnp.sum(weights**2))


def weighted_moments(weights: Array, values: Array) -> tuple[Array, Array]:
    """Return mean and covariance, shapes ``(K,)`` and ``(K, K)``.

    Parameters
    ----------
    weights
        Weights that sum to one, shape ``(num_draws,)``.
    values
        Shape ``(num_draws, K)``.
    """
    mean = weights @ values
    deviations = values - mean[None]
    return mean, (weights[:, None] * deviations).T @ deviations


def exponent(natural_parameters: Array, statistics: Array, noise: Array) -> Array:
    r"""Return the exponent of the tilt at every draw, shape ``(num_draws,)``.

    .. math:: \eta^\top \hat T - \tfrac12 \eta^\top S \eta

    The second term corrects, to second order, for a statistic that is a mean over replicates of
    a stochastic simulator: exponentiating noise would otherwise reward it. S is the covariance of
    this mean's error.

    Parameters
    ----------
    natural_parameters
        eta, shape ``(num_constraints,)``.
    statistics
        T, shape ``(num_draws, num_constraints)``.
    noise
        Factor N of the covariance :math:`S = N^\top N`, shape
        ``(num_draws, num_replicates, num_constraints)``; zero without noise.
    """
    error = jnp.sum((noise @ natural_parameters) ** 2, -1)
    return statistics @ natural_parameters - 0.5 * error


def dual_value(
    natural_parameters: Array, log_normalizer: Array, lower: Array, upper: Array
) -> Array:
    r"""Return the dual function, an upper bound on minus the KL to the prior, in nats.

    .. math:: g(\eta) = \log E_p[e^{\eta^\top T}] - \sum_j \eta_j
              (l_j [\eta_j > 0] + u_j [\eta_j < 0])

    Parameters
    ----------
    natural_parameters, lower, upper
        eta and bounds on E[T], each of shape ``(num_constraints,)``.
    log_normalizer
        log E_p[exp(eta . T)], shape ``()``.
    """
    bound = jnp.where(natural_parameters > 0, lower, upper)
    active = natural_parameters != 0
    return log_normalizer - jnp.sum(jnp.where(active, natural_parameters * bound, 0.0))


def solve_dual(
    natural_parameters: Array,
    log_base: Array,
    statistics: Array,
    noise: Array,
    lower: Array,
    upper: Array,
    min_ess: float,
    max_steps: int = 50,
) -> tuple[Array, Array]:
    r"""Minimize the dual by Newton's method where the draws can be trusted.

    Where the effective sample size of the new weights is above ``min_ess``, the draws know the
    tilted density. If the minimum is there it is the solution, wherever the way to it leads.
    Otherwise a step is shortened until the dual decreases enough and stays in this region; a start
    outside of it, where new draws outweigh those that led there, is first brought back.

    Parameters
    ----------
    natural_parameters
        Where to start, shape ``(num_constraints,)``.
    log_base, statistics, noise
        Weighted draws, as for :func:`tilt`.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    min_ess
        Smallest effective sample size.
    max_steps
        Largest number of Newton steps.

    Returns
    -------
    The natural parameters, and whether they minimize the dual on these draws.

    References
    ----------
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., algorithm 3.2 and section 16.7.
    """
    scales = 0.5 ** jnp.arange(12)

    def value(eta: Array) -> tuple[Array, Tilt]:
        tilted = tilt(eta, log_base, statistics, noise)
        return dual_value(eta, tilted.log_normalizer, lower, upper), tilted

    def step(min_ess: float, carry: tuple) -> tuple:
        eta, count, _, _ = carry
        current, tilted = value(eta)
        direction, residual = _direction(eta, tilted.mean, tilted.covariance, lower, upper)
        slope = jnp.dot(direction, residual)
        scale = jnp.sqrt(jnp.diag(tilted.covariance)) + jnp.finfo(eta.dtype).tiny ** 0.5

        def attempt(size: Array) -> tuple[Array, Array]:
            candidate = _moved(eta, size * direction, lower, upper)
            new, new_tilt = value(candidate)
            slack = 1e-6 * (1 + jnp.abs(current))
            decreases = new <= current + 1e-4 * size * slope + slack
            return candidate, decreases & (new_tilt.ess >= min_ess)

        candidates, accepted = jax.lax.map(attempt, scales)
        found = jnp.any(accepted)
        eta = jnp.where(found, candidates[jnp.argmax(accepted)], eta)
        reached = jnp.max(jnp.abs(residual) / scale) < 1e-3
        return eta, count + 1, reached, ~found

    def proceeds(carry: tuple) -> Array:
        _, count, reached, stuck = carry
        return (count < max_steps) & ~reached & ~stuck

    def descend(start: Array, min_ess: float) -> tuple[Array, Array]:
        carry = start, 0, jnp.zeros((), bool), jnp.zeros((), bool)
        solution, _, reached, _ = jax.lax.while_loop(proceeds, partial(step, min_ess), carry)
        return solution, reached

    def inside() -> tuple[Array, Array]:
        shorter = scales[:, None] * natural_parameters[None]
        trusted = jax.lax.map(lambda eta: value(eta)[1].ess, shorter) >= min_ess
        start = jnp.where(jnp.any(trusted), shorter[jnp.argmax(trusted)], 0.0)
        return descend(start, min_ess)

    minimum, reached = descend(natural_parameters, 0.0)
    known = reached & (value(minimum)[1].ess >= min_ess)
    return jax.lax.cond(known, lambda: (minimum, reached), inside)


def newton_step(
    natural_parameters: Array,
    mean: Array,
    covariance: Array,
    lower: Array,
    upper: Array,
    max_nats: float,
) -> Array:
    r"""Return natural parameters after one Newton step, shortened to a divergence.

    .. math:: \eta + s \delta, \qquad \delta = -C^{-1} r, \qquad
              \tfrac12 s^2 \, \delta^\top C \delta \le d

    Half of the square is, to second order, the divergence of the new tilted density from the old.
    No draws need to know the new one.

    Parameters
    ----------
    natural_parameters, lower, upper
        eta and bounds on E[T], each of shape ``(num_constraints,)``.
    mean, covariance
        Moments of T at eta, of shapes ``(num_constraints,)`` and
        ``(num_constraints, num_constraints)``.
    max_nats
        d.
    """
    direction, _ = _direction(natural_parameters, mean, covariance, lower, upper)
    nats = 0.5 * direction @ covariance @ direction
    size = jnp.sqrt(max_nats / jnp.maximum(nats, max_nats))
    return _moved(natural_parameters, size * direction, lower, upper)


def excess(natural_parameters: Array, mean: Array, lower: Array, upper: Array) -> Array:
    """Return by how much means are above the bounds that eta holds them at, of the same shape.

    Zero for an inequality whose eta is zero, unless it is violated.

    Parameters
    ----------
    natural_parameters, mean, lower, upper
        eta, E[T] and its bounds, each of shape ``(num_constraints,)``.
    """
    eta, nearest = natural_parameters, jnp.clip(mean, lower, upper)
    return mean - jnp.where(eta > 0, lower, jnp.where(eta < 0, upper, nearest))


def of_allowed_sign(natural_parameters: Array, lower: Array, upper: Array) -> Array:
    """Return eta, or zero where the bound that its sign would hold T at is infinite.

    Parameters
    ----------
    natural_parameters, lower, upper
        eta and bounds on E[T], each of shape ``(num_constraints,)``.
    """
    least = jnp.where(jnp.isfinite(upper), -jnp.inf, 0.0)
    most = jnp.where(jnp.isfinite(lower), jnp.inf, 0.0)
    return jnp.clip(natural_parameters, least, most)


def _direction(
    eta: Array, mean: Array, covariance: Array, lower: Array, upper: Array
) -> tuple[Array, Array]:
    """Return the Newton direction of the dual, and its gradient, the violation."""
    scale = jnp.sqrt(jnp.diag(covariance)) + jnp.finfo(eta.dtype).tiny ** 0.5
    residual = excess(eta, mean, lower, upper) / scale
    active = (residual != 0) | (lower == upper)
    correlation = covariance / scale[:, None] / scale[None, :]
    correlation = jnp.where(active[:, None] & active[None, :], correlation, 0.0)
    ridge = jnp.where(active, 1e-5, 1.0)
    direction = -jnp.linalg.solve(correlation + jnp.diag(ridge), residual) / scale
    return direction, residual * scale


def _moved(eta: Array, move: Array, lower: Array, upper: Array) -> Array:
    """Return eta after a move; the multiplier of an inequality stops at zero on its way."""
    crosses = (lower < upper) & ((eta + move) * eta < 0)
    return jnp.where(crosses, 0.0, eta + move)
