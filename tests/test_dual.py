"""The dual problem on weighted draws, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from numpyro_dsn.dual import dual_value, exponent, newton_step, solve_dual, tilt

NUM_DRAWS = 100_000


def uniform_draws(rng_key, num_draws=NUM_DRAWS):
    z = jax.random.uniform(rng_key, (num_draws, 1))
    return jnp.full(num_draws, -jnp.log(num_draws)), z, jnp.zeros_like(z)[:, None]


def solve(draws, lower, upper, min_ess=100.0):
    bounds = jnp.array([lower]), jnp.array([upper])
    return solve_dual(jnp.zeros(1), *draws, *bounds, min_ess)


def test_truncated_exponential(rng_key):
    draws = uniform_draws(rng_key)
    eta, reached = solve(draws, 0.3, 0.3)
    tilted = tilt(eta, *draws)
    assert reached
    assert abs(tilted.mean[0] - 0.3) < 1e-3
    # The standard error of eta is that of the mean over the variance.
    error = 1 / jnp.sqrt(tilted.covariance[0, 0] * tilted.ess)
    assert abs(eta[0] + 2.6721038552733853) < 4 * error
    bound = dual_value(eta, tilted.log_normalizer, jnp.array([0.3]), jnp.array([0.3]))
    # The uniform prior has entropy 0, so the bound is the entropy of the solution.
    assert abs(bound + 0.2528455630041859) < 4 / jnp.sqrt(tilted.ess)


def test_inequality_that_is_met_has_no_multiplier(rng_key):
    eta, reached = solve(uniform_draws(rng_key), 0.2, 0.8)
    assert reached
    assert eta[0] == 0


def test_inequality_that_is_not_met_pulls_to_its_bound(rng_key):
    draws = uniform_draws(rng_key)
    above, reached = solve(draws, 0.7, jnp.inf)
    below, _ = solve(draws, -jnp.inf, 0.3)
    assert reached
    assert above[0] > 0 > below[0]
    assert abs(tilt(above, *draws).mean[0] - 0.7) < 1e-3


def test_trust_region_stops_where_draws_are_too_few(rng_key):
    draws = uniform_draws(rng_key, 2000)
    eta, reached = solve(draws, 0.01, 0.01, min_ess=1000.0)
    ess = tilt(eta, *draws).ess
    assert not reached
    assert ess >= 1000
    assert eta[0] < -0.5


def test_a_start_that_the_draws_disprove_is_given_up(rng_key):
    """Natural parameters of before can rest on draws that new ones outweigh."""
    draws = uniform_draws(rng_key)
    start, bound = jnp.array([-1e6]), jnp.array([0.3])
    assert tilt(start, *draws).ess < 3
    eta, reached = solve_dual(start, *draws, bound, bound, 100.0)
    assert reached
    np.testing.assert_allclose(eta, solve(draws, 0.3, 0.3)[0], rtol=0.01)


def test_infeasible_mean_is_not_reached(rng_key):
    eta, reached = solve(uniform_draws(rng_key, 2000), 1.5, 1.5)
    assert not reached
    assert np.isfinite(eta).all()


def test_noise_is_not_rewarded(rng_key):
    """Tilting z + noise by exp(eta (z + noise)) shifts z by eta alone, if noise is corrected."""
    z_key, noise_key = jax.random.split(rng_key)
    z = jax.random.normal(z_key, (NUM_DRAWS, 1))
    spread = jnp.exp(0.3 * z)  # noisier where z is large, so that rewarding it would show
    observed = z + spread * jax.random.normal(noise_key, z.shape)
    eta, base = jnp.array([0.7]), jnp.full(NUM_DRAWS, -jnp.log(NUM_DRAWS))
    exact = 0.7

    def mean_of_z(noise):
        weights = jnp.exp(tilt(eta, base, observed, noise).log_weights)
        return weights @ z[:, 0], jnp.sqrt(weights**2 @ (z[:, 0] - exact) ** 2)

    corrected, error = mean_of_z(spread[:, None])
    uncorrected, _ = mean_of_z(jnp.zeros_like(z)[:, None])
    assert abs(corrected - exact) < 4 * error
    assert abs(uncorrected - exact) > 4 * error


def test_exponent_by_hand():
    """S = N^T N has variances 0.5 and 0.25 and covariance -0.25."""
    eta, noise = jnp.array([2.0, -1.0]), jnp.array([[[0.5, -0.5], [0.5, 0.0]]])
    value = exponent(eta, jnp.array([[1.0, 3.0]]), noise)
    assert value[0] == 2.0 * 1.0 - 3.0 - 0.5 * (4.0 * 0.5 + 4.0 * 0.25 + 0.25)


def test_mean_is_the_gradient_of_the_log_normalizer(rng_key):
    keys = jax.random.split(rng_key)
    base, statistics = jnp.full(50, -jnp.log(50.0)), jax.random.normal(keys[0], (50, 3))
    noise, eta = 0.3 * jax.random.normal(keys[1], (50, 4, 3)), jnp.array([0.5, -1.0, 0.2])

    def log_normalizer(eta):
        return tilt(eta, base, statistics, noise).log_normalizer

    mean = tilt(eta, base, statistics, noise).mean
    np.testing.assert_allclose(mean, jax.grad(log_normalizer)(eta), rtol=1e-4)


def test_correlated_noise_does_not_move_the_solution(rng_key):
    """z ~ N(0, I) seen with correlated errors: E[z] = mu at eta = mu, whatever the errors are."""
    z_key, noise_key = jax.random.split(rng_key)
    z = jax.random.normal(z_key, (NUM_DRAWS, 2))
    factor = jnp.array([[0.6, 0.5], [0.0, 0.4]])
    observed = z + jax.random.normal(noise_key, z.shape) @ factor
    noise = jnp.broadcast_to(factor, (NUM_DRAWS, 2, 2))
    mu = jnp.array([0.5, -0.8])
    base = jnp.full(NUM_DRAWS, -jnp.log(NUM_DRAWS))

    def error(noise):
        eta, reached = solve_dual(jnp.zeros(2), base, observed, noise, mu, mu, 100.0)
        # Var(observed) is at most 1.77, and that of z is one.
        allowed = jnp.sqrt(1.77 / tilt(eta, base, observed, noise).ess)
        return jnp.max(jnp.abs(eta - mu)), allowed, reached

    off, allowed, reached = error(noise)
    assert reached
    assert off < 4 * allowed
    independent = jax.vmap(lambda n: jnp.diag(jnp.sqrt(jnp.sum(n**2, 0))))(noise)
    for wrong in (jnp.zeros_like(noise), independent):
        off, allowed, _ = error(wrong)
        assert off > 4 * allowed


@pytest.mark.parametrize(("max_nats", "expected"), [(2.0, 2.0), (0.5, 1.0)])
def test_step_is_shortened_to_a_divergence(max_nats, expected):
    """From N(0, 1) to N(2, 1) are 2 nats and eta = 2; halfway is a quarter of them."""
    zero, two = jnp.zeros(1), jnp.full(1, 2.0)
    eta = newton_step(zero, zero, jnp.ones((1, 1)), two, two, max_nats)
    assert_allclose(eta, expected, rtol=1e-4)


def test_step_of_an_inequality_stops_at_zero():
    """A mean far below its upper bound needs no multiplier, and one of the other sign least."""
    one, mean = jnp.ones(1), jnp.full(1, -5.0)
    eta = newton_step(-one, mean, jnp.ones((1, 1)), -jnp.inf * one, 0.0 * one, 100.0)
    assert_array_equal(eta, 0.0)
