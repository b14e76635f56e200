r"""Mean-field theory of random networks with a part of rank one, Mastrogiuseppe and Ostojic (2018).

.. math:: \dot x = -x + J \tanh(x) + I, \qquad J_{ij} = g \chi_{ij} + m_i n_j / N

In a large network activities are Gaussian, with a mean over neurons, a variance that lasts and one
that fluctuates in time. Time is in units of the membrane's time constant.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax import Array

Function = Callable[[Array], Array]

NODES = np.linspace(-5.0, 5.0, 61, dtype=np.float32)
WEIGHTS = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()
"""The trapezoid rule for a standard normal; tanh of up to five standard deviations has errors below
a thousandth, where Gauss and Hermite's nodes are too far apart."""

PLACES = np.array([0.05710419, 0.27684301, 0.58359043, 0.86024014], np.float32)
SHARES = 2 * np.array([0.13550691, 0.20346457, 0.12984755, 0.03118097], np.float32)
"""Gauss and Jacobi's rule for the weight 2 (1 - u) on [0, 1]."""

TINY = 1e-7
"""Variance below which nothing fluctuates."""

NUM_STEPS, RATE = 60, 0.3
"""Damped steps from the silent network before Newton's, and the damping."""

SOLVER: Any = optx.Newton(rtol=1e-4, atol=1e-5)
MAX_NEWTON = 30


class Network(NamedTuple):
    r"""Statistics of the connectivity and of the input.

    Parameters
    ----------
    g
        Strength of the random part.
    mean_m, mean_n, std_m
        Moments of the entries of m and n.
    mean_i, var_i
        Moments of the input to a neuron.
    cov_mi, cov_ni
        Covariance of the input with m and with n.
    """

    g: Array
    mean_m: Array
    mean_n: Array
    std_m: Array | float = 1.0
    mean_i: Array | float = 0.0
    var_i: Array | float = 0.0
    cov_mi: Array | float = 0.0
    cov_ni: Array | float = 0.0


class State(NamedTuple):
    r"""What mean-field theory solves for.

    Parameters
    ----------
    overlap
        :math:`\kappa`, the mean over neurons of n times the rate.
    static
        :math:`\Delta_\infty`, the variance over neurons of mean activities.
    temporal
        :math:`\Delta_T`, the variance in time, zero where the network is at rest.
    """

    overlap: Array
    static: Array
    temporal: Array


def sech2(x: Array) -> Array:
    """Return the derivative of tanh."""
    return 1.0 - jnp.tanh(x) ** 2


def average(function: Function, mean: Array, variance: Array) -> Array:
    """Return the mean of a function of a normal variable."""
    return function(mean + jnp.sqrt(jnp.maximum(variance, TINY)) * NODES) @ WEIGHTS


def correlation(function: Function, mean: Array, shared: Array, own: Array) -> Array:
    r"""Return the mean product of a function at two times or in two copies.

    .. math:: \int Dz \, \Bigl[ \int Dx \, F(\mu + \sqrt{a} z + \sqrt{b} x) \Bigr]^2

    Parameters
    ----------
    function
        F.
    mean, shared, own
        mu, a and b, scalars.
    """
    centers = mean + jnp.sqrt(jnp.maximum(shared, TINY)) * NODES
    within = jnp.sqrt(jnp.maximum(own, TINY)) * NODES
    return (function(centers[:, None] + within[None]) @ WEIGHTS) ** 2 @ WEIGHTS


def mean_activity(state: State, network: Network) -> Array:
    r"""Return :math:`\mu = M_m \kappa + M_I`."""
    return network.mean_m * state.overlap + network.mean_i


def amplification(state: State, network: Network, places: np.ndarray, shares: np.ndarray) -> Array:
    r"""Return by how much the random part amplifies fluctuations of the state's size.

    .. math:: g^2 \int_0^1 2 (1 - u) \, C''(\Delta_\infty + u \Delta_T) \, du, \qquad
              C''(s) = \langle \phi'(x) \phi'(y) \rangle_{cov(x, y) = s}

    They last where it is one. The published condition,
    :math:`(\Delta_0^2 - \Delta_\infty^2) / 2 = g^2 (\langle \Phi^2 \rangle - [[\Phi]]) +
    (\Delta_0 - \Delta_\infty) (\Delta_\infty - g^2 [[\phi]])`, is this one times
    :math:`\Delta_T^2 / 2`, by Taylor's theorem: there rest is a double root, to which iterations
    come slowly; here it is none.

    Parameters
    ----------
    state, network
        What mean-field theory solves for, and its constants.
    places, shares
        Nodes and weights of the integral over u, shape ``(num_places,)``.
    """
    mean = mean_activity(state, network)

    def at(place: Array) -> Array:
        shared = state.static + place * state.temporal
        return correlation(sech2, mean, shared, (1 - place) * state.temporal)

    return network.g**2 * (jax.vmap(at)(jnp.asarray(places)) @ jnp.asarray(shares))


def drive(state: State, network: Network) -> tuple[Array, Array]:
    """Return the overlap and the static variance that a state brings forth, M&O's equations."""
    mean, total = mean_activity(state, network), state.static + state.temporal
    overlap = network.mean_n * average(jnp.tanh, mean, total)
    overlap += network.cov_ni * average(sech2, mean, total)
    quenched = (network.std_m * state.overlap) ** 2 + 2 * network.cov_mi * state.overlap
    random = network.g**2 * correlation(jnp.tanh, mean, state.static, state.temporal)
    return overlap, random + quenched + network.var_i


def residual(state: State, network: Network) -> State:
    """Return what is zero at a solution: fluctuations are amplified by one, or there are none."""
    overlap, static = drive(state, network)
    missing = 1 - amplification(state, network, PLACES, SHARES)
    temporal = jnp.where(state.temporal < missing, state.temporal, missing)
    return State(state.overlap - overlap, state.static - static, temporal)


def relax(network: Network) -> State:
    """Return the state to which the network comes from silence, nearly."""
    third, one = np.array([1 / 3], np.float32), np.ones(1, np.float32)

    def step(state: State, _: None) -> tuple[State, None]:
        overlap, static = drive(state, network)
        total = state.static + state.temporal
        slope = average(sech2, mean_activity(state, network), total)
        stiffness = 1 + jax.nn.relu(-network.mean_m * network.mean_n * slope)
        growth = jnp.clip(amplification(state, network, third, one), 0.5, 2.0)
        return State(
            state.overlap + RATE / stiffness * (overlap - state.overlap),
            state.static + RATE * (static - state.static),
            state.temporal * growth,
        ), None

    zero = jnp.zeros_like(network.g)
    return jax.lax.scan(step, State(zero, zero + 0.5, zero + 0.5), length=NUM_STEPS)[0]


def solve(network: Network) -> State:
    """Return the solution nearest to where the network comes from silence; NaN if there is none.

    Its derivatives are those of the implicit function.

    Parameters
    ----------
    network
        Its constants, scalars.
    """
    start = jax.lax.stop_gradient(relax(network))
    found: Any = optx.root_find(
        residual, SOLVER, start, args=network, max_steps=MAX_NEWTON, throw=False
    )
    solved = found.result == optx.RESULTS.successful
    return jax.tree.map(lambda value: jnp.where(solved, value, jnp.nan), found.value)
