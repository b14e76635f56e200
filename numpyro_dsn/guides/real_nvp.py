"""The real NVP guide."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.distributions import constraints
from numpyro.infer.initialization import init_to_uniform

from numpyro_dsn.guides.couplings import order, sizes
from numpyro_dsn.guides.density import constrain
from numpyro_dsn.guides.distribution import FlowDistribution
from numpyro_dsn.guides.flow import AutoFlow
from numpyro_dsn.guides.network import network_params
from numpyro_dsn.guides.tailed_spline import TailedSpline
from numpyro_dsn.guides.transforms import AffineCouplings, ElementwiseAffine, Layer

NUM_TURNS = 3
"""How often couplings move each coordinate by default."""


class AutoRealNVP(AutoFlow):
    r"""Real NVP: affine couplings, then a monotone spline on each coordinate.

    .. math:: u = \mu + \sigma \odot f_L(\dots f_1(\omega)), \qquad \omega \sim N(0, 1)

    Its layers f are the identity at the start, and the last affine layer matches mean and standard
    deviation of prior draws in unconstrained space. The spline shapes the marginals, and is all
    there is in one dimension.

    Parameters
    ----------
    model
        A NumPyro model. Sites marked with ``simulator()`` are no latents.
    num_layers
        Number of couplings; by default as many as move every coordinate three times. None is used
        in one dimension.
    num_transformed
        Number of coordinates that a coupling moves, given all others; by default a quarter of them,
        and one of two or three.
    hidden_dims
        Widths of the hidden layers of each coupling's network.
    num_frequencies
        Number of sines and of cosines that these networks see of a single coordinate.
    num_bins
        Number of bins of each coordinate's last spline.
    init_variance
        Start from an isotropic Gaussian of this variance around the center of the prior instead,
        in squared units of the latents (Bittner et al. 2021, A.1.2). The map to the support is
        linearized at the center, so the variance should be small against the support.
    prefix
        Prefix of all parameter sites.
    init_loc_fn
        Where to start if the prior cannot be sampled; the start is then a Gaussian of unit
        variance in unconstrained space.

    Raises
    ------
    ValueError
        If ``init_variance`` is not positive, no coordinate would move, or none stay.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio (2017), *Density estimation using Real NVP*.
    """

    def __init__(
        self,
        model: Callable,
        *,
        num_layers: int | None = None,
        num_transformed: int | None = None,
        hidden_dims: tuple[int, ...] = (32, 32),
        num_frequencies: int = 5,
        num_bins: int = 16,
        init_variance: float | None = None,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ) -> None:
        if num_transformed is not None and num_transformed < 1:
            raise ValueError(f"`num_transformed` must be at least 1, but is {num_transformed}.")
        if init_variance is not None and not init_variance > 0:
            raise ValueError(f"`init_variance` must be > 0, but is {init_variance}.")
        self.num_layers = num_layers
        self.num_transformed = num_transformed
        self.hidden_dims = tuple(hidden_dims)
        self.num_frequencies = num_frequencies
        self.num_bins = num_bins
        self.init_variance = init_variance
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn)

    def get_base_dist(self) -> dist.Distribution:
        """Return the standard normal distribution."""
        return dist.Normal(jnp.zeros(self.latent_dim), 1.0).to_event(1)

    def _get_posterior(self) -> FlowDistribution:
        loc, scale = self.start
        affine = ElementwiseAffine(
            numpyro.param(f"{self.prefix}_loc", loc),
            numpyro.param(f"{self.prefix}_scale", scale, constraint=constraints.softplus_positive),
        )
        return FlowDistribution(self.get_base_dist(), [*self._layers(), affine])

    def _layers(self) -> list[Layer]:
        """Return the layers between base distribution and affine layer, the identity at first."""
        dim = self.latent_dim
        num_layers, size = sizes(dim, self.num_layers, self.num_transformed, NUM_TURNS)
        heights = numpyro.param(f"{self.prefix}_heights", jnp.zeros((dim, self.num_bins)))
        slopes = numpyro.param(f"{self.prefix}_slopes", jnp.zeros((dim, self.num_bins + 1)))
        spline = TailedSpline(heights, slopes)
        if dim == 1 or num_layers == 0:
            return [spline]
        # Sines of one coordinate only: of several they leave ripples between the draws.
        num_frequencies = self.num_frequencies if dim - size == 1 else 0
        num_inputs = (2 * num_frequencies + 1) * (dim - size)
        widths = (num_inputs, *self.hidden_dims, 2 * size)
        networks = network_params(f"{self.prefix}_coupling", num_layers, widths)
        orders = tuple(order(index, dim, size) for index in range(num_layers))
        return [AffineCouplings(orders, size, networks), spline]

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        moments = self._prior_moments(args, kwargs)
        unit = self._init_latent, jnp.ones_like(self._init_latent)
        loc, scale = unit if moments is None else moments
        if self.init_variance is not None:

            @jax.jit
            def to_latents(u: Array) -> Array:
                return ravel_pytree(constrain(self, u))[0]

            jacobian = jax.jacfwd(to_latents)(loc)
            scale = jnp.sqrt(self.init_variance) / jnp.linalg.norm(jacobian, axis=0)
        self.start = loc, scale
