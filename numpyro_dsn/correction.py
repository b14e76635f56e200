"""An offset of the natural parameters that undoes what a flow cannot represent."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

from numpyro_dsn.dual import Tilt, exponent, weighted_moments
from numpyro_dsn.flow import Flow
from numpyro_dsn.pool import Pool

MAX_MOVE = 0.3
"""Largest violation, in standard deviations of a combination of statistics, that is corrected."""

RIDGE, RIDGE_OF_LATENTS = 1e-6, 1e-2
"""Added to the correlation of each statistic, and of each moment of the latents, with itself."""

RIDGE_OF_SLOPES = 1e-3
"""The same for what T says of these moments: where statistics are nearly redundant their
combinations would otherwise be huge at draws far out."""

NEW = 0.01
"""A moment of the latents counts if it has at least this share of its variance at fixed T."""

KEPT = 0.9
"""Share of the correction of the latents' moments that is kept in an epoch. A flow that is too
small for them and for the constraints meets the constraints."""

MOST = 2.0
"""Nats by which a correction raises or lowers a density at most."""

LEFT = 0.5
"""Share of the flow's effective draws that a correction leaves."""

FAR = 3.0
"""Standard deviations of a latent beyond which its moments are constant."""

MAX_LATENTS = 32
"""The moments of more latents are not corrected: covariances would cost more than the flow."""


def newton_move(residual: Array, is_active: Array, covariance: Array, ridge: float) -> Array:
    r"""Return the move of eta that would undo a violation, as far as it can be trusted.

    .. math:: -\sum_i \frac{v_i}{\sqrt{\lambda_i}} \operatorname{clip}
              \left( \frac{v_i^\top r}{\sqrt{\lambda_i}} \right)

    Statistics that are nearly redundant have combinations of hardly any variance. A flow that
    cannot represent those violates them by many standard deviations, and would be sent far away.

    Parameters
    ----------
    residual
        r, shape ``(num_constraints,)``.
    is_active
        What is to be moved, of the same shape; the move of the others is zero.
    covariance
        That of T, with eigenvalues :math:`\lambda_i` and eigenvectors :math:`v_i` of its
        correlations, shape ``(num_constraints, num_constraints)``.
    ridge
        What is added to the diagonal of the correlations.
    """
    scale = jnp.sqrt(jnp.diag(covariance) + 1e-12)
    correlation = covariance / scale[:, None] / scale[None, :]
    alone = jnp.eye(residual.size)
    correlation = jnp.where(is_active[:, None] & is_active[None, :], correlation, alone)
    values, vectors = jnp.linalg.eigh(correlation + ridge * alone)
    values = jnp.sqrt(jnp.maximum(values, 1e-6))
    residual = jnp.where(is_active, residual / scale, 0.0)
    whitened = jnp.clip(vectors.T @ residual / values, -MAX_MOVE, MAX_MOVE)
    return jnp.where(is_active, -(vectors @ (whitened / values)) / scale, 0.0)


def corrected_exponent(
    correction: Array, natural_parameters: Array, log_base: Array, statistics: Array, noise: Array
) -> Array:
    r"""Return the exponent of the tilt with a correction c, at every draw, bounded.

    .. math:: \eta^\top T + \operatorname{clip} \left( c^\top T - E_p[c^\top T], -2, 2 \right)

    Statistics with long tails are many standard deviations off at some circuits. Without a bound a
    correction that hardly moves the others would raise these above all.

    Parameters
    ----------
    correction
        Shape ``(num_constraints + num_moments,)``.
    natural_parameters
        eta, shape ``(num_constraints,)``.
    log_base, statistics, noise
        Weighted draws of T and of moments of the latents, as for :func:`~numpyro_dsn.dual.tilt`.
    """
    solution = jnp.pad(natural_parameters, (0, correction.size - natural_parameters.size))
    plain = exponent(solution, statistics, noise)
    change = exponent(solution + correction, statistics, noise) - plain
    mean = jax.nn.softmax(log_base + plain) @ change
    return plain + jnp.clip(change - mean, -MOST, MOST)


def shortened(
    correction: Array,
    log_flow: Array,
    natural_parameters: Array,
    log_base: Array,
    statistics: Array,
    noise: Array,
) -> Array:
    """Return a correction of eta, shortened until it leaves half of the flow's effective draws.

    Those of the optimum may be a few draws where the flow hardly has any: they would forbid every
    correction, of a violation that is the flow's. The part of the constraints comes first, and that
    of the latents' moments takes what it leaves.

    Parameters
    ----------
    correction, natural_parameters, log_base, statistics, noise
        As for :func:`corrected_exponent`.
    log_flow
        Log weights that turn the draws into those of the flow, shape ``(num_draws,)``.
    """
    draws = natural_parameters, log_base, statistics, noise
    is_constraint = jnp.arange(correction.size) < natural_parameters.size
    plain = corrected_exponent(jnp.zeros_like(correction), *draws)

    def log_ess(correction: Array) -> Array:
        log_weights = log_flow + corrected_exponent(correction, *draws) - plain
        return 2 * logsumexp(log_weights) - logsumexp(2 * log_weights)

    least = jnp.log(LEFT) + log_ess(jnp.zeros_like(correction))

    def longest(start: Array, move: Array) -> Array:
        candidates = start[None] + 0.8 ** jnp.arange(16)[:, None] * move[None]
        trusted = jax.lax.map(log_ess, candidates) >= least
        return jnp.where(jnp.any(trusted), candidates[jnp.argmax(trusted)], start)

    of_constraints = jnp.where(is_constraint, correction, 0.0)
    start = longest(jnp.zeros_like(correction), of_constraints)
    return longest(start, correction - of_constraints)


