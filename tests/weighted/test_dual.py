"""The dual problem on weighted draws, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from weighted_draws import evenly_weighted, solve_compiled

from numpyro_dsn.weighted.dual import (
    damped_newton_step,
    dual_value,
    excess,
    exponent,
    newton_direction,
    of_allowed_sign,
    tilt,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_DRAWS, INF = 100_000, jnp.inf


def uniform_draws(rng_key, num_draws=NUM_DRAWS):
    return evenly_weighted(jax.random.uniform(rng_key, (num_draws, 1)))


def solve(draws, lower, upper, min_ess=100.0, start=0.0):
    bounds = jnp.array([lower]), jnp.array([upper])
    return solve_compiled(jnp.array([start]), draws, bounds, min_ess)


def test_truncated_exponential(rng_key):
    draws = uniform_draws(rng_key)
    eta, solved = solve(draws, 0.3, 0.3)
    tilted = tilt(eta, draws)
    assert solved
    assert abs(tilted.mean[0] - 0.3) < 1e-3
    # The standard error of eta is that of the mean over the variance.
    error = 1 / jnp.sqrt(tilted.covariance[0, 0] * tilted.ess)
    assert abs(eta[0] + 2.6721038552733853) < 4 * error
    bound = dual_value(eta, tilted.log_normalizer, (jnp.array([0.3]), jnp.array([0.3])))
    # The uniform prior has entropy 0, so the bound is the entropy of the solution.
    assert abs(bound + 0.2528455630041859) < 4 / jnp.sqrt(tilted.ess)


def test_inequality_that_is_met_has_no_multiplier(rng_key):
    eta, solved = solve(uniform_draws(rng_key), 0.2, 0.8)
    assert solved
    assert eta[0] == 0


def test_inequality_that_is_not_met_pulls_to_its_bound(rng_key):
    draws = uniform_draws(rng_key)
    above, solved = solve(draws, 0.7, INF)
    below, _ = solve(draws, -INF, 0.3)
    assert solved
    assert above[0] > 0 > below[0]
    assert abs(tilt(above, draws).mean[0] - 0.7) < 1e-3


def test_trust_region_stops_where_draws_are_too_few(rng_key):
    draws = uniform_draws(rng_key, 2000)
    eta, solved = solve(draws, 0.01, 0.01, min_ess=1000.0)
    assert not solved
    assert tilt(eta, draws).ess >= 1000
    assert eta[0] < -0.5


def test_a_start_that_the_draws_disprove_is_given_up(rng_key):
    """Natural parameters of before can rest on draws that new ones outweigh."""
    draws = uniform_draws(rng_key)
    assert tilt(jnp.array([-1e6]), draws).ess < 3
    eta, solved = solve(draws, 0.3, 0.3, start=-1e6)
    assert solved
    assert_allclose(eta, solve(draws, 0.3, 0.3)[0], rtol=0.01)


def test_infeasible_mean_is_not_reached(rng_key):
    eta, solved = solve(uniform_draws(rng_key, 2000), 1.5, 1.5)
    assert not solved
    assert np.isfinite(eta).all()


def test_noise_is_not_rewarded(rng_key):
    """Tilting z + noise by exp(eta (z + noise)) shifts z by eta alone, if noise is corrected."""
    z_key, noise_key = jax.random.split(rng_key)
    z = jax.random.normal(z_key, (NUM_DRAWS, 1))
    spread = jnp.exp(0.3 * z)  # noisier where z is large, so that rewarding it would show
    observed = z + spread * jax.random.normal(noise_key, z.shape)
    exact = 0.7

    def mean_of_z(noise):
        draws = evenly_weighted(observed, noise)
        weights = jnp.exp(tilt(jnp.array([exact]), draws).log_weights)
        return weights @ z[:, 0], jnp.sqrt(weights**2 @ (z[:, 0] - exact) ** 2)

    corrected, error = mean_of_z(spread[:, None])
    uncorrected, _ = mean_of_z(None)
    assert abs(corrected - exact) < 4 * error
    assert abs(uncorrected - exact) > 4 * error


def test_exponent_by_hand():
    """S = N^T N has variances 0.5 and 0.25 and covariance -0.25."""
    eta, noise = jnp.array([2.0, -1.0]), jnp.array([[[0.5, -0.5], [0.5, 0.0]]])
    value = exponent(eta, jnp.array([[1.0, 3.0]]), noise)
    assert value[0] == 2.0 * 1.0 - 3.0 - 0.5 * (4.0 * 0.5 + 4.0 * 0.25 + 0.25)


def test_mean_is_the_gradient_of_the_log_normalizer(rng_key):
    keys = jax.random.split(rng_key)
    statistics, noise = jax.random.normal(keys[0], (50, 3)), jax.random.normal(keys[1], (50, 4, 3))
    draws, eta = evenly_weighted(statistics, 0.3 * noise), jnp.array([0.5, -1.0, 0.2])
    gradient = jax.grad(lambda eta: tilt(eta, draws).log_normalizer)(eta)
    assert_allclose(tilt(eta, draws).mean, gradient, rtol=1e-4)


def test_correlated_noise_does_not_move_the_solution(rng_key):
    """z ~ N(0, I) seen with correlated errors: E[z] = mu at eta = mu, whatever the errors are."""
    z_key, noise_key = jax.random.split(rng_key)
    z = jax.random.normal(z_key, (NUM_DRAWS, 2))
    factor = jnp.array([[0.6, 0.5], [0.0, 0.4]])
    observed = z + jax.random.normal(noise_key, z.shape) @ factor
    mu = jnp.array([0.5, -0.8])

    def error(one):
        draws = evenly_weighted(observed, jnp.broadcast_to(one, (NUM_DRAWS, 2, 2)))
        eta, solved = solve_compiled(jnp.zeros(2), draws, (mu, mu), 100.0)
        # Var(observed) is at most 1.77, and that of z is one.
        allowed = jnp.sqrt(1.77 / tilt(eta, draws).ess)
        return jnp.max(jnp.abs(eta - mu)), allowed, solved

    off, allowed, solved = error(factor)
    assert solved
    assert off < 4 * allowed
    independent = jnp.diag(jnp.sqrt(jnp.sum(factor**2, 0)))
    for wrong in (jnp.zeros((2, 2)), independent):
        off, allowed, _ = error(wrong)
        assert off > 4 * allowed


@pytest.mark.parametrize(("max_nats", "expected"), [(2.0, 2.0), (0.5, 1.0)])
def test_step_is_shortened_to_a_divergence(max_nats, expected):
    """From N(0, 1) to N(2, 1) are 2 nats and eta = 2; halfway is a quarter of them."""
    two, moments = jnp.full(1, 2.0), (jnp.zeros(1), jnp.ones((1, 1)))
    eta = damped_newton_step(jnp.zeros(1), *moments, (two, two), max_nats)
    assert_allclose(eta, [expected], rtol=1e-4)


def test_step_of_an_inequality_stops_at_zero():
    """A mean far below its upper bound needs no multiplier, and one of the other sign least."""
    bounds, moments = (jnp.array([-INF]), jnp.zeros(1)), (jnp.full(1, -5.0), jnp.ones((1, 1)))
    assert_array_equal(damped_newton_step(-jnp.ones(1), *moments, bounds, 100.0), [0.0])


@pytest.mark.parametrize("away", [20.0, 0.1])
def test_far_away_a_step_does_not_raise_the_variance(away):
    """From N(away, 1), asked for mean 0 and variance 1; close by it is Newton's step."""
    mean = jnp.array([away, away**2])
    covariance = jnp.array([[1.0, 2 * away], [2 * away, 2 + 4 * away**2]])
    bounds = jnp.zeros(2), jnp.zeros(2)
    start = jnp.zeros(2)
    eta = damped_newton_step(start, mean, covariance, bounds, 1e9)
    newton, _ = newton_direction(start, mean, covariance, bounds)
    if away > 1:
        assert newton[1] > 0 > eta[1]
    else:
        assert_allclose(eta, newton, atol=0.02 * away)


def test_excess():
    """Above the bound that eta holds, or zero where it holds none."""
    eta = jnp.array([1.0, -1.0, 0.0, 0.0, 0.0])
    mean = jnp.array([0.7, 0.1, 0.5, -0.5, 0.2])
    lower = jnp.array([0.6, -INF, 0.4, 0.0, 0.0])
    upper = jnp.array([INF, 0.3, INF, 1.0, 0.0])
    assert_allclose(excess(eta, mean, (lower, upper)), [0.1, -0.2, 0.0, -0.5, 0.2], atol=1e-6)


def test_of_allowed_sign():
    """AtLeast holds by positive eta, AtMost by negative, Between and equalities by both."""
    bounds = jnp.array([0.0, -INF, 0.0, 0.0]), jnp.array([INF, 0.0, 1.0, 0.0])
    for sign, expected in (1, [1, 0, 1, 1]), (-1, [0, -1, -1, -1]):
        assert_array_equal(of_allowed_sign(sign * jnp.ones(4), bounds), expected)
