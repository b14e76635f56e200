"""A flow of the unit cube onto itself, whose start is the prior."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import log_ndtr
from jax.scipy.stats import norm

from numpyro_dsn.guides import logit_splines
from numpyro_dsn.guides.couplings import order, permute, sizes
from numpyro_dsn.guides.logit_splines import (
    LogitSpline,
    from_noise,
    log_logistic,
    logit,
    logit_spline,
    to_noise,
)
from numpyro_dsn.guides.network import fourier_features, network

Params = dict[str, Array]

NUM_TURNS = 2
"""How often couplings move each coordinate by default."""


@dataclass(frozen=True)
class CubeFlow:
    r"""Splines of the unit cube onto itself, behind a logistic chart of the latents.

    .. math:: w = S_1(\dots S_L(v)), \qquad v = \frac{1}{1 + e^{-(u - m) / s}}, \qquad
              w \sim U(0, 1)^D

    Each coupling S bends some coordinates by monotone splines, with shifts and scales of their
    logits, whose shapes are functions of the others. Where the prior is uniform on a box, u are the
    logits of the box's coordinates: with m = 0 and s = 1 the prior is uniform on the cube, faces of
    the box are faces of the cube, and the start, the identity, is the prior. Otherwise m and s
    match mean and variance of the prior. Draws and densities are exact and have gradients.

    A flow is a value: two of the same fields are equal, so that compiled functions which take it as
    a static argument are shared.

    Parameters
    ----------
    dim
        Number D of coordinates.
    num_layers
        Number of couplings.
    num_transformed
        Number of coordinates that a coupling bends; in several dimensions one must stay.
    num_bins
        Bins of each spline.
    num_octaves
        Number of octaves of sines and cosines of each coordinate that stays, from half a wave
        across the cube on; networks learn what changes fast only with these.
    hidden_dim
        Units in each of the two hidden layers of a coupling's network.
    max_log_scale
        A coupling scales logits by at most exp(4): far draws stay finite in single precision.
    min_width
        Least width and height of a bin, and least slope at a knot. A spline raises a density by at
        most their ratio to one; far smaller ones let a single draw outweigh all others in a
        gradient.
    edge
        Draws keep this distance from the faces of the cube: single precision knows none between.
    prefix
        Prefix of the names of all parameters.

    References
    ----------
    Durkan, Bekasov, Murray and Papamakarios (2019), *Neural Spline Flows*.
    """

    dim: int
    num_layers: int
    num_transformed: int
    num_bins: int = 8
    num_octaves: int = 2
    hidden_dim: int = 32
    max_log_scale: float = 4.0
    min_width: float = 1e-3
    edge: float = 1e-7
    prefix: str = "auto"

    def __post_init__(self) -> None:
        sizes(self.dim, self.num_layers, self.num_transformed, NUM_TURNS)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have gradients."""
        return True

    def init(self, rng_key: Array, loc: Array, scale: Array) -> Params:
        """Return parameters of the identity.

        Parameters
        ----------
        rng_key
            Key of the networks' weights.
        loc, scale
            m and s of the chart, each of shape ``(D,)``; they are not trained.
        """
        per_spline = logit_splines.num_outputs(self.num_bins)
        num_stay, width = self.dim - self.num_transformed, self.hidden_dim
        inputs = [(1 + 2 * self.num_octaves) * num_stay, width, width]
        # A hidden layer has two outputs for each unit: its value and its gate.
        outputs = [2 * width, 2 * width, self.num_transformed * per_spline]
        params = {self._name("loc"): loc, self._name("scale"): scale}
        for index, (num_in, num_out) in enumerate(zip(inputs, outputs, strict=True)):
            shape = (self.num_layers, num_in, num_out)
            size = max(num_in, 1) ** -0.5 if index < 2 else 0.0
            key = jax.random.fold_in(rng_key, index)
            params[self._name(f"weight{index}")] = size * jax.random.normal(key, shape)
            params[self._name(f"bias{index}")] = jnp.zeros((self.num_layers, num_out))
        return params

    def constrain(self, params: Params) -> Params:
        """Return the parameters as users see them: as they are, for none has a constraint."""
        return params

    def log_prob(self, params: Params, flat: Array) -> Array:
        """Return log densities, shape ``(n,)``, of unconstrained latents, shape ``(n, D)``."""
        noise, log_det = self.pull(params, flat)
        return log_logistic(noise).sum(-1) + log_det

    def sample(self, rng_key: Array, params: Params, num_draws: int) -> Array:
        """Return draws in unconstrained space, shape ``(num_draws, D)``."""
        return self.push(params, self._noise(rng_key, num_draws))[0]

    def draw(self, rng_key: Array, params: Params) -> tuple[Array, Array]:
        """Return one draw, shape ``(D,)``, and its log density, shape ``()``, with gradients."""
        noise = self._noise(rng_key, 1)
        flat, log_det = self.push(params, noise)
        return flat[0], (log_logistic(noise).sum(-1) - log_det)[0]

    def push(self, params: Params, noise: Array) -> tuple[Array, Array]:
        """Map logistic noise to latents.

        Parameters
        ----------
        params
            Parameters.
        noise
            Shape ``(n, D)``.

        Returns
        -------
        Unconstrained latents, shape ``(n, D)``, and the log determinant of the map, shape ``(n,)``.
        """
        loc, scale = self._chart(params)
        y, log_det = self._apply(params, noise, from_noise, reverse=False)
        return loc + scale * y, jnp.log(scale).sum(-1) - log_det

    def pull(self, params: Params, flat: Array) -> tuple[Array, Array]:
        """Return the noise of latents and the log determinant: the inverse of :meth:`push`."""
        loc, scale = self._chart(params)
        noise, log_det = self._apply(params, (flat - loc) / scale, to_noise, reverse=True)
        return noise, log_det - jnp.log(scale).sum(-1)

    def from_normal(self, params: Params, noise: Array) -> tuple[Array, Array]:
        """Map standard normal noise to latents, as :meth:`push` maps that of the logistic."""
        below, above = log_ndtr(noise), log_ndtr(-noise)
        flat, log_det = self.push(params, below - above)
        return flat, log_det + (norm.logpdf(noise) - below - above).sum(-1)

    def _name(self, name: str) -> str:
        return f"{self.prefix}_{name}"

    def _noise(self, rng_key: Array, num_draws: int) -> Array:
        shape = num_draws, self.dim
        uniform = jax.random.uniform(rng_key, shape, minval=self.edge, maxval=1 - self.edge)
        return logit(uniform, self.edge)

    def _chart(self, params: Params) -> tuple[Array, Array]:
        loc, scale = (jax.lax.stop_gradient(params[self._name(name)]) for name in ("loc", "scale"))
        return loc[None], scale[None]

    def _apply(
        self,
        params: Params,
        points: Array,
        move: Callable[[LogitSpline, Array, float], tuple[Array, Array]],
        reverse: bool,
    ) -> tuple[Array, Array]:
        """Send logits, shape ``(n, D)``, through all couplings; add up the log determinants."""
        num_stay = self.dim - self.num_transformed
        orders = [order(i, self.dim, self.num_transformed) for i in range(self.num_layers)]
        there = np.reshape(np.array(orders, int), (self.num_layers, self.dim))
        weights = [
            (params[self._name(f"weight{index}")], params[self._name(f"bias{index}")])
            for index in range(3)
        ]

        def layer(carry: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], None]:
            (points, log_det), (there, back, weights) = carry, inputs
            stay, moving = jnp.split(permute(points, there), [num_stay], axis=-1)
            moved, change = move(self._curves(weights, stay), moving, self.edge)
            points = permute(jnp.concatenate([stay, moved], axis=-1), back)
            return (points, log_det + change.sum(-1)), None

        start = points, jnp.zeros(points.shape[:-1], points.dtype)
        inputs = there, np.argsort(there, axis=-1), weights
        return jax.lax.scan(layer, start, inputs, reverse=reverse)[0]

    def _curves(self, weights: list[tuple[Array, Array]], stay: Array) -> LogitSpline:
        """Return the map of each coordinate that a coupling bends, given those that stay."""
        place = jax.nn.sigmoid(stay)
        waves = fourier_features(place, np.pi, self.num_octaves)
        outputs = network(weights, jnp.concatenate([2 * place - 1, waves], axis=-1))
        outputs = outputs.reshape(*outputs.shape[:-1], self.num_transformed, -1)
        return logit_spline(outputs, self.max_log_scale, self.min_width)


def default_flow(
    dim: int, num_layers: int | None = None, num_transformed: int | None = None, **fields: Any
) -> CubeFlow:
    """Return a flow of the default size for so many coordinates.

    Parameters
    ----------
    dim
        Number of coordinates.
    num_layers
        Number of couplings; by default as many as move every coordinate twice.
    num_transformed
        Number of coordinates that a coupling moves; by default a quarter of them.
    fields
        Other fields of :class:`CubeFlow`.
    """
    return CubeFlow(dim, *sizes(dim, num_layers, num_transformed, NUM_TURNS), **fields)
