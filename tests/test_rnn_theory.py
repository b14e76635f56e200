"""Mean-field theory of low-rank networks: quadrature, published equations, finite networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import multivariate_normal

from models import rnn_network
from models.rnn_theory import (
    PLACES,
    SHARES,
    Network,
    State,
    amplification,
    average,
    correlation,
    drive,
    mean_activity,
    residual,
    sech2,
    solve,
)

POINTS = [  # g, M_m, M_n: at rest and fluctuating, both signs of the overlap
    (0.5, 0.5, 0.5),
    (0.8, 1.0, 1.0),
    (1.0, 2.0, 0.5),
    (0.5, -1.0, -1.0),
    (1.5, 0.2, -0.5),
    (2.5, 1.0, 1.0),
    (3.0, 0.5, 2.0),
    (3.0, -1.0, -2.0),
    (4.0, 1.0, 1.0),
    (4.5, 0.5, 0.5),
]


def network(g, mean_m, mean_n):
    values = (jnp.asarray(x, jnp.float32) for x in (g, mean_m, mean_n))
    return Network(*values, mean_i=2.0, var_i=1.0, cov_ni=1.0)


# Quadrature --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("function", [np.tanh, lambda x: 1 - np.tanh(x) ** 2])
def test_average(variance, function):
    def integrand(z):
        return function(0.7 + np.sqrt(variance) * z) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    expected = quad(integrand, -10, 10, limit=400, points=[-0.7 / np.sqrt(variance)])[0]
    as_jax = jnp.tanh if function is np.tanh else sech2
    assert_allclose(average(as_jax, 0.7, variance), expected, atol=1e-3)


def test_correlation_is_that_of_two_normals():
    shared, own, mean = 1.5, 2.0, 0.4
    rng = np.random.default_rng(0)
    pair = mean + multivariate_normal([0, 0], shared + own * np.eye(2)).rvs(4_000_000, rng)
    products = np.tanh(pair).prod(-1)
    error = 4 * products.std() / 2000
    assert_allclose(correlation(jnp.tanh, mean, shared, own), products.mean(), atol=error)


def test_amplification_is_the_published_condition():
    """Energy, divided by half the squared temporal variance; in float64, where it can cancel."""
    state, g = State(0.5, 1.5, 2.0), 1.7
    given = network(g, 1.0, 1.0)
    found = amplification(jax.tree.map(jnp.asarray, state), given, PLACES, SHARES)

    def mean_product(function, mean, shared, own):
        nodes = np.linspace(-8, 8, 401)
        weights = np.exp(-(nodes**2) / 2)
        weights /= weights.sum()
        inner = function(mean + np.sqrt(shared) * nodes[:, None] + np.sqrt(own) * nodes) @ weights
        return inner**2 @ weights

    def primitive(x):
        return np.logaddexp(x, -x) - np.log(2)

    mean = float(mean_activity(state, given))
    both = [mean_product(primitive, mean, state.static + x, 2.0 - x) for x in (2.0, 0.0)]
    rest = mean_product(np.tanh, mean, state.static, 2.0)
    expected = g**2 * 2 * (both[0] - both[1] - 2.0 * rest) / 2.0**2
    assert_allclose(found, expected, rtol=2e-3)


# Solutions ---------------------------------------------------------------------------------------


def test_solutions_satisfy_the_equations():
    for point in POINTS:
        given = network(*point)
        state = solve(given)
        overlap, static = drive(state, given)
        assert_allclose([state.overlap, state.static], [overlap, static], rtol=1e-3, atol=1e-3)
        gain = amplification(state, given, PLACES, SHARES)
        assert (abs(gain - 1) < 1e-3) if state.temporal > 0 else (gain < 1.0)
        assert_allclose(jnp.stack(residual(state, given)), 0.0, atol=1e-3)


def test_a_network_without_random_part_is_at_rest():
    state = solve(network(0.1, 1.0, 1.0))
    assert state.temporal < 1e-6


@pytest.mark.parametrize("point", [(0.8, 1.0, 1.0), (2.5, 1.0, 1.0)])
def test_derivatives_are_those_of_differences(point):
    def values(z):
        return jnp.stack(solve(network(*z)))

    z, step = jnp.asarray(point), 0.02
    found = jax.jit(jax.jacobian(values))(z)
    moves = step * np.eye(3, dtype=np.float32)
    both = [jax.vmap(values)(z[None] + sign * moves) for sign in (1, -1)]
    assert_allclose(found, ((both[0] - both[1]) / (2 * step)).T, rtol=0.03, atol=0.02)


def finite(point, seed, size=1000):
    """Simulate a network whose vectors are as orthogonal as those of an infinite one."""
    g, mean_m, mean_n = point
    rng = np.random.default_rng(seed)
    x1, x2 = rng.standard_normal((2, size))
    x1, x2 = ((x - x.mean()) / x.std() for x in (x1, x2))
    x1 -= x2 * (x1 @ x2) / size
    done = rnn_network.run(rng, g, (mean_m + x1)[:, None], (mean_n + x2)[:, None], 2.0 + x2)
    return done.mean, done.overlaps[0], done.static, done.temporal


PLAIN = {(4.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    "point",
    [p if p in PLAIN else pytest.param(p, marks=pytest.mark.slow) for p in POINTS],
)
def test_finite_networks_do_what_theory_says(point):
    """Four networks of a thousand neurons: they differ, and are biased by a few per cent."""
    found = np.array([finite(point, seed) for seed in range(4)])
    given = network(*point)
    state = solve(given)
    expected = np.array([mean_activity(state, given), *state])
    errors = found.std(0, ddof=1) / 2
    bias = np.array([0.0, 0.0, 0.05 * state.static, 0.1 * state.temporal + 0.01])
    assert np.all(np.abs(found.mean(0) - expected) < 4 * errors + bias + 0.02)
    assert (found[:, 3] > 0.02).any() == (state.temporal > 0.02)
