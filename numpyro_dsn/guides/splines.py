"""Monotone rational-quadratic splines of the unit interval onto itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Spline(NamedTuple):
    """Splines, one for each element.

    x, y
        Knots, from 0 to 1, each of shape ``(..., num_bins + 1)``.
    slopes
        Derivatives at the knots, of the same shape.
    """

    x: Array
    y: Array
    slopes: Array


def num_outputs(num_bins: int) -> int:
    """Return how many unconstrained numbers shape one spline."""
    return 3 * num_bins + 1


def spline(shape: Array, min_width: float) -> Spline:
    """Return splines from unconstrained numbers; zeros are the identity.

    Parameters
    ----------
    shape
        Widths, heights and slopes, shape ``(..., 3 * num_bins + 1)``.
    min_width
        Least width and height of a bin, and least slope at a knot.
    """
    num_bins = (shape.shape[-1] - 1) // 3
    widths, heights, slopes = jnp.split(shape, [num_bins, 2 * num_bins], axis=-1)
    slopes = min_width + jax.nn.softplus(slopes + np.log(np.expm1(1 - min_width)))
    return Spline(_knots(widths, min_width), _knots(heights, min_width), slopes)


def forward(curve: Spline, x: Array) -> tuple[Array, Array]:
    """Return y and log |dy/dx| at x, each of the shape of x."""
    start, width, low, height, left, right = _bin(curve, curve.x, x)
    chord = height / width
    part = jnp.clip((x - start) / width, 0.0, 1.0)
    y = low + rise(part, height, chord, left, right)
    return y, _log_slope(part, chord, left, right)


def inverse(curve: Spline, y: Array) -> tuple[Array, Array]:
    """Return x and log |dy/dx| at y, each of the shape of y."""
    start, width, low, height, left, right = _bin(curve, curve.y, y)
    chord = height / width
    part = part_at(y - low, height, chord, left, right)
    return start + part * width, _log_slope(part, chord, left, right)


def rise(part: Array, height: Array, chord: Array, left: Array, right: Array) -> Array:
    """Return how far a spline has risen at a fraction of a bin.

    Parameters
    ----------
    part
        Fraction of the bin's width.
    height, chord
        Height of the bin, and its mean slope.
    left, right
        Slopes at the bin's ends.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios (2019), *Neural Spline Flows*, eq. 4.
    """
    inner = part * (1 - part)
    denominator = chord + (left + right - 2 * chord) * inner
    return height * (chord * part**2 + left * inner) / denominator


def part_at(offset: Array, height: Array, chord: Array, left: Array, right: Array) -> Array:
    """Return the fraction of a bin where a spline has risen so far; the inverse of :func:`rise`.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios (2019), *Neural Spline Flows*, eq. 6 to 8.
    """
    offset = jnp.clip(offset, 0.0, height)
    bend = left + right - 2 * chord
    a = height * (chord - left) + offset * bend
    b = height * left - offset * bend
    c = -chord * offset
    # Rounding can make this zero, where a square root has no gradient.
    root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, jnp.finfo(offset.dtype).tiny))
    # Either form of the root, whichever does not cancel; a > 0 where b < 0.
    falls = b < 0
    part = jnp.where(falls, root - b, -2 * c) / jnp.where(falls, 2 * a, b + root)
    return jnp.clip(part, 0.0, 1.0)


def _log_slope(part: Array, chord: Array, left: Array, right: Array) -> Array:
    """Return the log derivative at a fraction of a bin; eq. 5 there."""
    inner = part * (1 - part)
    numerator = right * part**2 + 2 * chord * inner + left * (1 - part) ** 2
    return 2 * jnp.log(chord / (chord + (left + right - 2 * chord) * inner)) + jnp.log(numerator)


def _knots(logits: Array, min_width: float) -> Array:
    num_bins = logits.shape[-1]
    parts = min_width + (1 - min_width * num_bins) * jax.nn.softmax(logits, axis=-1)
    # A cumulative sum; as a product of matrices it takes half the time.
    return parts @ np.triu(np.ones((num_bins, num_bins + 1), parts.dtype), 1)


def _bin(curve: Spline, knots: Array, value: Array) -> tuple[Array, ...]:
    """Return start, width, low end, height and both end slopes of the bin that holds a value."""
    index = jnp.sum(value[..., None] >= knots[..., 1:-1], axis=-1, keepdims=True)

    def pick(table: Array, index: Array) -> Array:
        return jnp.take_along_axis(table, index, axis=-1, mode="clip")[..., 0]

    start, low, left = (pick(table, index) for table in curve)
    end, high, right = (pick(table, index + 1) for table in curve)
    return start, end - start, low, high - low, left, right
