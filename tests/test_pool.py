"""Multiple importance sampling: every draw weighted by the mixture of what proposed it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from numpyro_dsn.pool import (
    Draws,
    divergence,
    empty_pool,
    insert_draws,
    log_weights,
    relative_variance,
    seen,
    unseen,
)


def log_density(params, flat):
    return norm.logpdf(flat[:, 0], params["loc"], params["scale"])


def draw(key, params, num_draws):
    flat = params["loc"] + params["scale"] * jax.random.normal(key, (num_draws, 1))
    zeros = jnp.zeros(num_draws)
    return Draws(flat, flat, jnp.zeros_like(flat)[:, None], zeros, zeros, jnp.ones(num_draws, bool))


PRIOR = {"loc": jnp.array(0.0), "scale": jnp.array(3.0)}
FLOWS = [{"loc": jnp.array(loc), "scale": jnp.array(0.5)} for loc in (-2.0, 2.0, 1.0)]


def filled_pool(rng_key, flows, num_flows=2, size=4000):
    first = draw(rng_key, PRIOR, 4000)
    pool = empty_pool(first, log_density(PRIOR, first.flat), FLOWS[0], num_flows, size)
    for index, flow in enumerate(flows):
        draws = draw(jax.random.fold_in(rng_key, index), flow, size)
        component = jnp.array(1 + index % num_flows)
        at_first = log_density(PRIOR, draws.flat)
        pool = insert_draws(pool, component, flow, draws, at_first, log_density)
    return pool


def test_weights_turn_the_pool_into_another_density(rng_key):
    pool = filled_pool(rng_key, FLOWS[:2])
    target = norm.logpdf(pool.flat[:, 0], 0.5, 1.0)
    weights = jnp.exp(log_weights(pool, target))
    error = jnp.sqrt(jnp.sum(weights**2))
    assert abs(weights.sum() - 1) < 4 * error
    assert abs(weights @ pool.flat[:, 0] - 0.5) < 8 * error


def test_unused_slots_have_no_weight(rng_key):
    pool = filled_pool(rng_key, FLOWS[:1])
    weights = log_weights(pool, jnp.zeros(pool.flat.shape[0]))
    assert np.isneginf(weights[8000:]).all()
    assert np.isfinite(weights[:8000]).all()


def test_oldest_component_is_replaced(rng_key):
    pool = filled_pool(rng_key, FLOWS)
    # Component 1 now is the third flow, with its draws and densities.
    assert abs(pool.flat[4000:8000].mean() - 1.0) < 0.05
    assert np.allclose(pool.log_q[1], log_density(FLOWS[2], pool.flat), atol=1e-5)
    assert np.allclose(pool.log_q[2], log_density(FLOWS[1], pool.flat), atol=1e-5)
    assert pool.counts.tolist() == [4000, 4000, 4000]
    target = norm.logpdf(pool.flat[:, 0], -2.0, 1.0)
    weights = jnp.exp(log_weights(pool, target))
    assert abs(weights.sum() - 1) < 4 * jnp.sqrt(jnp.sum(weights**2))


def test_draws_that_are_not_finite_have_no_weight(rng_key):
    first = draw(rng_key, PRIOR, 10)._replace(finite=jnp.arange(10) > 2)
    pool = empty_pool(first, log_density(PRIOR, first.flat), FLOWS[0], 1, 5)
    weights = log_weights(pool, jnp.zeros(15))
    assert np.isneginf(weights[:3]).all()
    assert np.isfinite(weights[3:10]).all()


def test_draws_that_are_not_finite_do_not_enter_a_divergence(rng_key):
    """A draw at an end of its support has a density of zero, or none, under everything."""
    pool = filled_pool(rng_key, FLOWS[:1])
    log_p, log_q = norm.logpdf(pool.flat[:, 0], 0.0, 3.0), pool.log_q[1]
    outside = pool._replace(finite=pool.finite.at[0].set(False))
    exact, _ = divergence(outside, log_q, log_p)
    found, variance = divergence(outside, log_q.at[0].set(jnp.nan), log_p.at[0].set(-jnp.inf))
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    assert np.isfinite(variance)


def test_seen_and_unseen_draws_share_the_pool(rng_key):
    pool = filled_pool(rng_key, FLOWS[:2])
    training, rest = seen(pool), unseen(pool, jnp.array(2))
    assert training.counts.tolist() == [3000, 3000, 3000]
    assert rest.counts.tolist() == [1000, 1000, 4000]
    for view in (training, rest):
        assert np.bincount(view.component[view.finite]).tolist() == view.counts.tolist()
    old = pool.component != 2
    assert np.array_equal(rest.finite[old], ~training.finite[old])


def test_draws_that_a_flow_was_trained_on_mislead(rng_key):
    """Half of the flow's mass is in spikes at the draws that it has seen."""
    size, width = 2000, 1e-4
    keys = jax.random.split(rng_key, 4)
    zeros, finite = jnp.zeros(size), jnp.ones(size, bool)

    def normal_draws(flat):
        return Draws(flat, flat, jnp.zeros_like(flat)[:, None], zeros, zeros, finite)

    first = normal_draws(jax.random.normal(keys[0], (size, 1)))
    pool = empty_pool(first, norm.logpdf(first.flat[:, 0]), FLOWS[0], 1, size)
    known = pool.flat[:size][~pool.held_out[:size], 0]

    def memorized(_, flat):
        spikes = norm.pdf(flat, known[None], width).mean(-1)
        return jnp.log(0.5 * norm.pdf(flat[:, 0]) + 0.5 * spikes)

    centers = jax.random.choice(keys[1], known, (size // 2,))
    near = centers + width * jax.random.normal(keys[2], centers.shape)
    flat = jnp.concatenate([jax.random.normal(keys[3], (size // 2,)), near])[:, None]
    at_first = norm.logpdf(flat[:, 0])
    pool = insert_draws(pool, jnp.array(1), FLOWS[0], normal_draws(flat), at_first, memorized)

    def deviation(pool):
        weights = jnp.exp(log_weights(pool, norm.logpdf(pool.flat[:, 0])))
        return abs(weights.sum() - 1) / jnp.sqrt(jnp.sum(weights**2))

    assert deviation(unseen(pool, jnp.array(1))) < 4
    assert deviation(pool) > 4


def test_relative_variance_is_that_of_many_pools(rng_key):
    """The sum of weights of 200 small pools, and the error that each says it has."""

    def estimate(key):
        pool = filled_pool(key, FLOWS[:2], size=100)
        weights = log_weights(pool, norm.logpdf(pool.flat[:, 0], 0.5, 1.0))
        total = jax.scipy.special.logsumexp(weights)
        return jnp.exp(total), relative_variance(pool, weights - total)

    totals, variances = jax.vmap(estimate)(jax.random.split(rng_key, 200))
    # The variance of 200 normal numbers is known to 10 %; the other estimate adds little.
    assert abs(totals.var() / variances.mean() - 1) < 0.4
    assert abs(totals.mean() - 1) < 4 * totals.std() / np.sqrt(200)


def test_equal_weights_have_no_error(rng_key):
    pool = filled_pool(rng_key, [])
    weights = log_weights(pool, log_density(PRIOR, pool.flat))
    assert relative_variance(pool, weights) < 1e-6  # one over 4000, but for that
