"""Splines of the real line, one for each coordinate, with linear tails."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.guides.splines import part_at, rise
from numpyro_dsn.guides.transforms import Layer


class TailedSpline(Layer):
    r"""Bend each coordinate by its own monotone rational-quadratic spline, linear in the tails.

    The knots are equally spaced in x on [-4, 4] and free in y; zero parameters are the identity.

    Parameters
    ----------
    heights
        Unconstrained heights of the bins, shape ``(D, num_bins)``.
    slopes
        Unconstrained derivatives at the knots, shape ``(D, num_bins + 1)``.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios (2019), *Neural Spline Flows*, eq. 4-8.
    """

    limit = 4.0
    """The spline is linear beyond this many standard deviations of the base distribution."""

    min_slope = 0.03
    """Least slope at a knot, and least mean slope between two. Far smaller ones close gaps by
    layers so thin that a single draw in one outweighs all others in the gradient."""

    def __init__(self, heights: Array, slopes: Array) -> None:
        self.heights = heights
        self.slopes = slopes

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        starts, heights, slopes, width = self._knots()
        num_bins = heights.shape[-1]
        position = (x + self.limit) / width
        index = jnp.clip(jnp.floor(position), 0, num_bins - 1).astype(int)
        start, height, left, right = _select(index, starts, heights, slopes)
        fraction = jnp.clip(position - index, 0.0, 1.0)
        chord = height / width
        y = start + rise(fraction, height, chord, left, right)
        slope = _slope(fraction, chord, left, right)
        # Outside the knots `slope` is the end derivative, because `fraction` is clipped to 0 or 1.
        outside = (position - index - fraction) * width
        return y + slope * outside, jnp.log(slope).sum(-1)

    def invert(self, y: Array) -> tuple[Array, Array]:
        """Return x and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        starts, heights, slopes, width = self._knots()
        index = jnp.sum(y[..., None] >= starts[..., 1:], axis=-1)
        start, height, left, right = _select(index, starts, heights, slopes)
        chord = height / width
        fraction = part_at(y - start, height, chord, left, right)
        below = jnp.minimum(y - starts[..., 0], 0.0) / slopes[..., 0]
        end = starts[..., -1] + heights[..., -1]
        above = jnp.maximum(y - end, 0.0) / slopes[..., -1]
        x = (index + fraction) * width - self.limit + below + above
        return x, jnp.log(_slope(fraction, chord, left, right)).sum(-1)

    def _knots(self) -> tuple[Array, Array, Array, float]:
        """Return low end and height of each bin, slopes at the knots, and the width of a bin."""
        num_bins = self.heights.shape[-1]
        width = 2 * self.limit / num_bins
        heights = width * self._positive(self.heights)
        starts = jnp.cumsum(heights, axis=-1) - heights
        # The middle knot stays where it is in x, so that location is left to the affine layer.
        middle = num_bins // 2
        starts = starts - starts[..., middle : middle + 1] + (middle * width - self.limit)
        return starts, heights, self._positive(self.slopes), width

    def _positive(self, x: Array) -> Array:
        """Map the reals to the positive numbers, zero to one."""
        return jax.nn.softplus(x + np.log(np.expm1(1 - self.min_slope))) + self.min_slope

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        return (self.heights, self.slopes), (("heights", "slopes"), {})


def _slope(fraction: Array, chord: Array, left: Array, right: Array) -> Array:
    """Return the derivative of a spline at a fraction of a bin with these slopes at its ends."""
    inner = fraction * (1 - fraction)
    denominator = chord + (left + right - 2 * chord) * inner
    numerator = right * fraction**2 + 2 * chord * inner + left * (1 - fraction) ** 2
    return chord**2 * numerator / denominator**2


def _select(index: Array, starts: Array, heights: Array, slopes: Array) -> tuple[Array, ...]:
    """Return start, height and both end slopes of the bins; a one-hot product, not a gather.

    The gradient of a gather is a scatter, which is several times slower on a CPU.
    """
    chosen = jax.nn.one_hot(index, heights.shape[-1], dtype=heights.dtype)
    tables = (starts, heights, slopes[..., :-1], slopes[..., 1:])
    return tuple(jnp.sum(chosen * table, axis=-1) for table in tables)
