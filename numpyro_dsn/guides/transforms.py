"""Invertible layers of a flow, with exact inverses and log determinants."""

from abc import abstractmethod
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

MAX_LOG_SCALE = 3.0
"""A coupling scales by at most exp(3): far draws then stay finite in float32."""

SPLINE_RANGE = 4.0
"""Splines are linear beyond this many standard deviations of the base distribution."""

MIN_SLOPE = 1e-3
"""Least slope of a spline at its knots, and least mean slope between two of them."""


class _Layer(Transform):
    """A bijection of R^D whose log determinant costs nothing beside its value."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __call__(self, x: Array) -> Array:
        return self.call_with_intermediates(x)[0]

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Array | None = None) -> Array:
        if intermediates is not None:
            return intermediates
        return self.call_with_intermediates(x)[1]


class Coupling(_Layer):
    """The interface of a layer that moves one half of a vector as a function of the other half.

    Parameters
    ----------
    conditioner
        Indices that stay, as a tuple of integers.
    transformed
        Indices that move.
    layers
        Weights and biases of a :func:`network` from the :func:`waves` of the half that stays to
        the shape of the move: pairs of arrays of shapes ``(num_in, num_out)`` and ``(num_out,)``.
    """

    def __init__(
        self,
        conditioner: tuple[int, ...],
        transformed: tuple[int, ...],
        layers: Sequence[tuple[Array, Array]],
    ) -> None:
        self.conditioner = conditioner
        self.transformed = transformed
        self.layers = layers

    @staticmethod
    @abstractmethod
    def num_outputs(num_transformed: int, num_bins: int) -> int:
        """Return the width of the network's last layer."""

    def _network(self, conditioner: Array) -> Array:
        num_inputs = self.layers[0][0].shape[0]
        num_frequencies = (num_inputs // len(self.conditioner) - 1) // 2
        return network(self.layers, waves(conditioner, num_frequencies))

    def _join(self, conditioner: Array, transformed: Array) -> Array:
        order = np.argsort(self.conditioner + self.transformed)
        return jnp.concatenate([conditioner, transformed], axis=-1)[..., order]

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        static = {"conditioner": self.conditioner, "transformed": self.transformed}
        return (self.layers,), (("layers",), static)


class AffineCoupling(Coupling):
    r"""Scale and shift one half of a vector by functions of the other half.

    .. math:: y_b = x_b \exp(s(x_a)) + t(x_a), \qquad y_a = x_a

    The network's outputs are s, then t.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP*, eq. 7-8.
    """

    @staticmethod
    def num_outputs(num_transformed: int, num_bins: int) -> int:
        """Return the width of the network's last layer; there are no bins."""
        return 2 * num_transformed

    def _log_scale_and_shift(self, vector: Array) -> tuple[Array, Array]:
        output = self._network(vector[..., list(self.conditioner)])
        log_scale, shift = jnp.split(output, 2, axis=-1)
        return MAX_LOG_SCALE * jnp.tanh(log_scale / MAX_LOG_SCALE), shift

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        log_scale, shift = self._log_scale_and_shift(x)
        moved = x[..., list(self.transformed)] * jnp.exp(log_scale) + shift
        return self._join(x[..., list(self.conditioner)], moved), log_scale.sum(-1)

    def _inverse(self, y: Array) -> Array:
        log_scale, shift = self._log_scale_and_shift(y)
        moved = (y[..., list(self.transformed)] - shift) * jnp.exp(-log_scale)
        return self._join(y[..., list(self.conditioner)], moved)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Array | None = None) -> Array:
        """Return log |det dy/dx|, shape ``(...)``."""
        # From y, not x: the inverse evaluates the same network at y, and XLA keeps one of the two.
        return self._log_scale_and_shift(y)[0].sum(-1) if intermediates is None else intermediates


