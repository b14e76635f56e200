"""The neural spline guide."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.distributions.transforms import Transform
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.guides.flow import AutoFlow
from numpyro_dsn.guides.real_nvp import network_params, split
from numpyro_dsn.guides.transforms import MonotoneSpline, _Layer, network


class SplineCoupling(_Layer):
    r"""Bend one half of a vector by splines whose shapes are functions of the other half.

    .. math:: y_b = S(x_b; \theta(x_a)) + t(x_a), \qquad y_a = x_a

    Parameters
    ----------
    conditioner, transformed
        Indices a that stay and indices b that move, as tuples of integers.
    layers
        Weights and biases of a ReLU network from x_a to heights, slopes and shift of the splines.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios, *Neural Spline Flows*, section 3.
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

    def _spline_and_shift(self, vector: Array) -> tuple[MonotoneSpline, Array]:
        output = network(self.layers, vector[..., list(self.conditioner)])
        output = output.reshape((*output.shape[:-1], len(self.transformed), -1))
        num_bins = (output.shape[-1] - 2) // 2
        heights, slopes, shift = jnp.split(output, [num_bins, 2 * num_bins + 1], axis=-1)
        return MonotoneSpline(heights, slopes), shift[..., 0]

    def _join(self, conditioner: Array, transformed: Array) -> Array:
        order = np.argsort(self.conditioner + self.transformed)
        return jnp.concatenate([conditioner, transformed], axis=-1)[..., order]

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """Return y and log |det dy/dx|, shapes ``(..., D)`` and ``(...)``."""
        spline, shift = self._spline_and_shift(x)
        moved, log_det = spline.call_with_intermediates(x[..., list(self.transformed)])
        return self._join(x[..., list(self.conditioner)], moved + shift), log_det

    def _inverse(self, y: Array) -> Array:
        spline, shift = self._spline_and_shift(y)
        moved = spline._inverse(y[..., list(self.transformed)] - shift)
        return self._join(y[..., list(self.conditioner)], moved)

    def tree_flatten(self) -> tuple:
        """Return arrays and static fields, as NumPyro's transforms do."""
        static = {"conditioner": self.conditioner, "transformed": self.transformed}
        return (self.layers,), (("layers",), static)


class AutoNeuralSpline(AutoFlow):
    r"""Neural spline flow: rational-quadratic couplings, then a spline on each coordinate.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    num_layers
        Number of couplings; each moves half of the coordinates. None is used in one dimension.
    hidden_dims
        Widths of the hidden layers of each coupling's network.
    num_bins
        Number of bins of each spline.
    num_components, init_variance, prefix, init_loc_fn
        As in :class:`AutoFlow`.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios, *Neural Spline Flows*, arXiv:1906.04032.
    """

    def __init__(
        self,
        model: Callable,
        *,
        num_layers: int = 6,
        hidden_dims: tuple[int, ...] = (50, 50),
        num_bins: int = 8,
        num_components: int = 1,
        init_variance: float | None = None,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ) -> None:
        self.num_layers = num_layers
        self.hidden_dims = tuple(hidden_dims)
        self.num_bins = num_bins
        super().__init__(
            model,
            num_components=num_components,
            init_variance=init_variance,
            prefix=prefix,
            init_loc_fn=init_loc_fn,
        )

    def _layers(self) -> list[Transform]:
        dim, num_bins = self.latent_dim, self.num_bins
        couplings = []
        for index in range(self.num_layers if dim > 1 else 0):
            conditioner, transformed = split(index, dim)
            num_out = len(transformed) * (2 * num_bins + 2)
            widths = (len(conditioner), *self.hidden_dims, num_out)
            layers = network_params(f"{self.prefix}_coupling{index}", widths)
            couplings.append(SplineCoupling(conditioner, transformed, layers))
        heights = numpyro.param(f"{self.prefix}_heights", jnp.zeros((dim, 2 * num_bins)))
        slopes = numpyro.param(f"{self.prefix}_slopes", jnp.zeros((dim, 2 * num_bins + 1)))
        return [*couplings, MonotoneSpline(heights, slopes)]
