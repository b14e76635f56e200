"""Invertible layers of a flow, with exact inverses and log determinants."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from numpyro_dsn.guides.network import network, waves

MAX_LOG_SCALE = 3.0
"""A coupling scales by at most exp(3): far draws then stay finite in float32."""

SPLINE_RANGE = 4.0
"""Splines are linear beyond this many standard deviations of the base distribution."""

MIN_SLOPE = 0.03
"""Least slope of a spline at its knots, and least mean slope between two of them. Far smaller ones
close gaps by layers so thin that a single draw in one outweighs all others in the gradient."""


class Layer(Transform):
    """A bijection of R^D whose log determinant costs nothing beside its value or its inverse."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __call__(self, x: Array) -> Array:
        """Return y, shape ``(..., D)``."""
        return self.call_with_intermediates(x)[0]

    @abstractmethod
    def invert(self, y: Array) -> tuple[Array, Array]:
        """Return x and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""

    def _inverse(self, y: Array) -> Array:
        return self.invert(y)[0]

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Array | None = None) -> Array:
        """Return log |det dy/dx|, shape ``(...)``."""
        if intermediates is not None:
            return intermediates
        return self.call_with_intermediates(x)[1]

    @abstractmethod
    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""


class Couplings(Layer):
    """Layers that each move some coordinates of a vector as a function of the others.

    All layers have the same shape, and are compiled once.

    Parameters
    ----------
    orders
        For each layer, the indices of all coordinates: first those that stay, then those that move.
    num_transformed
        Number of coordinates that move.
    networks
        Weights and biases of every layer's :func:`network` from the :func:`waves` of what stays to
        the shape of the move: pairs of arrays of shapes ``(num_layers, num_in, num_out)`` and
        ``(num_layers, num_out)``.
    """

    def __init__(
        self,
        orders: tuple[tuple[int, ...], ...],
        num_transformed: int,
        networks: Sequence[tuple[Array, Array]],
    ) -> None:
        self.orders = orders
        self.num_transformed = num_transformed
        self.networks = networks

    @staticmethod
    @abstractmethod
    def num_outputs(num_transformed: int, num_bins: int) -> int:
        """Return the width of a network's last layer."""

    @staticmethod
    @abstractmethod
    def move(output: Array, x: Array) -> tuple[Array, Array]:
        """Return what becomes of the coordinates that move, and log |det dy/dx|."""

    @staticmethod
    @abstractmethod
    def move_back(output: Array, y: Array) -> tuple[Array, Array]:
        """Return the inverse of :meth:`move`, and log |det dy/dx|."""

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        return self._apply(x, self.move, reverse=False)

    def invert(self, y: Array) -> tuple[Array, Array]:
        """Return x and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        return self._apply(y, self.move_back, reverse=True)

    def _apply(
        self, vector: Array, move: Callable[[Array, Array], tuple[Array, Array]], reverse: bool
    ) -> tuple[Array, Array]:
        num_frequencies = (self.networks[0][0].shape[-2] // self._num_stay - 1) // 2
        orders = np.array(self.orders)
        first, last = (-1, 0) if reverse else (0, -1)
        # From the order of each layer straight to the next one's, from the last to the vector's.
        following = np.roll(orders, 1 if reverse else -1, axis=0)
        following[last] = np.arange(orders.shape[-1])
        ways = np.take_along_axis(np.argsort(orders, axis=-1), following, axis=-1)

        def layer(carry: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], None]:
            (ordered, log_det), (way, networks) = carry, inputs
            stay, moving = jnp.split(ordered, [self._num_stay], axis=-1)
            moved, change = move(network(networks, waves(stay, num_frequencies)), moving)
            return (_permute(jnp.concatenate([stay, moved], axis=-1), way), log_det + change), None

        vector = vector.astype(jnp.result_type(vector, self.networks[0][0]))
        start = _permute(vector, orders[first]), jnp.zeros(vector.shape[:-1], vector.dtype)
        return jax.lax.scan(layer, start, (ways, self.networks), reverse=reverse)[0]

    @property
    def _num_stay(self) -> int:
        return len(self.orders[0]) - self.num_transformed

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        static = {"orders": self.orders, "num_transformed": self.num_transformed}
        return (self.networks,), (("networks",), static)


class AffineCouplings(Couplings):
    r"""Scale and shift some coordinates by functions of the others.

    .. math:: y_b = x_b \exp(s(x_a)) + t(x_a), \qquad y_a = x_a

    The network's outputs are s, then t.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio, *Density estimation using Real NVP*, eq. 7-8.
    """

    @staticmethod
    def num_outputs(num_transformed: int, num_bins: int) -> int:
        """Return the width of a network's last layer; there are no bins."""
        return 2 * num_transformed

    @staticmethod
    def move(output: Array, x: Array) -> tuple[Array, Array]:
        """Return what becomes of the coordinates that move, and log |det dy/dx|."""
        log_scale, shift = _log_scale_and_shift(output)
        return x * jnp.exp(log_scale) + shift, log_scale.sum(-1)

    @staticmethod
    def move_back(output: Array, y: Array) -> tuple[Array, Array]:
        """Return the inverse of :meth:`move`, and log |det dy/dx|."""
        log_scale, shift = _log_scale_and_shift(output)
        return (y - shift) * jnp.exp(-log_scale), log_scale.sum(-1)


class MonotoneSpline(Layer):
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
        slope = _slope(fraction, chord, left, right)
        # Outside the knots `slope` is the end derivative, because `fraction` is clipped to 0 or 1.
        outside = (position - index - fraction) * width
        return y + slope * outside, jnp.log(slope).sum(-1)

    def invert(self, y: Array) -> tuple[Array, Array]:
        """Return x and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
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
        x = (index + fraction) * width - SPLINE_RANGE + below + above
        return x, jnp.log(_slope(fraction, chord, left, right)).sum(-1)

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        return (self.heights, self.slopes), (("heights", "slopes"), {})


class ElementwiseAffine(Layer):
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
        return self.loc + self.scale * x, self._log_det(x)

    def invert(self, y: Array) -> tuple[Array, Array]:
        """Return x and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        return (y - self.loc) / self.scale, self._log_det(y)

    def _log_det(self, vector: Array) -> Array:
        return jnp.broadcast_to(jnp.log(self.scale).sum(-1), vector.shape[:-1])

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        return (self.loc, self.scale), (("loc", "scale"), {})


def _permute(x: Array, order: Array) -> Array:
    """Return the coordinates in another order; the gradient is as fast as the value."""
    return jnp.take(x, order, axis=-1, unique_indices=True, mode="clip")


def _log_scale_and_shift(output: Array) -> tuple[Array, Array]:
    """Split the output of an affine coupling's network; limit the scale."""
    log_scale, shift = jnp.split(output, 2, axis=-1)
    return MAX_LOG_SCALE * jnp.tanh(log_scale / MAX_LOG_SCALE), shift


def _slope(fraction: Array, chord: Array, left: Array, right: Array) -> Array:
    """Return the derivative of a spline at a fraction of a bin with these slopes at its ends."""
    inner = fraction * (1 - fraction)
    denominator = chord + (left + right - 2 * chord) * inner
    numerator = right * fraction**2 + 2 * chord * inner + left * (1 - fraction) ** 2
    return chord**2 * numerator / denominator**2


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
