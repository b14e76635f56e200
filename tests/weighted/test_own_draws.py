"""Natural parameters from draws of a flow: which are kept, and steps towards the target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose
from weighted_draws import NORMAL

from numpyro_dsn.weighted.own_draws import (
    MAX_NOISE,
    OwnDraws,
    Pace,
    kept_fraction,
    kept_weights,
    log_level,
    step,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUARTER, ALL = jnp.asarray(0.25), jnp.ones(())


def own_draws(z, log_q, failed=False, again=None):
    """Draws of a flow under a standard normal prior, T = (z - 1, (z - 1)^2 - 1/4)."""
    statistics = jnp.stack([z - 1, (z - 1) ** 2 - 0.25], -1)
    log_ratio = jnp.where(failed, -jnp.inf, norm.logpdf(z) - log_q)
    noise = jnp.zeros((len(z), 0, 2))
    return OwnDraws(log_ratio, statistics, noise, statistics if again is None else again)


def test_so_many_draws_are_kept():
    """A ratio that is at most 4 is 1 in the mean: a quarter is kept by the ratio alone."""
    log_ratio = jnp.log(jnp.linspace(0.0, 2.0, 1001)[1:])
    level = log_level(log_ratio, QUARTER)
    assert_allclose(jnp.exp(jnp.minimum(log_ratio - level, 0.0)).mean(), 0.25, rtol=1e-5)
    assert_allclose(jnp.exp(level), 4.0, rtol=2e-3)
    assert log_level(log_ratio, ALL) == -jnp.inf


def test_draws_that_failed_are_not_kept():
    failed = NORMAL > 0
    draws = own_draws(NORMAL, norm.logpdf(NORMAL), failed)
    for fraction in (QUARTER, ALL):
        weights = kept_weights(jnp.zeros(2), draws, fraction)
        assert_allclose(weights, jnp.where(failed, 0.0, 1 / 5000), rtol=1e-4)
    none = kept_weights(jnp.zeros(2), own_draws(NORMAL, norm.logpdf(NORMAL), True), QUARTER)
    assert_allclose(none, 0.0)


def test_what_is_kept_is_the_tilted_prior_where_the_flow_is_wider():
    """exp(2 z - 3 z^2 / 2) turns N(0, 1) into N(1/2, 1/4); the flow is N(1/2, 1)."""
    z = 0.5 + NORMAL
    eta = jnp.array([-1.0, -1.5])  # of z - 1 and its square
    weights = kept_weights(eta, own_draws(z, norm.logpdf(z, 0.5)), QUARTER)
    assert_allclose(weights @ z, 0.5, atol=1e-3)
    assert_allclose(weights @ (z - 0.5) ** 2, 0.25, atol=1e-3)


def test_steps_find_the_natural_parameters():
    """With w = z - 1, exp(w - 3 w^2 / 2) turns N(0, 1) into N(1, 1/4)."""
    z = 1 + 0.8 * NORMAL
    draws, bounds = own_draws(z, norm.logpdf(z, 1.0, 0.8)), (jnp.zeros(2), jnp.zeros(2))
    pace = Pace(QUARTER, 0.5, 1.0)
    eta = jax.lax.fori_loop(0, 30, lambda _, eta: step(eta, draws, bounds, pace), jnp.zeros(2))
    assert_allclose(eta, [1.0, -1.5], atol=0.01)


def test_moments_are_those_of_another_run():
    """Noise that decides what is kept does not count as a statistic."""
    z = 1 + 0.8 * NORMAL
    log_q = norm.logpdf(z, 1.0, 0.8)
    exact, other = own_draws(z, log_q), own_draws(z, log_q).statistics + 0.3
    bounds, pace = (jnp.full(2, 0.3), jnp.full(2, 0.3)), Pace(QUARTER, 0.5, 1.0)
    shifted = exact._replace(again=other)
    zero = jnp.zeros(2), jnp.zeros(2)
    start = jnp.array([0.5, -0.5])
    assert_allclose(step(start, shifted, bounds, pace), step(start, exact, zero, pace), rtol=1e-3)


def test_a_noisy_simulator_keeps_all():
    error = MAX_NOISE * jnp.array([0.5, 0.9, 100.0])
    assert_allclose(kept_fraction(error, 4.0), 0.25)
    assert_allclose(kept_fraction(2 * error, 4.0), 1.0)


def test_no_step_where_nothing_is_known():
    draws = own_draws(jnp.full(100, jnp.nan), jnp.zeros(100))
    start = np.array([0.3, -0.2])
    new = step(jnp.asarray(start), draws, (jnp.zeros(2), jnp.zeros(2)), Pace(ALL, 1.0, 0.5))
    assert_allclose(new, start)
