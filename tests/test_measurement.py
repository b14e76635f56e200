"""The distance to the optimum, where constraints are inequalities."""

import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

from numpyro_dsn.dual import excess, of_allowed_sign, solve_dual, tilt
from numpyro_dsn.measurement import gap_to
from numpyro_dsn.pool import Draws, empty_pool, log_weights

INF = jnp.inf
POINTS = (jnp.arange(20_000) + 0.5) / 20_000
"""Even draws of a uniform prior on [0, 1], whose density is one."""


def pool():
    zeros = jnp.zeros(POINTS.size)
    statistics, noise = POINTS[:, None], jnp.zeros((POINTS.size, 1, 1))
    draws = Draws(POINTS[:, None], statistics, noise, zeros, zeros, jnp.ones(POINTS.size, bool))
    return empty_pool(draws, zeros, {}, 0, 0)


def truncated_exponential(mean):
    """Maximum entropy on [0, 1] with a mean: eta, and the log density of every point."""
    draws = log_weights(pool(), jnp.zeros(POINTS.size)), POINTS[:, None], jnp.zeros((20_000, 1, 1))
    bound = jnp.array([mean])
    eta, _ = solve_dual(jnp.zeros(1), *draws, bound, bound, 10.0)
    return eta, eta[0] * POINTS - tilt(eta, *draws).log_normalizer


def entropy(log_density):
    return -jnp.mean(jnp.exp(log_density) * log_density)


@pytest.mark.parametrize(
    ("bounds", "mean", "is_short"),
    [
        ((0.6, INF), 0.65, True),
        ((-INF, 0.4), 0.35, True),
        ((0.6, 0.8), 0.65, True),
        ((0.6, INF), 0.58, False),
        ((0.6, 0.6), 0.65, False),
    ],
)
def test_gap(bounds, mean, is_short):
    """All the entropy that is lacking, where an inequality is met further than its bound."""
    lower, upper = (jnp.array([bound]) for bound in bounds)
    at_bound = bounds[1] if bounds[0] == -INF else bounds[0]
    eta, log_optimum = truncated_exponential(at_bound)
    _, log_q = truncated_exponential(mean)
    draws = pool()
    log_prior = jnp.zeros(POINTS.size)
    tilted = tilt(eta, log_weights(draws, log_prior), draws.statistics, draws.noise)
    gap, _ = gap_to(draws, eta, tilted, log_q, log_prior, lower, upper)
    divergence = jnp.mean(jnp.exp(log_q) * (log_q - log_optimum))
    lacking = entropy(log_optimum) - entropy(log_q)
    assert_allclose(gap, lacking if is_short else divergence, atol=1e-4)
    assert abs(lacking - divergence) > 1e-2


def test_excess():
    """Above the bound that eta holds, or zero where it holds none."""
    eta = jnp.array([1.0, -1.0, 0.0, 0.0, 0.0])
    mean = jnp.array([0.7, 0.1, 0.5, -0.5, 0.2])
    lower = jnp.array([0.6, -INF, 0.4, 0.0, 0.0])
    upper = jnp.array([INF, 0.3, INF, 1.0, 0.0])
    assert_allclose(excess(eta, mean, lower, upper), [0.1, -0.2, 0.0, -0.5, 0.2], atol=1e-6)


def test_of_allowed_sign():
    """AtLeast holds by positive eta, AtMost by negative, Between and equalities by both."""
    lower, upper = jnp.array([0.0, -INF, 0.0, 0.0]), jnp.array([INF, 0.0, 1.0, 0.0])
    for sign, expected in (1, [1, 0, 1, 1]), (-1, [0, -1, -1, -1]):
        assert_allclose(of_allowed_sign(sign * jnp.ones(4), lower, upper), expected)
