"""The base of coupling flows."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.guides.flow import AutoFlow
from numpyro_dsn.guides.network import network_params
from numpyro_dsn.guides.transforms import Couplings, Layer, MonotoneSpline

NUM_PARTS, NUM_TURNS = 4, 3
"""Parts of the coordinates, which move in turn, at the most; and how often each moves."""


class AutoCoupling(AutoFlow):
    """Couplings of one kind, then a monotone spline on each coordinate.

    The spline shapes the marginals, and is all there is in one dimension. A subclass names the
    kind of coupling.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    num_layers
        Number of couplings; by default as many as move every coordinate three times. None is used
        in one dimension.
    num_transformed
        Number of coordinates that a coupling moves, given all others; by default a quarter of them,
        and one of two or three. The fewer, the thinner a sheet that a single coupling can bend.
    hidden_dims
        Widths of the hidden layers of each coupling's network.
    num_frequencies
        Number of sines and of cosines of each coordinate that these networks see.
    num_bins
        Number of bins of each coordinate's last spline; splines of couplings have half as many.
    num_components, acceptance_dims, num_waves, truncated, init_variance, prefix, init_loc_fn
        As in :class:`AutoFlow`.
    """

    couplings: type[Couplings]

    def __init__(
        self,
        model: Callable,
        *,
        num_layers: int | None = None,
        num_transformed: int | None = None,
        hidden_dims: tuple[int, ...] = (32, 32),
        num_frequencies: int = 5,
        num_bins: int = 16,
        num_components: int = 1,
        acceptance_dims: tuple[int, ...] = (),
        num_waves: int = 0,
        truncated: bool = False,
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
            acceptance_dims=acceptance_dims,
            num_waves=num_waves,
            truncated=truncated,
            init_variance=init_variance,
            prefix=prefix,
            init_loc_fn=init_loc_fn,
        )

    def _layers(self) -> list[Layer]:
        dim = self.latent_dim
        size = -(-dim // NUM_PARTS) if self.num_transformed is None else self.num_transformed
        if dim > 1 and size >= dim:
            raise ValueError(f"`num_transformed` is {size}, of {dim} coordinates; one must stay.")
        heights = numpyro.param(f"{self.prefix}_heights", jnp.zeros((dim, self.num_bins)))
        slopes = numpyro.param(f"{self.prefix}_slopes", jnp.zeros((dim, self.num_bins + 1)))
        spline = MonotoneSpline(heights, slopes)
        num_layers = NUM_TURNS * -(-dim // size) if self.num_layers is None else self.num_layers
        if dim == 1 or num_layers == 0:
            return [spline]
        # Waves in one dimension only: in several they leave ripples between the draws.
        num_frequencies = self.num_frequencies if dim - size == 1 else 0
        num_inputs = (2 * num_frequencies + 1) * (dim - size)
        num_outputs = self.couplings.num_outputs(size, self.num_bins // 2)
        widths = (num_inputs, *self.hidden_dims, num_outputs)
        networks = network_params(f"{self.prefix}_coupling", num_layers, widths)
        orders = tuple(order(index, dim, size) for index in range(num_layers))
        return [self.couplings(orders, size, networks), spline]


def order(index: int, dim: int, size: int) -> tuple[int, ...]:
    """Return the coordinates of the coupling of this index: those that stay, those that move.

    In turn all coordinates move, ``size`` at a time, the last of a turn perhaps with some for the
    second time; each turn divides them anew, at random but the same in every run.
    """
    turn, part = divmod(index, -(-dim // size))
    shuffled = np.random.default_rng(turn).permutation(dim)
    start = max(dim - (part + 1) * size, 0)
    moving = slice(start, start + size)
    return tuple(np.delete(shuffled, moving).tolist() + shuffled[moving].tolist())
