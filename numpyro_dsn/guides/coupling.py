"""The base of coupling flows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.distributions.transforms import Transform
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.guides.flow import AutoFlow
from numpyro_dsn.guides.transforms import Coupling, MonotoneSpline

MAX_SINGLE = 8
"""Largest dimension in which couplings move a single coordinate."""


class AutoCoupling(AutoFlow):
    """Couplings of one kind, then a monotone spline on each coordinate.

    The spline shapes the marginals, and is all there is in one dimension. A subclass names the
    kind of coupling.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    num_layers
        Number of couplings, of which none is used in one dimension. By default two for each
        coordinate, but at least six; six where a coupling moves half of the coordinates.
    hidden_dims
        Widths of the hidden layers of each coupling's network.
    num_frequencies
        Number of sines and of cosines of each coordinate that these networks see.
    num_bins
        Number of bins of each coordinate's last spline; splines of couplings have half as many.
    num_components, init_variance, prefix, init_loc_fn
        As in :class:`AutoFlow`.
    """

    coupling: type[Coupling]

    def __init__(
        self,
        model: Callable,
        *,
        num_layers: int | None = None,
        hidden_dims: tuple[int, ...] = (50, 50),
        num_frequencies: int = 5,
        num_bins: int = 16,
        num_components: int = 1,
        init_variance: float | None = None,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ) -> None:
        self.num_layers = num_layers
        self.hidden_dims = tuple(hidden_dims)
        self.num_frequencies = num_frequencies
        self.num_bins = num_bins
        super().__init__(
            model,
            num_components=num_components,
            init_variance=init_variance,
            prefix=prefix,
            init_loc_fn=init_loc_fn,
        )

    def _layers(self) -> list[Transform]:
        dim = self.latent_dim
        couplings = []
        num_layers = self.num_layers
        if num_layers is None:
            num_layers = max(2 * dim, 6) if dim <= MAX_SINGLE else 6
        for index in range(num_layers if dim > 1 else 0):
            conditioner, transformed = split(index, dim)
            num_outputs = self.coupling.num_outputs(len(transformed), self.num_bins // 2)
            # Waves in one dimension only: in several they leave ripples between the draws.
            num_frequencies = self.num_frequencies if len(conditioner) == 1 else 0
            num_inputs = (2 * num_frequencies + 1) * len(conditioner)
            widths = (num_inputs, *self.hidden_dims, num_outputs)
            layers = network_params(f"{self.prefix}_coupling{index}", widths)
            couplings.append(self.coupling(conditioner, transformed, layers))
        heights = numpyro.param(f"{self.prefix}_heights", jnp.zeros((dim, self.num_bins)))
        slopes = numpyro.param(f"{self.prefix}_slopes", jnp.zeros((dim, self.num_bins + 1)))
        return [*couplings, MonotoneSpline(heights, slopes)]


def split(index: int, dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the coordinates that stay and those that move in the coupling of this index.

    In a few dimensions a coupling moves one coordinate, given all others: solutions lie on thin
    sheets, and one coupling can bend a whole sheet. In many, couplings come in pairs that move
    complementary halves. Which come together is random, but the same in every run.
    """
    if dim <= MAX_SINGLE:
        moved = int(np.random.default_rng(index // dim).permutation(dim)[index % dim])
        return tuple(i for i in range(dim) if i != moved), (moved,)
    order = np.random.default_rng(index // 2).permutation(dim)
    first, second = order[: dim // 2], order[dim // 2 :]
    halves = (first, second) if index % 2 else (second, first)
    return tuple(int(i) for i in halves[0]), tuple(int(i) for i in halves[1])


def network_params(name: str, widths: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Return weights and biases of a network as param sites; its output starts at zero."""
    last = len(widths) - 2
    layers = []
    for index, (num_in, num_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        initial = jax.nn.initializers.zeros if index == last else jax.nn.initializers.he_normal()

        def weight(
            key: Array, initial: Callable = initial, shape: tuple = (num_in, num_out)
        ) -> Array:
            return initial(key, shape, jnp.zeros(()).dtype)

        layers.append(
            (
                numpyro.param(f"{name}_weight{index}", weight),
                numpyro.param(f"{name}_bias{index}", jnp.zeros(num_out)),
            )
        )
    return layers
