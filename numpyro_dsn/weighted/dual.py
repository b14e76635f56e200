"""The dual problem of maximum entropy on weighted draws."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

RIDGE = 1e-5
"""Added to the correlation of each statistic with itself: redundant ones have no Newton step."""

Bounds = tuple[Array, Array]
"""Lower and upper bounds on E[T], each of shape ``(num_constraints,)``."""


class Weighted(NamedTuple):
    """Draws with the weights that turn them into those of the prior.

    log_base
        Log weights, shape ``(num_draws,)``.
    statistics, noise
        T and a factor of the covariance of its error, of shapes ``(num_draws, num_constraints)``
        and ``(num_draws, num_replicates, num_constraints)``.
    """

    log_base: Array
    statistics: Array
    noise: Array


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


def tilt(natural_parameters: Array, draws: Weighted) -> Tilt:
    r"""Reweight draws of the prior to the tilted density.

    .. math:: w_i \propto b_i \exp(\eta^\top T_i)
    """
    exponents = exponent(natural_parameters, draws.statistics, draws.noise)
    log_weights = draws.log_base + exponents
    log_normalizer = logsumexp(log_weights)
    log_weights = log_weights - log_normalizer
    weights = jnp.exp(log_weights)
    # Weights favor draws whose error happens to point along eta, by S eta on average.
    projected = draws.noise @ natural_parameters
    denoised = draws.statistics - jnp.einsum("nr,nrk->nk", projected, draws.noise)
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
    statistics, noise
        T and a factor of the covariance of its error, as in :class:`Weighted`, with any leading
        axes.
    """
    error = jnp.sum((noise @ natural_parameters) ** 2, -1)
    return statistics @ natural_parameters - 0.5 * error


def dual_value(natural_parameters: Array, log_normalizer: Array, bounds: Bounds) -> Array:
    r"""Return the dual function, an upper bound on minus the KL to the prior, in nats.

    .. math:: g(\eta) = \log E_p[e^{\eta^\top T}] - \sum_j \eta_j
              (l_j [\eta_j > 0] + u_j [\eta_j < 0])
    """
    bound = jnp.where(natural_parameters > 0, *bounds)
    active = natural_parameters != 0
    return log_normalizer - jnp.sum(jnp.where(active, natural_parameters * bound, 0.0))


def excess(natural_parameters: Array, mean: Array, bounds: Bounds) -> Array:
    """Return the gradient of the dual: means minus the bounds at which eta holds them.

    Zero for an inequality whose eta is zero, unless it is violated.
    """
    eta, nearest = natural_parameters, jnp.clip(mean, *bounds)
    return mean - jnp.where(eta > 0, bounds[0], jnp.where(eta < 0, bounds[1], nearest))


def of_allowed_sign(natural_parameters: Array, bounds: Bounds) -> Array:
    """Return eta, or zero where the bound that its sign would hold T at is infinite."""
    least = jnp.where(jnp.isfinite(bounds[1]), -jnp.inf, 0.0)
    most = jnp.where(jnp.isfinite(bounds[0]), jnp.inf, 0.0)
    return jnp.clip(natural_parameters, least, most)


