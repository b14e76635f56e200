r"""Monotone maps between logits of points of the unit interval.

.. math:: y \to \mathrm{logit} \, S\left(\mathrm{sigmoid} \frac{y - t}{e^s}\right)

Shift and scale of the logit move mass far out to the faces of the interval and back, where the
spline S of the interval onto itself has but its outermost bins.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.guides import splines
from numpyro_dsn.guides.splines import Spline


class LogitSpline(NamedTuple):
    """Maps of logits, one for each element.

    log_scale, shift
        s and t, each of shape ``(...)``.
    spline
        S.
    """

    log_scale: Array
    shift: Array
    spline: Spline


def num_outputs(num_bins: int) -> int:
    """Return how many unconstrained numbers shape one map."""
    return 2 + splines.num_outputs(num_bins)


def logit_spline(shape: Array, max_log_scale: float, min_width: float) -> LogitSpline:
    """Return maps from unconstrained numbers; zeros are the identity.

    Parameters
    ----------
    shape
        Log scale, shift and shape of the spline, shape ``(..., num_outputs(num_bins))``.
    max_log_scale
        Bound on the size of s.
    min_width
        Least width and height of a bin, and least slope at a knot.
    """
    log_scale = max_log_scale * jnp.tanh(shape[..., 0] / max_log_scale)
    return LogitSpline(log_scale, shape[..., 1], splines.spline(shape[..., 2:], min_width))


def to_noise(curve: LogitSpline, y: Array, edge: float) -> tuple[Array, Array]:
    """Map logits forward.

    Parameters
    ----------
    curve
        The maps.
    y
        Logits, shape ``(...)``.
    edge
        Values of the spline count as no closer to 0 and 1.

    Returns
    -------
    The new logits x, and log |dx/dy|, each of the shape of ``y``.
    """
    inner = (y - curve.shift) * jnp.exp(-curve.log_scale)
    v, log_slope = splines.forward(curve.spline, jax.nn.sigmoid(inner))
    x = logit(v, edge)
    return x, log_slope - curve.log_scale + log_logistic(inner) - log_logistic(x)


def from_noise(curve: LogitSpline, x: Array, edge: float) -> tuple[Array, Array]:
    """Map logits back: the inverse of :func:`to_noise`, with the same parameters.

    Returns
    -------
    The old logits y, and log |dx/dy|, each of the shape of ``x``.
    """
    v, log_slope = splines.inverse(curve.spline, jax.nn.sigmoid(x))
    inner = logit(v, edge)
    y = inner * jnp.exp(curve.log_scale) + curve.shift
    return y, log_slope - curve.log_scale + log_logistic(inner) - log_logistic(x)


def logit(v: Array, edge: float) -> Array:
    """Return the logit of v, which counts as no closer to 0 and 1 than ``edge``."""
    v = jnp.clip(v, edge, 1 - edge)
    return jnp.log(v) - jnp.log1p(-v)


def log_logistic(y: Array) -> Array:
    """Return the log density of the standard logistic distribution."""
    return jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y)
