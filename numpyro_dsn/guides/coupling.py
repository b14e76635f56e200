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


class AutoCoupling(AutoFlow):
    """Couplings of one kind, then a monotone spline on each coordinate.

    The spline shapes the marginals, and is all there is in one dimension. A subclass names the
    kind of coupling.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    num_layers
        Number of couplings. None is used in one dimension.
    num_transformed
        Number of coordinates that a coupling moves, given all others; half of them by default.
        With one, a single coupling can bend a thin sheet, so that fewer make a good fit; but
        where draws are few its networks, of more inputs, guess wrongly.
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
        num_layers: int = 6,
        num_transformed: int | None = None,
        hidden_dims: tuple[int, ...] = (50, 50),
        num_frequencies: int = 5,
        num_bins: int = 16,
        num_components: int = 1,
        init_variance: float | None = None,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ) -> None:
        if num_transformed is not None and num_transformed < 1:
            raise ValueError(f"`num_transformed` must be at least 1, but is {num_transformed}.")
        self.num_layers = num_layers
        self.num_transformed = num_transformed
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
        size = (dim + 1) // 2 if self.num_transformed is None else self.num_transformed
        if dim > 1 and size >= dim:
            raise ValueError(f"`num_transformed` is {size}, of {dim} coordinates; one must stay.")
        for index in range(self.num_layers if dim > 1 else 0):
            conditioner, transformed = split(index, dim, size)
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


def split(index: int, dim: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the coordinates that stay and those that move in the coupling of this index.

    In turn all coordinates move, ``size`` at a time; each turn divides them anew, at random but the
    same in every run.
    """
    turn, part = divmod(index, -(-dim // size))
    order = np.random.default_rng(turn).permutation(dim)
    end = dim - part * size
    transformed = order[max(end - size, 0) : end]
    conditioner = np.setdiff1d(order, transformed, assume_unique=True)
    return tuple(int(i) for i in conditioner), tuple(int(i) for i in transformed)


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
