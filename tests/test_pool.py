"""Multiple importance sampling: every draw weighted by the mixture of what proposed it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from numpyro_dsn.pool import Draws, empty_pool, insert_draws, log_weights


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
