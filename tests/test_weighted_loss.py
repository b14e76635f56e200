"""The loss on weighted draws, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_flow import plain_flow

from numpyro_dsn.guides.rejection import Estimate
from numpyro_dsn.pool import Draws, empty_pool
from numpyro_dsn.weighted_loss import LARGE, MAX_RATIO, weighted_loss

NUM_DRAWS = 64


def constant_ratio_loss(ratio, rng_key, first=-1.0, **truncated):
    """Return the loss of a flow whose log density is ``ratio`` above the target's everywhere.

    The draws are a grid but for the first, which does not count if it is infinite.
    """
    flat = jnp.linspace(-1.0, 1.0, NUM_DRAWS)[:, None].at[0].set(first)
    zeros, statistics = jnp.zeros(NUM_DRAWS), jnp.zeros((NUM_DRAWS, 1))
    finite = jnp.isfinite(flat[:, 0])
    draws = Draws(flat, statistics, statistics[:, None], zeros, zeros, finite)
    pool = empty_pool(draws, zeros, zeros, num_flows=1, size=1)
    log_q = jnp.where(pool.finite, pool.log_prior, jnp.nan)
    flow = plain_flow(
        sample=lambda key, params, number: jnp.zeros((number, 1)),
        log_prob=lambda params, z: params + jnp.zeros(len(z)),
        simulate=lambda key, z: draws,
    )
    flow = flow._replace(**truncated)
    weights = jnp.where(pool.finite, -jnp.log(finite.sum()), -jnp.inf)
    loss = weighted_loss(flow, pool, weights, log_q - ratio, log_q, NUM_DRAWS)
    return lambda shift: loss(rng_key, shift)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 2.0, 500.0])
def test_a_constant_log_ratio(ratio, rng_key):
    """Small ones count by their square, large ones no more than their own size, by and large."""
    value, gradient = jax.value_and_grad(constant_ratio_loss(ratio, rng_key))(0.0)
    # Both kinds of draws have this ratio.
    square = ratio**2 if ratio < MAX_RATIO else 2 * MAX_RATIO * ratio - MAX_RATIO**2
    root = np.sqrt(1 + 2 * square / LARGE)
    np.testing.assert_allclose(value, LARGE * root, rtol=1e-5)
    # Minus one is the likelihood's. Without the root, 30 would outweigh it.
    slope = 2 * min(ratio, MAX_RATIO) / root
    np.testing.assert_allclose(gradient, slope - 1, atol=1e-4)
    assert slope < 4.3


def test_a_density_that_is_too_low_is_left_to_the_likelihood(rng_key):
    """At draws of the target the square counts on one side, at draws of the last flow on both."""
    value = constant_ratio_loss(-2.0, rng_key)(0.0)
    np.testing.assert_allclose(value, LARGE * np.sqrt(1 + 4.0 / LARGE), rtol=1e-5)


def test_an_infinite_draw_does_not_count(rng_key):
    """A draw at an end of its support is infinitely far in unconstrained space."""
    with_it = jax.value_and_grad(constant_ratio_loss(2.0, rng_key, first=jnp.inf))(0.0)
    without = jax.value_and_grad(constant_ratio_loss(2.0, rng_key))(0.0)
    np.testing.assert_allclose(with_it, without, rtol=1e-5)


@pytest.mark.parametrize("cost", [0.06, 0.5])
def test_draws_that_are_rejected_cost(cost, rng_key):
    def estimate(key, params, flat):
        return Estimate(params + jnp.zeros(len(flat)), cost * jnp.exp(-params))

    loss = constant_ratio_loss(0.0, rng_key, estimate=estimate)
    value, gradient = jax.value_and_grad(loss)(0.0)
    np.testing.assert_allclose(value, LARGE + cost, rtol=1e-5)
    # One draw more of each hundred proposals: minus the cost of those that it saves.
    np.testing.assert_allclose(gradient, -1 - cost, rtol=1e-4)


def test_draws_far_away_or_outside_of_the_box_are_called_back(rng_key):
    """Draws of the target are even on [-1, 1]: eight of their deviations are 4.7."""
    spread = float(jnp.linspace(-1.0, 1.0, NUM_DRAWS).std())
    for limit, start, beyond in (
        (jnp.inf, 4.0, 0.0),
        (jnp.inf, 6.0, 6.0 / spread - 8),
        (2.0, 1.9, 0.0),
        (2.0, -3.0, 1.0 / spread),
    ):

        def propose(key, params, number, start=start):
            return jnp.full((number, 1), start + params)

        loss = constant_ratio_loss(0.0, rng_key, propose=propose, limits=(limit,))
        value, gradient = jax.value_and_grad(loss)(0.0)
        np.testing.assert_allclose(value, LARGE + np.log1p(beyond), rtol=1e-4)
        slope = np.sign(start) / (spread * (1 + beyond)) if beyond else 0.0
        np.testing.assert_allclose(gradient, slope - 1, rtol=1e-4)
