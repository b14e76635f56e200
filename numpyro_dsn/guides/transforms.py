"""Invertible layers of a flow, with exact inverses and log determinants."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from numpyro_dsn.guides.couplings import permute
from numpyro_dsn.guides.network import fourier_features, network


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


class AffineCouplings(Layer):
    r"""Layers that each scale and shift some coordinates by functions of the others.

    .. math:: y_b = x_b \exp(s(x_a)) + t(x_a), \qquad y_a = x_a

    All layers have the same shape, and are compiled once.

    Parameters
    ----------
    orders
        For each layer, the indices of all coordinates: first those that stay, then those that move.
    num_transformed
        Number of coordinates that move.
    networks
        Weights and biases of every layer's :func:`network` from what stays, and its
        :func:`fourier_features` of periods 16, 8, 4, ..., to s, then t: pairs of arrays of shapes
        ``(num_layers, num_in, num_out)`` and ``(num_layers, num_out)``.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio (2017), *Density estimation using Real NVP*, eq. 7-8.
    """

    max_log_scale = 3.0
    """A coupling scales by at most exp(3): far draws then stay finite in float32."""

    def __init__(
        self,
        orders: tuple[tuple[int, ...], ...],
        num_transformed: int,
        networks: Sequence[tuple[Array, Array]],
    ) -> None:
        self.orders = orders
        self.num_transformed = num_transformed
        self.networks = networks

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""

        def move(log_scale: Array, shift: Array, moving: Array) -> Array:
            return moving * jnp.exp(log_scale) + shift

        return self._apply(x, move, reverse=False)

    def invert(self, y: Array) -> tuple[Array, Array]:
        """Return x and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""

        def move_back(log_scale: Array, shift: Array, moved: Array) -> Array:
            return (moved - shift) * jnp.exp(-log_scale)

        return self._apply(y, move_back, reverse=True)

    def _apply(
        self, vector: Array, move: Callable[[Array, Array, Array], Array], reverse: bool
    ) -> tuple[Array, Array]:
        orders = np.array(self.orders)
        first, last = (-1, 0) if reverse else (0, -1)
        # From the order of each layer straight to the next one's, from the last to the vector's.
        following = np.roll(orders, 1 if reverse else -1, axis=0)
        following[last] = np.arange(orders.shape[-1])
        ways = np.take_along_axis(np.argsort(orders, axis=-1), following, axis=-1)

        def layer(carry: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], None]:
            (ordered, log_det), (way, networks) = carry, inputs
            stay, moving = jnp.split(ordered, [self._num_stay], axis=-1)
            log_scale, shift = self._log_scale_and_shift(networks, stay)
            moved = move(log_scale, shift, moving)
            ordered = permute(jnp.concatenate([stay, moved], axis=-1), way)
            return (ordered, log_det + log_scale.sum(-1)), None

        vector = vector.astype(jnp.result_type(vector, self.networks[0][0]))
        start = permute(vector, orders[first]), jnp.zeros(vector.shape[:-1], vector.dtype)
        return jax.lax.scan(layer, start, (ways, self.networks), reverse=reverse)[0]

    def _log_scale_and_shift(
        self, networks: Sequence[tuple[Array, Array]], stay: Array
    ) -> tuple[Array, Array]:
        num_octaves = (networks[0][0].shape[-2] // self._num_stay - 1) // 2
        features = [stay, fourier_features(stay, np.pi / 8, num_octaves)]
        outputs = network(networks, jnp.concatenate(features, axis=-1))
        log_scale, shift = jnp.split(outputs, 2, axis=-1)
        return self.max_log_scale * jnp.tanh(log_scale / self.max_log_scale), shift

    @property
    def _num_stay(self) -> int:
        return len(self.orders[0]) - self.num_transformed

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        static = {"orders": self.orders, "num_transformed": self.num_transformed}
        return (self.networks,), (("networks",), static)


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