def solve_dual(
    start: Array, draws: Weighted, bounds: Bounds, min_ess: float, max_steps: int = 100
) -> tuple[Array, Array]:
    r"""Minimize the dual by Newton's method where the draws can be trusted.

    Where the effective sample size of the new weights is above ``min_ess``, the draws know the
    tilted density. If the minimum is there it is the solution, wherever the way to it leads.
    Otherwise a step is shortened until the dual decreases enough and stays in this region; a start
    outside of it, where new draws outweigh those that led there, is first brought back.

    Parameters
    ----------
    start
        Natural parameters to start at, shape ``(num_constraints,)``.
    draws
        Weighted draws of the prior.
    bounds
        Bounds on E[T].
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

    def is_trusted(eta: Array) -> Array:
        return tilt(eta, draws).ess >= min_ess

    def proceeds(carry: tuple) -> Array:
        _, count, solved, stuck = carry
        return (count < max_steps) & ~solved & ~stuck

    def descend(index: Array, carry: tuple) -> tuple:
        known, found, _ = carry
        # The first time anywhere; then, if the draws do not know the minimum, where they can.
        shorter = jax.lax.while_loop(
            lambda size: (index > 0) & ~known & ~is_trusted(size * start) & (size > 1e-3),
            lambda size: size / 2,
            jnp.ones_like(start[0]),
        )
        again = jnp.where(shorter > 1e-3, shorter, 0.0) * start
        begin = jnp.where(known, found, again), 0, jnp.zeros((), bool), known
        step = partial(_newton_step, draws, bounds, jnp.where(index > 0, min_ess, 0.0))
        eta, _, solved, _ = jax.lax.while_loop(proceeds, step, begin)
        return known | (solved & is_trusted(eta)), eta, known | solved

    never = jnp.zeros((), bool)
    _, eta, solved = jax.lax.fori_loop(0, 2, descend, (never, start, never))
    return eta, solved


def _newton_step(draws: Weighted, bounds: Bounds, min_ess: Array | float, carry: tuple) -> tuple:
    """Take one Newton step, shortened until the dual decreases where draws can be trusted."""
    eta, count, _, _ = carry
    current = tilt(eta, draws)
    value = dual_value(eta, current.log_normalizer, bounds)
    direction, residual = newton_direction(eta, current.mean, current.covariance, bounds)
    slope = jnp.dot(direction, residual)
    slack = 1e-6 * (1 + jnp.abs(value))

    def is_rejected(size: Array) -> Array:
        candidate = moved(eta, size * direction, bounds)
        new = tilt(candidate, draws)
        decreases = dual_value(candidate, new.log_normalizer, bounds) <= (
            value + 1e-4 * size * slope + slack
        )
        return ~(decreases & (new.ess >= min_ess))

    size = jax.lax.while_loop(
        lambda size: is_rejected(size) & (size > 1e-4), lambda size: size / 2, jnp.ones(())
    )
    stuck = size <= 1e-4
    scale = jnp.sqrt(jnp.diag(current.covariance)) + jnp.finfo(eta.dtype).tiny ** 0.5
    solved = jnp.max(jnp.abs(residual) / scale) < 1e-3
    eta = jnp.where(stuck | solved, eta, moved(eta, size * direction, bounds))
    return eta, count + 1, solved, stuck


def newton_direction(
    eta: Array, mean: Array, covariance: Array, bounds: Bounds, damping: float = 0.0
) -> tuple[Array, Array]:
    """Return the Newton direction of the dual, and its gradient r.

    With ``damping``, so many times the square of r is added to the diagonal of the Hessian.
    """
    residual = excess(eta, mean, bounds)
    diagonal = jnp.diag(covariance)
    scale = jnp.sqrt(diagonal + damping * residual**2) + jnp.finfo(eta.dtype).tiny ** 0.5
    residual = residual / scale
    active = (residual != 0) | (bounds[0] == bounds[1])
    correlation = covariance / scale[:, None] / scale[None, :]
    correlation = jnp.where(active[:, None] & active[None, :], correlation, 0.0)
    ridge = jnp.where(active, RIDGE + damping * residual**2, 1.0)
    direction = -jnp.linalg.solve(correlation + jnp.diag(ridge), residual) / scale
    return direction, residual * scale


def damped_newton_step(
    eta: Array, mean: Array, covariance: Array, bounds: Bounds, max_nats: float
) -> Array:
    r"""Return natural parameters after one damped Newton step, shortened to a divergence.

    .. math:: \eta + s \delta, \qquad \delta = -(C + \mathrm{diag}(r^2))^{-1} r, \qquad
              s = \min \left( \frac{-\delta^\top r}{\delta^\top C \delta},
              \sqrt{\frac{2 d}{\delta^\top C \delta}} \right)

    No draws need to know the new tilted density. Close to the target this is Newton's step. Far
    from it, mean and square of a statistic are nearly one, and Newton's step would raise the
    variance on its way, as a mixture of here and there would; with the square of the distance on
    the diagonal each is drawn to its target alone. Half of the square of a step is, to second
    order, the divergence that it crosses.

    Parameters
    ----------
    eta
        Natural parameters, shape ``(num_constraints,)``.
    mean, covariance
        Moments of T at eta, of shapes ``(num_constraints,)`` and
        ``(num_constraints, num_constraints)``.
    bounds
        Bounds on E[T].
    max_nats
        d.

    References
    ----------
    Nocedal and Wright, *Numerical Optimization*, 2nd ed., section 10.3, for the damping.
    """
    direction, residual = newton_direction(eta, mean, covariance, bounds, damping=1.0)
    square = jnp.maximum(direction @ covariance @ direction, jnp.finfo(eta.dtype).tiny)
    size = jnp.minimum(-(direction @ residual) / square, jnp.sqrt(2 * max_nats / square))
    return moved(eta, size * direction, bounds)


def moved(eta: Array, move: Array, bounds: Bounds) -> Array:
    """Return eta after a move; the multiplier of an inequality stops at zero on its way."""
    crosses = (bounds[0] < bounds[1]) & ((eta + move) * eta < 0)
    return jnp.where(crosses, 0.0, eta + move)