class MonotoneSpline(_Layer):
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
    Durkan, Bekasov, Murray and Papamakarios, *Neural Spline Flows*, eq. 4-8.
    """

    def __init__(self, heights: Array, slopes: Array) -> None:
        self.heights = heights
        self.slopes = slopes

    def _knots(self) -> tuple[Array, Array, Array, float]:
        num_bins = self.heights.shape[-1]
        width = 2 * SPLINE_RANGE / num_bins
        heights = width * _positive(self.heights)
        starts = jnp.cumsum(heights, axis=-1) - heights
        # The middle knot stays where it is in x, so that location is left to the affine layer.
        middle = num_bins // 2
        starts = starts - starts[..., middle : middle + 1] + (middle * width - SPLINE_RANGE)
        return starts, heights, _positive(self.slopes), width

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        starts, heights, slopes, width = self._knots()
        num_bins = heights.shape[-1]
        position = (x + SPLINE_RANGE) / width
        index = jnp.clip(jnp.floor(position), 0, num_bins - 1).astype(int)
        start, height, left, right = _select(index, starts, heights, slopes)
        fraction = jnp.clip(position - index, 0.0, 1.0)
        chord = height / width
        inner = fraction * (1 - fraction)
        denominator = chord + (left + right - 2 * chord) * inner
        y = start + height * (chord * fraction**2 + left * inner) / denominator
        slope = (
            chord**2
            * (right * fraction**2 + 2 * chord * inner + left * (1 - fraction) ** 2)
            / denominator**2
        )
        # Outside the knots `slope` is the end derivative, because `fraction` is clipped to 0 or 1.
        outside = (position - index - fraction) * width
        return y + slope * outside, jnp.log(slope).sum(-1)

    def _inverse(self, y: Array) -> Array:
        starts, heights, slopes, width = self._knots()
        num_bins = heights.shape[-1]
        index = jnp.sum(y[..., None] >= starts[..., 1:], axis=-1)
        start, height, left, right = _select(index, starts, heights, slopes)
        offset = jnp.clip(y - start, 0.0, height)
        chord = height / width
        bend = left + right - 2 * chord
        a = height * (chord - left) + offset * bend
        b = height * left - offset * bend
        c = -chord * offset
        # Rounding can make this zero, where a square root has no gradient.
        root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, jnp.finfo(y.dtype).tiny))
        # Either form of the root, whichever does not cancel; a > 0 where b < 0.
        falls = b < 0
        fraction = jnp.where(falls, root - b, -2 * c) / jnp.where(falls, 2 * a, b + root)
        fraction = jnp.clip(fraction, 0.0, 1.0)
        below = jnp.minimum(y - starts[..., 0], 0.0) / _positive(self.slopes[..., 0])
        end = starts[..., -1] + heights[..., -1]
        above = jnp.maximum(y - end, 0.0) / _positive(self.slopes[..., num_bins])
        return (index + fraction) * width - SPLINE_RANGE + below + above

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        return (self.heights, self.slopes), (("heights", "slopes"), {})


class ElementwiseAffine(_Layer):
    r"""Scale and shift each coordinate: :math:`y = \mu + \sigma x`.

    Parameters
    ----------
    loc, scale
        Location and positive scale, each of shape ``(D,)``.
    """

    def __init__(self, loc: Array, scale: Array) -> None:
        self.loc = loc
        self.scale = scale

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        log_det = jnp.broadcast_to(jnp.log(self.scale).sum(-1), x.shape[:-1])
        return self.loc + self.scale * x, log_det

    def _inverse(self, y: Array) -> Array:
        return (y - self.loc) / self.scale

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        return (self.loc, self.scale), (("loc", "scale"), {})


def network(layers: Sequence[tuple[Array, Array]], x: Array) -> Array:
    r"""Apply a network with a linear last layer; its hidden units are :math:`x / (1 + e^{-x})`.

    Smooth units, so that the log density of a flow has second derivatives.

    Parameters
    ----------
    layers
        Weights and biases, of shapes ``(num_in, num_out)`` and ``(num_out,)``.
    x
        Inputs, shape ``(..., num_in)``.

    Returns
    -------
    Outputs, shape ``(..., num_out)``.
    """
    *hidden, (weight, bias) = layers
    for hidden_weight, hidden_bias in hidden:
        x = jax.nn.silu(jnp.matmul(x, hidden_weight) + hidden_bias)
    return jnp.matmul(x, weight) + bias


def waves(x: Array, num_frequencies: int) -> Array:
    r"""Append sines and cosines of each input, with periods of 16, 8, 4, ... standard deviations.

    .. math:: (x, \sin(2^k \pi x / 8), \cos(2^k \pi x / 8)), \qquad k = 0, \dots, K - 1

    A network of x alone learns what changes fast in x late, or never.

    Parameters
    ----------
    x
        Inputs, shape ``(..., num_in)``.
    num_frequencies
        K.

    Returns
    -------
    Features, shape ``(..., (2 * K + 1) * num_in)``.

    References
    ----------
    Tancik et al. (2020), *Fourier features let networks learn high frequency functions in low
    dimensional domains*, section 2.
    """
    phases = [2.0**k * np.pi / (2 * SPLINE_RANGE) * x for k in range(num_frequencies)]
    return jnp.concatenate([x, *map(jnp.sin, phases), *map(jnp.cos, phases)], axis=-1)


def _positive(x: Array) -> Array:
    """Map the reals to the positive numbers, zero to one."""
    return jax.nn.softplus(x + np.log(np.expm1(1 - MIN_SLOPE))) + MIN_SLOPE


def _select(index: Array, starts: Array, heights: Array, slopes: Array) -> tuple[Array, ...]:
    """Return start, height and both end slopes of the bins; a one-hot product, not a gather.

    The gradient of a gather is a scatter, which is several times slower on a CPU.
    """
    chosen = jax.nn.one_hot(index, heights.shape[-1], dtype=heights.dtype)
    tables = (starts, heights, slopes[..., :-1], slopes[..., 1:])
    return tuple(jnp.sum(chosen * table, axis=-1) for table in tables)
