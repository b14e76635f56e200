"""A mixture of normal distributions with holes."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtri
from numpyro.distributions import constraints

from numpyro_dsn.guides.network import network

NUM_TRIES = 32
"""Draws of the mixture of which one is kept."""

NUM_POINTS = 4096
"""Points of all components together on which the accepted share is estimated."""

START = 3.0
"""Logit of the accepted share at the start: nearly all."""


class ResampledMixture(dist.Distribution):
    r"""Draws of a mixture of normal distributions that a network accepts or rejects.

    .. math:: p(x) = m(x) \left[ (1 - \rho) \frac{a(x)}{Z} + \rho \right], \qquad
              Z = E_m[a], \quad \rho = (1 - Z)^{T - 1}

    The first accepted of T draws is kept, or the last if none is; draws have no gradient. Z is an
    estimate, so that the density is known up to a factor, of 0.1 to 0.5 % where a good part is
    accepted. A flow maps space continuously,
    and so leaves a trace of mass between separate modes and beyond sharp edges; rejection does not.

    Parameters
    ----------
    loc, scale
        Means and standard deviations of the components, shape ``(num_components, D)``.
    logits
        Logits of their weights, shape ``(num_components,)``.
    layers
        Weights and biases of the network of the acceptance's logit, of shapes
        ``(num_in, num_out)`` and ``(num_out,)``.

    References
    ----------
    Bauer and Mnih (2019), *Resampled priors for variational autoencoders*, eq. 7-8.
    Stimper, Schölkopf and Hernández-Lobato (2022), *Resampling base distributions of normalizing
    flows*.
    """

    support = constraints.real_vector
    pytree_data_fields = ("loc", "scale", "logits", "layers")

    def __init__(
        self, loc: Array, scale: Array, logits: Array, layers: Sequence[tuple[Array, Array]]
    ) -> None:
        self.loc = loc
        self.scale = scale
        self.logits = logits
        self.layers = layers
        super().__init__(event_shape=loc.shape[-1:])

    @property
    def mixture(self) -> dist.Distribution:
        """The distribution whose draws are accepted or rejected."""
        components = dist.Normal(self.loc, self.scale).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    @property
    def has_rsample(self) -> bool:
        """Whether draws have a gradient: which are kept depends on the parameters."""
        return False

    def acceptance(self, x: Array) -> Array:
        """Return the probability that a draw is accepted, of the shape of its leading axes."""
        return jax.nn.sigmoid(self._logit(x))

    def _logit(self, x: Array) -> Array:
        return START + network(self.layers, x)[..., 0]

    def accepted_share(self) -> Array:
        """Return an estimate of Z, shape ``()``, on a lattice of points of each component.

        The lattice is shifted at random, anew for all other parameters: the network would learn to
        reject at points that it knows. The same parameters have the same shift.
        """
        parameters = jax.lax.stop_gradient((self.loc, self.scale, self.logits, self.layers))
        bits = [
            jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.int32).sum(dtype=jnp.int32)
            for leaf in jax.tree.leaves(parameters)
        ]
        seed = jnp.stack(bits).sum(dtype=jnp.int32)
        dim = self.loc.shape[-1]
        shift = jax.random.uniform(jax.random.key(seed), (1, dim), self.loc.dtype)
        num_points = max(NUM_POINTS // self.loc.shape[0], 1)
        uniform = (jnp.asarray(_lattice(num_points, dim), self.loc.dtype) + shift) % 1.0
        normal = ndtri(jnp.clip(uniform, 1e-6, 1 - 1e-6))
        points = self.loc[:, None] + self.scale[:, None] * normal[None]
        # One axis of points: with two, XLA takes seven times as long for gated units on a CPU.
        accepted = jax.vmap(self.acceptance)(points.reshape(-1, dim)).reshape(len(points), -1)
        return jax.nn.softmax(self.logits) @ accepted.mean(-1)

    def log_prob(self, value: Array) -> Array:
        """Return the log density, of the shape of the leading axes of ``value``."""
        rejected = jnp.clip(1 - self.accepted_share(), 1e-6, 1.0)
        # The first part is (1 - rho) / Z as a geometric series: there is no division by zero.
        log_first = jnp.log(jnp.polyval(jnp.ones(NUM_TRIES - 1, rejected.dtype), rejected))
        log_last = (NUM_TRIES - 1) * jnp.log(rejected)
        log_accepted = jax.nn.log_sigmoid(self._logit(value)) + log_first
        return self.mixture.log_prob(value) + jnp.logaddexp(log_accepted, log_last)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Return draws, shape ``(*sample_shape, D)``."""

        def one(key: Array) -> Array:
            draw_key, accept_key = jax.random.split(key)
            draws = jax.vmap(self.mixture.sample)(jax.random.split(draw_key, NUM_TRIES))
            chances = jax.random.uniform(accept_key, (NUM_TRIES,))
            accepted = (chances < jax.vmap(self.acceptance)(draws)).at[-1].set(True)
            return draws[jnp.argmax(accepted)]

        draws = jax.vmap(one)(jax.random.split(key, math.prod(sample_shape)))
        return draws.reshape(*sample_shape, *self.event_shape)


def _lattice(num_points: int, dim: int) -> np.ndarray:
    """Return points that fill the unit cube evenly: multiples of powers of a golden ratio.

    The ratio is the root of x^(dim + 1) = x + 1. Shape ``(num_points, dim)``.
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (dim + 1))
    return np.outer(np.arange(1, num_points + 1), ratio ** -np.arange(1.0, dim + 1)) % 1.0
