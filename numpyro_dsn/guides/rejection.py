"""A flow that is cut off at the faces of a box, and that a network cuts holes into."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import ndtri
from numpyro.distributions import constraints

from numpyro_dsn.guides.distribution import FlowDistribution
from numpyro_dsn.guides.network import network, plane_waves

HALF_WIDTH = 3.0**0.5
"""Half the width of the box: a uniform distribution on it has variance one."""

NUM_POINTS, NUM_VALUES = 16_384, 4_000_000
"""Points of all components together on which the share accepted is found; fewer of so many
coordinates that they would have more values than the second number."""

NUM_AT_ONCE = 500_000
"""Values of draws whose density is found at once."""

NUM_NOISY = 512
"""Points for its estimate in a step of an optimizer."""

MAX_TRIES = 1000
"""Draws of the flow for each that is asked; where too few of them are accepted, others are moved to
a face and stand for the rest."""

START, PRICE = 3.0, 0.05
"""Logit of the share that a network of the mixture's draws accepts at the start: nearly all. Cost,
in nats, of each draw that a flow needs for one that it keeps: of several ways to reject draws it
takes one that does not waste them."""

START_OF_WAVES, PRICE_OF_WAVES = 0.0, 0.005
"""The same with waves. What is thin is dense only if the network rejects what is around it."""

SHARPNESS = 100.0
"""Where all of space is pressed into the box, a layer of 1 % at its faces holds what is outside."""


class Estimate(NamedTuple):
    """A noisy log density, shape ``(num_draws,)``, and the cost of draws that are rejected.

    The cost has shape ``()`` and is in nats.
    """

    log_prob: Array
    cost: Array


class RejectionFlow(dist.Distribution):
    r"""Draws of a flow that a network accepts and that are in a box, in unconstrained coordinates.

    .. math:: q(u) = \frac{f(x) \, a(x)}{Z} \left| \frac{dx}{du} \right|, \qquad
              x = c \tanh \frac{u}{2}, \quad Z = \int_{|x| < c} f(x) \, a(x) \, dx

    for a coordinate u of an interval; the others are unbounded and have x = u. A density with an
    edge where the box ends, or on a thin sheet that leaves the box, is smooth as f; a flow of u
    must bend such a sheet to infinity instead. A flow maps space continuously, and so leaves a
    trace of mass between separate modes and beyond sharp edges; the network rejects it.

    Z is found on a lattice of points of each component, and known to 0.2 % or so: entropies are
    known to 0.002 nats. Draws have no gradient, because which are kept depends on the parameters.

    Parameters
    ----------
    flow
        f: layers behind a mixture of normal distributions.
    acceptance
        Weights and biases of the network of the logit of a, of shapes ``(num_in, num_out)`` and
        ``(num_out,)``; a is one if there are none.
    bounded
        For each coordinate, whether it is one of an interval.
    place, num_waves
        Mean and standard deviation of x under the prior, each of shape ``(D,)``, and the number of
        :func:`~numpyro_dsn.guides.network.plane_waves` at x that the network sees. If there are
        none, it sees the mixture's draw that became x.

    References
    ----------
    Bauer and Mnih (2019), *Resampled priors for variational autoencoders*.
    Stimper, Schölkopf and Hernández-Lobato (2022), *Resampling base distributions of normalizing
    flows*.
    """

    support = constraints.real_vector
    has_rsample = False
    pytree_data_fields = ("flow", "acceptance", "place")
    pytree_aux_fields = ("bounded", "num_waves")

    def __init__(
        self,
        flow: FlowDistribution,
        acceptance: Sequence[tuple[Array, Array]],
        bounded: tuple[bool, ...],
        place: tuple[Array, Array] | None = None,
        num_waves: int = 0,
    ) -> None:
        self.flow = flow
        self.acceptance = acceptance
        self.bounded = bounded
        self.place = place
        self.num_waves = num_waves
        super().__init__(event_shape=flow.event_shape)

    def accepted_share(self) -> Array:
        """Return Z, shape ``()``; it has no gradient, which :meth:`estimate` has."""
        num_points = min(NUM_POINTS, NUM_VALUES // self.event_shape[0])
        return _without_gradient(self._points(jax.random.key(0), num_points)[1].sum())

    def log_prob(self, value: Array) -> Array:
        """Return the log density, of the shape of the leading axes of ``value``."""

        def log_accepted(u: Array) -> Array:
            x, log_det = to_box(u, self.bounded)
            return self._log_accepted(x) + log_det

        share = jnp.maximum(self.accepted_share(), 1 / NUM_POINTS)
        if value.ndim == 1:
            return log_accepted(value) - jnp.log(share)
        # In parts: splines of thousands of draws in hundreds of dimensions would fill the memory.
        flat, size = value.reshape(-1, value.shape[-1]), max(NUM_AT_ONCE // value.shape[-1], 1)
        log_prob = jax.lax.map(log_accepted, flat, batch_size=size) - jnp.log(share)
        return log_prob.reshape(value.shape[:-1])

    def estimate(self, rng_key: Array, value: Array) -> Estimate:
        r"""Return a noisy estimate of the log density, whose gradient has little bias.

        .. math:: \nabla \log Z = E_q[\nabla \log (f(x) \, a(x))]

        Parameters
        ----------
        rng_key
            Key of the points; an optimizer that knew them would move these alone.
        value
            Draws, shape ``(num_draws, D)``.
        """
        points, weights = jax.lax.stop_gradient(self._points(rng_key, NUM_NOISY))
        # What is outside may be infinitely far: no weight would save a gradient of NaN.
        points = jnp.where(weights[:, None] > 0, points, 0.0)
        x, log_det = jax.vmap(lambda u: to_box(u, self.bounded))(value)
        log_flow = jax.vmap(self._log_accepted)(jnp.concatenate([x, points]))
        share = jnp.maximum(weights.sum(), 1 / NUM_NOISY)
        score = weights @ log_flow[len(x) :] / share
        log_share = jnp.log(share) + score - jax.lax.stop_gradient(score)
        price = PRICE_OF_WAVES if self.num_waves else PRICE
        return Estimate(log_flow[: len(x)] + log_det - log_share, price * jnp.exp(-log_share))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Return draws, shape ``(*sample_shape, D)``."""
        num_draws = math.prod(sample_shape)

        def propose(key: Array) -> tuple[Array, Array]:
            draw_key, accept_key = jax.random.split(key)
            noise = self.flow.base_dist.sample(draw_key)
            x = self._through_layers(noise)
            accepted = jnp.log(jax.random.uniform(accept_key)) < self._log_chance(noise, x)
            return x, accepted & is_inside(x, self.bounded)

        def unfilled(carry: tuple) -> Array:
            _, _, num_filled, count = carry
            return (num_filled < num_draws) & (count < MAX_TRIES)

        def fill(carry: tuple) -> tuple:
            key, draws, num_filled, count = carry
            key, batch_key = jax.random.split(key)
            x, accepted = jax.vmap(propose)(jax.random.split(batch_key, num_draws))
            # All that are accepted take the next places; those for whom there is none are dropped.
            place = jnp.where(accepted, num_filled + jnp.cumsum(accepted) - 1, num_draws)
            draws = jnp.where(count == 0, x, draws).at[place].set(x, mode="drop")
            return key, draws, num_filled + accepted.sum(), count + 1

        start = key, jnp.zeros((num_draws, *self.event_shape)), jnp.zeros((), int), 0
        draws = jax.lax.while_loop(unfilled, fill, start)[1]
        draws = jax.vmap(lambda x: from_box(x, self.bounded))(draws)
        return draws.reshape(*sample_shape, *self.event_shape)

    def _log_chance(self, noise: Array, x: Array) -> Array:
        """Return the log probability that the network accepts, of the shape of leading axes."""
        if not self.acceptance:
            return jnp.zeros(noise.shape[:-1])
        if self.place is None:
            return jax.nn.log_sigmoid(START + network(self.acceptance, noise)[..., 0])
        center, scale = self.place
        seen = plane_waves((x - center) / scale, self.num_waves)
        return jax.nn.log_sigmoid(START_OF_WAVES + network(self.acceptance, seen)[..., 0])

    def _log_accepted(self, x: Array) -> Array:
        """Return log f(x) a(x), of the shape of the leading axes of ``x``."""
        noise, log_det = self.flow.invert(x)
        return self.flow.base_dist.log_prob(noise) - log_det + self._log_chance(noise, x)

    def _through_layers(self, noise: Array) -> Array:
        for layer in self.flow.transforms:
            noise = layer(noise)
        return noise

    def _points(self, rng_key: Array, num_points: int) -> tuple[Array, Array]:
        """Return evenly spread points of the flow, and weights that sum to the share accepted."""
        mixture = self.flow.base_dist
        normal, shares = mixture.component_distribution.base_dist, mixture.mixing_distribution.probs
        num_components, dim = normal.loc.shape
        num_each = max(num_points // num_components, 1)
        shift = jax.random.uniform(rng_key, (num_components, 1, dim), normal.loc.dtype)
        uniform = (jnp.asarray(_lattice(num_each, dim), shift.dtype)[None] + shift) % 1.0
        noise = ndtri(jnp.clip(uniform, 1e-6, 1 - 1e-6))
        points = (normal.loc[:, None] + normal.scale[:, None] * noise).reshape(-1, dim)
        x = jax.vmap(self._through_layers)(points)
        weights = jnp.repeat(shares / num_each, num_each)
        weights *= jnp.exp(jax.vmap(self._log_chance)(points, x))
        inside = jax.vmap(lambda x: is_inside(x, self.bounded))(x)
        return x, jnp.where(inside, weights, 0.0)


@jax.custom_vjp
def _without_gradient(share: Array) -> Array:
    """Pass a share on: whether a point is inside has no derivative, so that of Z would be wrong."""
    return share


def _refuse(_: None, gradient: Array) -> tuple[Array]:
    raise ValueError(
        "The density of a flow that rejects draws has no gradient with respect to its parameters; "
        "use `RejectionFlow.estimate`, whose has."
    )


_without_gradient.defvjp(lambda share: (share, None), _refuse)


def is_inside(x: Array, bounded: tuple[bool, ...]) -> Array:
    """Return whether coordinates are inside of the box, of the shape of their leading axes."""
    return jnp.all((jnp.abs(x) < HALF_WIDTH) | ~np.array(bounded), axis=-1)


def to_box(u: Array, bounded: tuple[bool, ...]) -> tuple[Array, Array]:
    """Return x, shape ``(..., D)``, and log |det dx/du|, shape ``(...)``."""
    slope = np.log(2 * HALF_WIDTH) + jax.nn.log_sigmoid(u) + jax.nn.log_sigmoid(-u)
    x = jnp.where(np.array(bounded), HALF_WIDTH * jnp.tanh(u / 2), u)
    return x, jnp.where(np.array(bounded), slope, 0.0).sum(-1)


def from_box(x: Array, bounded: tuple[bool, ...]) -> Array:
    """Return u, shape ``(..., D)``; finite also at the faces of the box."""
    largest = 1 - jnp.finfo(x.dtype).epsneg
    ratio = jnp.where(np.array(bounded), jnp.clip(x / HALF_WIDTH, -largest, largest), 0.0)
    return jnp.where(np.array(bounded), 2 * jnp.arctanh(ratio), x)


def press_inside(x: Array, bounded: tuple[bool, ...]) -> tuple[Array, Array]:
    r"""Map all of space into the box, smoothly, and hardly move what is inside.

    .. math:: x' = \frac{c}{b} \left[ \log(1 + e^{b (y + 1)}) - \log(1 + e^{b (y - 1)}) \right] - c,
              \qquad y = \frac{x}{c}

    Parameters
    ----------
    x
        Coordinates, shape ``(..., D)``.
    bounded
        For each coordinate, whether it is bounded.

    Returns
    -------
    u, shape ``(..., D)``, and log |det du/dx|, shape ``(...)``.
    """
    above, below = SHARPNESS * (x / HALF_WIDTH + 1), SHARPNESS * (x / HALF_WIDTH - 1)
    pressed = HALF_WIDTH * ((jax.nn.softplus(above) - jax.nn.softplus(below)) / SHARPNESS - 1)
    slope = jax.nn.log_sigmoid(above) + jax.nn.log_sigmoid(-below)
    u = from_box(jnp.where(np.array(bounded), pressed, x), bounded)
    return u, jnp.where(np.array(bounded), slope, 0.0).sum(-1) - to_box(u, bounded)[1]


def _lattice(num_points: int, dim: int) -> np.ndarray:
    """Return points that fill the unit cube evenly: multiples of powers of a golden ratio.

    The ratio is the root of x^(dim + 1) = x + 1. Shape ``(num_points, dim)``.
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1 + ratio) ** (1 / (dim + 1))
    return np.outer(np.arange(1, num_points + 1), ratio ** -np.arange(1.0, dim + 1)) % 1.0
