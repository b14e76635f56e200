"""What the two SMC samplers share: blackjax, and the size of a random-walk step."""

from typing import Any

import jax.numpy as jnp
from jax import Array

MIN_VARIANCE = 1e-8
"""Added to the variances, in squared units of the unconstrained space: particles may coincide."""


def require_blackjax() -> Any:
    """Import blackjax, which is an extra.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra.
    """
    try:
        import blackjax
    except ImportError as error:
        raise ImportError("SMC needs blackjax: `pip install numpyro-dsn[baselines]`.") from error
    return blackjax


def step_cholesky(flat: Array, weights: Array) -> Array:
    r"""Return the Cholesky factor of a random walk's covariance, :math:`2.38^2 \Sigma / D`.

    Parameters
    ----------
    flat
        Particles, shape ``(num_particles, dim)``.
    weights
        Their weights, shape ``(num_particles,)``; they sum to one.

    References
    ----------
    G. O. Roberts and J. S. Rosenthal, *Optimal scaling for various Metropolis-Hastings
    algorithms*, Statistical Science 16, 2001.
    """
    dim = flat.shape[1]
    deviation = flat - (weights @ flat)[None]
    covariance = (weights[:, None] * deviation).T @ deviation + MIN_VARIANCE * jnp.eye(dim)
    return 2.38 / jnp.sqrt(dim) * jnp.linalg.cholesky(covariance)
