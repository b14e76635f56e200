"""Multiple importance sampling: every draw weighted by the mixture of what proposed it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from weighted_draws import draws_of, pool_of, prior_of, solve_compiled, targets_of

from numpyro_dsn.weighted.draws import (
    divergence,
    insert,
    is_held_out,
    log_weights,
    relative_variance,
    training,
    validation,
    with_densities,
)
from numpyro_dsn.weighted.dual import dual_value, tilt

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZE = 4000
PRIOR = 0.0, 3.0
FLOWS = [(-2.0, 0.5), (2.0, 0.5), (1.0, 0.5)]


def log_density(params, flat):
    return norm.logpdf(flat[:, 0], *params)


def draw(key, params, size=SIZE):
    flat = params[0] + params[1] * jax.random.normal(key, (size, 1))
    return draws_of(flat, log_prior=log_density(PRIOR, flat))


def filled_pool(rng_key, flows, size=SIZE):
    """A pool with room for two flows; what is not given stays empty."""
    params = [PRIOR, *flows]
    keys = jax.random.split(rng_key, len(params))
    blocks = [draw(key, one, size) for key, one in zip(keys, params, strict=True)]
    densities = [partial(log_density, one) for one in params]
    missing = [None] * (3 - len(params))
    return pool_of(blocks + missing, densities + missing)


def test_weights_turn_the_pool_into_another_density(rng_key):
    pool = filled_pool(rng_key, FLOWS[:2])
    x = pool.draws.flat[..., 0]
    weights = jnp.exp(log_weights(pool, norm.logpdf(x, 0.5, 1.0)))
    error = jnp.sqrt(jnp.sum(weights**2))
    assert abs(weights.sum() - 1) < 4 * error
    assert abs(jnp.sum(weights * x) - 0.5) < 8 * error


def test_empty_blocks_have_no_weight(rng_key):
    pool = filled_pool(rng_key, FLOWS[:1])
    weights = log_weights(pool, jnp.zeros(pool.log_share.shape))
    assert np.isneginf(weights[2]).all()
    assert np.isfinite(weights[:2]).all()


def test_the_oldest_flow_is_replaced(rng_key):
    """The pool of the second and the third flow is that of the third in the place of the first."""
    keys = jax.random.split(rng_key, 4)
    blocks = [draw(key, one) for key, one in zip(keys, [PRIOR, *FLOWS], strict=True)]
    densities = [partial(log_density, one) for one in [PRIOR, *FLOWS]]
    pool = insert(pool_of(blocks[:3], densities[:3]), 1, blocks[3])
    order = densities[0], densities[3], densities[2]
    of_new = jnp.stack([densities[3](flat) for flat in pool.draws.flat])
    at_new = jnp.stack([density(pool.draws.flat[1]) for density in order])
    pool = with_densities(pool, 1, of_new, at_new)
    expected = pool_of([blocks[0], blocks[3], blocks[2]], order)
    for one, other in zip(jax.tree.leaves(pool), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    weights = jnp.exp(log_weights(pool, norm.logpdf(pool.draws.flat[..., 0], -2.0, 1.0)))
    assert abs(weights.sum() - 1) < 4 * jnp.sqrt(jnp.sum(weights**2))


def test_draws_that_are_not_finite_have_no_weight(rng_key):
    first = draw(rng_key, PRIOR, 10)._replace(finite=jnp.arange(10) > 2)
    pool = pool_of([first], [partial(log_density, PRIOR)])
    (weights,) = log_weights(pool, jnp.zeros((1, 10)))
    assert np.isneginf(weights[:3]).all()
    assert np.isfinite(weights[3:]).all()


def test_the_normalizer_knows_what_share_of_the_prior_runs(rng_key):
    """60 % of the prior fails: what runs is tilted, and the distance is that to the whole prior.

    A mean of 1.5 and a standard deviation of 0.1, cut at three of these, in [0, 2].
    """
    z = jax.random.uniform(rng_key, (40_000, 1), maxval=2.0)
    statistics = jnp.concatenate([(z - 1.5) / 0.1, ((z - 1.5) / 0.1) ** 2], 1)
    first = draws_of(z, statistics, log_prior=-jnp.log(2.0), finite=z[:, 0] >= 1.2)
    draws = prior_of(pool_of([first], [lambda flat: jnp.full(len(flat), -jnp.log(2.0))]))
    targets = targets_of([0.0, 1.0])
    start = tilt(jnp.zeros(2), draws)
    np.testing.assert_allclose(jnp.exp(start.log_normalizer), 0.4, atol=4 * 0.49 / 200)
    eta, solved = solve_compiled(jnp.zeros(2), draws, targets.bounds, 100.0)
    tilted = tilt(eta, draws)
    assert solved
    bound = dual_value(eta, tilted.log_normalizer, targets.bounds)
    # Cut at three standard deviations on one side, its entropy is a thousandth less.
    assert abs(bound + 1.577) < 4 / tilted.ess**0.5 + 2e-3


def test_draws_that_are_not_finite_do_not_enter_a_divergence(rng_key):
    """A draw at an end of its support has a density of zero, or none, under everything."""
    pool = filled_pool(rng_key, FLOWS[:1])
    x, log_q = pool.draws.flat[..., 0], pool.log_q[1]
    finite = pool.draws.finite.at[0, 0].set(False)
    outside = pool._replace(draws=pool.draws._replace(finite=finite))
    of_q, log_p = log_weights(outside, log_q), norm.logpdf(x, *PRIOR)
    exact, _ = divergence(of_q, log_q, log_p)
    wrong = log_q.at[0, 0].set(jnp.nan), log_p.at[0, 0].set(-jnp.inf)
    found, variance = divergence(log_weights(outside, wrong[0]), *wrong)
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    assert np.isfinite(variance)
    # The divergence of normal distributions, within the error that is stated.
    (mean, std), (_, width) = FLOWS[0], PRIOR
    closed = np.log(width / std) + (std**2 + mean**2) / (2 * width**2) - 0.5
    assert abs(exact - closed) < 4 * variance**0.5


def test_training_and_validation_share_the_pool(rng_key):
    pool = filled_pool(rng_key, FLOWS[:2])
    trained, rest = training(pool), validation(pool, jnp.array(2))
    assert trained.sum(1).tolist() == [3000, 3000, 3000]
    assert rest.sum(1).tolist() == [1000, 1000, 4000]
    np.testing.assert_array_equal(rest[:2], ~trained[:2])
    for used in trained, rest:
        weights = jnp.exp(log_weights(pool, norm.logpdf(pool.draws.flat[..., 0], 0.5, 1.0), used))
        assert abs(weights.sum() - 1) < 4 * jnp.sqrt(jnp.sum(weights**2))
        assert np.all(weights[~used] == 0)


def test_draws_that_a_flow_was_trained_on_mislead(rng_key):
    """Half of the flow's mass is in spikes at the draws that it was trained on."""
    size, width = 2000, 1e-4
    keys = jax.random.split(rng_key, 4)

    def standard(flat):
        return norm.logpdf(flat[:, 0])

    first = draws_of(jax.random.normal(keys[0], (size, 1)))
    known = first.flat[~is_held_out(size), 0]

    def memorized(flat):
        spikes = norm.pdf(flat, known[None], width).mean(-1)
        return jnp.log(0.5 * norm.pdf(flat[:, 0]) + 0.5 * spikes)

    centers = jax.random.choice(keys[1], known, (size // 2,))
    near = centers + width * jax.random.normal(keys[2], centers.shape)
    flat = jnp.concatenate([jax.random.normal(keys[3], (size // 2,)), near])[:, None]
    pool = pool_of([first, draws_of(flat)], [standard, memorized])

    def deviation(used):
        weights = jnp.exp(log_weights(pool, norm.logpdf(pool.draws.flat[..., 0]), used))
        return abs(weights.sum() - 1) / jnp.sqrt(jnp.sum(weights**2))

    assert deviation(validation(pool, jnp.array(1))) < 4
    assert deviation(None) > 4


def test_relative_variance_is_that_of_many_pools(rng_key):
    """The sum of weights of 200 small pools, and the error that each says it has."""

    def estimate(key):
        pool = filled_pool(key, FLOWS[:2], size=100)
        weights = log_weights(pool, norm.logpdf(pool.draws.flat[..., 0], 0.5, 1.0))
        return jnp.exp(weights).sum(), relative_variance(pool, weights)

    totals, variances = jax.vmap(estimate)(jax.random.split(rng_key, 200))
    # The variance of 200 normal numbers is known to 10 %; the other estimate adds little.
    assert abs(totals.var() / variances.mean() - 1) < 0.4
    assert abs(totals.mean() - 1) < 4 * totals.std() / np.sqrt(200)


def test_equal_weights_have_no_error(rng_key):
    pool = filled_pool(rng_key, [])
    weights = log_weights(pool, norm.logpdf(pool.draws.flat[..., 0], *PRIOR))
    assert relative_variance(pool, weights) < 1e-6  # one over 4000, but for that
