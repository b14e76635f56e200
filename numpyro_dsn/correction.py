"""An offset of the natural parameters that undoes what a flow cannot represent."""

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.dual import tilt

MAX_MOVE = 0.3
"""Largest violation, in standard deviations of a combination of statistics, that is corrected."""


def newton_move(residual: Array, covariance: Array) -> Array:
    r"""Return the move of eta that would undo a violation, as far as it can be trusted.

    .. math:: -\sum_i \frac{v_i}{\sqrt{\lambda_i}} \operatorname{clip}
              \left( \frac{v_i^\top r}{\sqrt{\lambda_i}} \right)

    Statistics that are nearly redundant have combinations of hardly any variance. A flow that
    cannot represent those violates them by many standard deviations, and would be sent far away.

    Parameters
    ----------
    residual
        r, shape ``(num_constraints,)``.
    covariance
        That of T, with eigenvalues :math:`\lambda_i` and eigenvectors :math:`v_i` of its
        correlations, shape ``(num_constraints, num_constraints)``.
    """
    scale = jnp.sqrt(jnp.diag(covariance) + 1e-12)
    correlation = covariance / scale[:, None] / scale[None, :]
    values, vectors = jnp.linalg.eigh(correlation + 1e-6 * jnp.eye(len(scale)))
    values = jnp.sqrt(jnp.maximum(values, 1e-6))
    whitened = jnp.clip(vectors.T @ (residual / scale) / values, -MAX_MOVE, MAX_MOVE)
    return -(vectors @ (whitened / values)) / scale


def shortened(
    correction: Array, natural_parameters: Array, log_base: Array, statistics: Array, noise: Array
) -> Array:
    """Return a correction of eta, shortened until it leaves half of the effective draws.

    Parameters
    ----------
    correction, natural_parameters
        The correction and eta, each of shape ``(num_constraints,)``.
    log_base, statistics, noise
        Weighted draws, as for :func:`~numpyro_dsn.dual.tilt`.
    """

    def ess(correction: Array) -> Array:
        return tilt(natural_parameters + correction, log_base, statistics, noise).ess

    candidates = 0.8 ** jnp.arange(16)[:, None] * correction[None]
    trusted = jax.lax.map(ess, candidates) >= 0.5 * ess(jnp.zeros_like(correction))
    return jnp.where(jnp.any(trusted), candidates[jnp.argmax(trusted)], 0.0)
