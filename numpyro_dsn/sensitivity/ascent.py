"""Newton's method uphill, from any start and to any kind of summit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

NUM_STEPS = 50

MAX_STEP = 1.0
"""Longest step, in units of the scale: it keeps an ascent in its own basin."""

MIN_CURVATURE = 1e-4

STEP_SIZES = 2.0 ** -np.arange(8.0)


def ascend(
    log_density: Callable[[Array], Array],
    start: Array,
    scale: Array,
    is_free: Array,
    lower: Array,
    upper: Array,
    num_steps: int = NUM_STEPS,
) -> Array:
    r"""Climb a log density by Newton's method, and return every point on the way.

    .. math:: \delta = |H|^{-1} g

    With the absolute values of the Hessian's eigenvalues every step leads uphill, away from saddles
    too. Steps are measured in units of the scale, and the best one of several lengths is taken, so
    that the density never falls. A coordinate at a bound that the gradient points at stays there
    while the others move.

    Parameters
    ----------
    log_density
        Function of a vector of shape ``(D,)``.
    start
        Where to start, shape ``(D,)``.
    scale
        Unit of each coordinate, shape ``(D,)``.
    is_free
        Which coordinates may move, shape ``(D,)``.
    lower, upper
        Bounds of the ascent, each of shape ``(D,)``.
    num_steps
        Number of steps.

    Returns
    -------
    The start and the point after every step, shape ``(num_steps + 1, D)``.

    References
    ----------
    Dauphin et al., *Identifying and attacking the saddle point problem in high-dimensional
    non-convex optimization*, NeurIPS 2014. D. P. Bertsekas, *Projected Newton methods for
    optimization problems with simple constraints*, SIAM J. Control Optim. 20(2), 1982.
    """

    def objective(y: Array) -> Array:
        return log_density(scale * y)

    def step(y: Array, _: None) -> tuple[Array, Array]:
        slope = jax.grad(objective)(y)
        is_held = ((y <= low) & (slope < 0)) | ((y >= high) & (slope > 0)) | ~is_free
        gradient = jnp.where(is_held, 0.0, slope)
        both = ~is_held[:, None] & ~is_held[None]
        values, vectors = jnp.linalg.eigh(jnp.where(both, jax.hessian(objective)(y), 0.0))
        newton = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), MIN_CURVATURE))
        newton = jnp.where(is_held, 0.0, newton)
        newton *= jnp.minimum(1.0, MAX_STEP / jnp.linalg.norm(newton))
        sizes = jnp.array([0.0, *STEP_SIZES])
        # A step of size zero stays where it is, even if the direction is not finite.
        moved = jnp.where(sizes[:, None] > 0, y[None] + sizes[:, None] * newton[None], y[None])
        moved = jnp.clip(moved, low[None], high[None])
        heights = jax.vmap(objective)(moved)
        best = moved[jnp.argmax(jnp.where(jnp.isfinite(heights), heights, -jnp.inf))]
        return best, best

    low, high = lower / scale, upper / scale
    first = jnp.clip(start / scale, low, high)
    _, path = jax.lax.scan(step, first, length=num_steps)
    return scale[None] * jnp.concatenate([first[None], path])
