"""The tail of importance weights, where its shape is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from plain_flow import plain_flow

from numpyro_dsn.pareto import pareto_k
from numpyro_dsn.pool import Draws


def normal_fit(prior_scale, finite_below=np.inf):
    """A standard normal fit to a normal prior that is tilted by T = z^2."""

    def simulate(rng_key, flat):
        z = flat[:, 0]
        zeros = jnp.zeros(z.shape)
        log_prior = norm.logpdf(z, 0.0, prior_scale)
        noise = jnp.zeros((*z.shape, 1, 1))
        return Draws(flat, z[:, None] ** 2, noise, log_prior, zeros, jnp.abs(z) < finite_below)

    def sample(rng_key, params, num_draws):
        return params * jax.random.normal(rng_key, (num_draws, 1))

    def log_prob(params, flat):
        return norm.logpdf(flat[:, 0], 0.0, params)

    return plain_flow(sample, log_prob, simulate)


@pytest.mark.parametrize(("variance", "exact"), [(0.5, 1.0), (0.65, 0.54), (0.8, 0.25)])
def test_a_narrow_fit_has_the_tail_of_its_variance(variance, exact, rng_key):
    r"""Draws of N(0, s) weighted to N(0, 1): P(w > t) falls as t^(-s / (1 - s)).

    The target is the prior of standard deviation 2, tilted by -3/8 z^2.
    """
    fit, eta = normal_fit(2.0), jnp.array([-0.375])
    found = pareto_k(rng_key, fit, jnp.sqrt(variance), eta)
    # 213 draws are in the tail; a logarithm beside the power takes up to 0.15 from the shape.
    error = (1 + exact) / np.sqrt(213)
    assert exact - 0.15 - 4 * error < found < exact + 4 * error


def test_a_wide_fit_has_bounded_weights(rng_key):
    assert pareto_k(rng_key, normal_fit(1.0), jnp.sqrt(1.5), jnp.zeros(1)) < 0.3


def test_too_few_weights_have_an_infinite_shape(rng_key):
    """Without a warning beside it, which the suite would raise."""
    fit = normal_fit(1.0, finite_below=1e-4)
    assert pareto_k(rng_key, fit, jnp.ones(()), jnp.zeros(1)) == np.inf