def with_latents(pool: Pool, flow: Flow, weights: Array) -> Pool:
    r"""Return the pool with what each latent and its square have in them that T has not.

    .. math:: z = \operatorname{clip} \left( \frac{x - E_q[x]}{\sqrt{Var_q[x]}}, -3, 3 \right),
              \qquad m = (z, z^2) - Cov_q[(z, z^2), T] \, Cov_q[T]^{-1} \, T

    A correction of m leaves that of T alone, which then still meets the constraints. Where T is
    a mean over replicates of a stochastic simulator, its covariance is the one without its error.

    Parameters
    ----------
    pool, flow
        The draws, and the coordinates x of the flow.
    weights
        Weights that turn the draws into those of the flow q, shape ``(num_draws,)``.

    Returns
    -------
    The pool with the statistics (T, m), of which there are ``num_constraints + 2 * D``; m is zero
    where T says it all, and where T is so little more than error that what it says is not known.
    The pool itself, if there are more than :data:`MAX_LATENTS` latents.
    """
    if pool.flat.shape[-1] > MAX_LATENTS:
        return pool
    x = flow.coordinates(jnp.where(pool.finite[:, None], pool.flat, 0.0))
    center = weights @ x
    spread = jnp.sqrt(weights @ (x - center[None]) ** 2) + jnp.finfo(x.dtype).tiny ** 0.5
    # Far from the flow a power without bound would outweigh the tilt.
    z = jnp.clip((x - center[None]) / spread[None], -FAR, FAR)
    moments = jnp.concatenate([z, z**2], axis=-1)
    every = jnp.concatenate([pool.statistics, moments], axis=-1)
    _, covariance = weighted_moments(weights, every)
    scale = jnp.sqrt(jnp.diag(covariance)) + jnp.finfo(x.dtype).tiny ** 0.5
    num_statistics = pool.statistics.shape[-1]
    of_statistics, shared = jnp.split(
        (covariance / scale[:, None] / scale[None, :])[:num_statistics], [num_statistics], axis=-1
    )
    unit, unit_of_moments = jnp.split(scale, [num_statistics])
    error = pool.noise / unit[None, None]
    of_statistics -= jnp.einsum("n,nrj,nrk->jk", weights, error, error)
    slopes = jnp.linalg.solve(of_statistics + RIDGE_OF_SLOPES * jnp.eye(num_statistics), shared)
    # Negative where T is hardly more than error, and its covariance without that not positive.
    share = jnp.sum(slopes * shared, axis=0)
    is_new = (share > -NEW) & (share < 1 - NEW)
    known = (pool.statistics / unit[None]) @ slopes * unit_of_moments[None]
    moments = jnp.where(is_new[None], moments - known, 0.0)
    error = -(error @ jnp.where(is_new[None], slopes * unit_of_moments[None], 0.0))
    return pool._replace(
        statistics=jnp.concatenate([pool.statistics, moments], axis=-1),
        noise=jnp.concatenate([pool.noise, error], axis=-1),
    )


def wider_move(
    residual: Array, is_active: Array, wider: Pool, weights: Array, target: Tilt
) -> Array:
    r"""Return the move of eta that would undo violations, and errors of the latents' moments.

    .. math:: E_q[T] - \mu, \qquad E_q[m] - E_p[m]

    A flow blurs what is thin, and means and variances of the latents change with it; an error
    that is as coarse as these can be undone like a violation.

    Parameters
    ----------
    residual
        The violation; for inequalities by how much the mean is above a bound that holds it, shape
        ``(num_constraints,)``.
    is_active
        Which constraints hold the mean, of the same shape.
    wider
        Draws with T and m, of :func:`with_latents`.
    weights
        Weights that turn the draws into those of the flow q, shape ``(num_draws,)``.
    target
        The tilted prior p on these draws, with the means of T and m.

    Returns
    -------
    Shape ``(num_constraints + num_moments,)``.
    """
    num_constraints = residual.size
    mean, covariance = weighted_moments(weights, wider.statistics)
    error = (mean - target.mean)[num_constraints:]
    of_statistics = covariance[:num_constraints, :num_constraints]
    of_latents = covariance[num_constraints:, num_constraints:]
    return jnp.concatenate(
        [
            newton_move(residual, is_active, of_statistics, RIDGE),
            newton_move(error, jnp.diag(of_latents) > 0, of_latents, RIDGE_OF_LATENTS),
        ]
    )


def forgotten(correction: Array, num_constraints: int) -> Array:
    """Return a correction of which the part of the latents' moments is smaller than before."""
    of_statistics, of_latents = jnp.split(correction, [num_constraints])
    return jnp.concatenate([of_statistics, KEPT * of_latents])
