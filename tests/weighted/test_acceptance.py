"""Rejected draws: the density of those that are kept, against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose

from numpyro_dsn.weighted.acceptance import (
    MAX_OFFSET_NATS,
    Acceptance,
    accept,
    accepted,
    aimed_exponent,
    keep_all,
    log_acceptance,
)
from numpyro_dsn.weighted.dual import exponent, tilt
from tests.weighted_draws import NORMAL, draws_of, evenly_weighted, pool_of

NUM_DRAWS = 40_000
GRID = jnp.linspace(-10.0, 10.0, 20_001)
STEP = 1e-3
ETA = jnp.array([1.0])
RULE, TWICE = (
    Acceptance(ETA, ETA, jnp.zeros(()), jnp.asarray(0.5 + np.log(envelope))) for envelope in (1, 2)
)
"""The optimum is N(1, 1), of a standard normal prior and T(z) = z: log Z = 1/2."""

each_rule = pytest.mark.parametrize(("rule", "envelope"), [(RULE, 1.0), (TWICE, 2.0)])


def log_prior(flat):
    return norm.logpdf(flat[:, 0])


def log_flow(flat):
    """A flow with its mean and spread wrong."""
    return norm.logpdf(flat[:, 0], 0.8, 1.5)


@pytest.fixture(scope="module")
def pool():
    keys = jax.random.split(jax.random.key(0))
    prior, flow = (jax.random.normal(key, (NUM_DRAWS, 1)) for key in keys)
    blocks = [draws_of(z, log_prior=log_prior(z)) for z in (prior, 0.8 + 1.5 * flow)]
    return pool_of(blocks, [log_prior, log_flow])


def cut_density(envelope):
    """min(q, p_eta / M) on the grid, and its integral."""
    smaller = jnp.minimum(jnp.exp(log_flow(GRID[:, None])), norm.pdf(GRID, 1.0) / envelope)
    return smaller, STEP * smaller.sum()


@each_rule
def test_what_is_kept_is_the_smaller_of_two_densities(pool, rule, envelope):
    found = accepted(pool, jnp.array(1), rule)
    smaller, rate = cut_density(envelope)
    error = 4 * jnp.sqrt(found.rate_variance)
    assert abs(found.rate / rate - 1) < error
    assert 0 < error < 0.02
    at = pool.draws.flat[0, :, 0]
    expected = jnp.log(jnp.interp(at, GRID, smaller / rate))
    assert_allclose(found.log_q[0], expected, atol=error + 1e-3)


@each_rule
def test_draws_that_are_kept_have_the_density_of_the_smaller(pool, rule, envelope):
    """Their first two moments, by weights of the rule on the flow's own draws."""
    draws = jax.tree.map(lambda leaf: leaf[1], pool.draws)
    kept = jnp.exp(log_acceptance(rule, log_flow(draws.flat), draws))
    assert np.all((kept >= 0) & (kept <= 1))
    smaller, rate = cut_density(envelope)
    for power in (1, 2):
        value = draws.flat[:, 0] ** power
        exact = STEP * (smaller * GRID**power).sum() / rate
        mean = (kept @ value) / kept.sum()
        error = jnp.sqrt(kept**2 @ (value - mean) ** 2) / kept.sum()
        assert abs(mean - exact) < 4 * error


def test_a_draw_whose_statistics_are_not_finite_is_never_kept():
    draws = draws_of(jnp.zeros((2, 1)), finite=jnp.array([True, False]))
    for rule in (RULE, keep_all(1)):
        assert log_acceptance(rule, jnp.full(2, -5.0), draws)[1] == -jnp.inf


def test_every_draw_can_be_kept(pool):
    found = accepted(pool, jnp.array(1), keep_all(1))
    assert_allclose(found.log_q, pool.log_q[1], rtol=1e-6)
    assert_allclose(found.rate, 1.0, rtol=1e-5)
    assert found.rate_variance < 1e-9


def test_the_density_of_a_flow_some_of_whose_circuits_fail(pool):
    """Given that the circuit runs, it is higher by the fraction that does."""
    runs = pool.draws.flat[..., 0] < 2.0
    some = pool._replace(draws=pool.draws._replace(finite=runs))
    found = accepted(some, jnp.array(1), keep_all(1))
    error = 4 * jnp.sqrt(found.rate_variance)
    assert abs(found.rate / norm.cdf(2.0, 0.8, 1.5) - 1) < error
    expected = pool.log_q[1] - jnp.log(found.rate)
    assert_allclose(found.log_q[1][runs[1]], expected[1][runs[1]], rtol=1e-4)


# The exponent ------------------------------------------------------------------------------------


def bent(eta, aimed, draws):
    rule = accept(jnp.array(eta), jnp.array(aimed), draws, 0.0)
    return aimed_exponent(rule, draws.statistics, draws.noise)


def test_a_small_offset_is_a_tilt(rng_key):
    """But for a constant, with the terms of the error of T."""
    statistics, noise = jax.random.normal(rng_key, (2, 1000, 2))
    draws = evenly_weighted(statistics, 0.5 * noise[:, None])
    found = bent([0.3, 0.0], [0.35, -0.1], draws)
    difference = found - exponent(jnp.array([0.35, -0.1]), draws.statistics, draws.noise)
    assert_allclose(difference, jnp.full(1000, difference[0]), atol=1e-5)


def test_long_tails_do_not_rule_an_offset():
    """One draw in a thousand is 1,000 standard deviations of the others away."""
    statistics = jnp.where(jnp.arange(NORMAL.size) % 1000 == 0, 1000.0, NORMAL)[:, None]
    draws = evenly_weighted(statistics)
    assert tilt(jnp.array([0.02]), draws).ess < 11
    exponents = bent([0.0], [0.02], draws)
    assert jnp.abs(exponents).max() <= MAX_OFFSET_NATS
    weights = jax.nn.softmax(exponents)
    others = jnp.abs(statistics[:, 0]) < 10
    mean = (weights * others) @ statistics[:, 0] / (weights @ others)
    assert_allclose(mean, 0.02, rtol=0.1)
