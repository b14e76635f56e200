"""The loss of many latents, which follows gradients of the flow's draws."""

import jax
import jax.numpy as jnp
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose

from numpyro_dsn.solver.training import path_loss

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIM, NUM_PARTICLES = 9, 500


class Gaussian:
    """Independent normal distributions; parameters are their means and log deviations."""

    @staticmethod
    def sample(rng_key, params, num_draws):
        noise = jax.random.normal(rng_key, (num_draws, DIM))
        return params["loc"][None] + jnp.exp(params["log_std"])[None] * noise

    @staticmethod
    def log_prob(params, flat):
        std = jnp.exp(params["log_std"])
        return norm.logpdf(flat, params["loc"][None], std[None]).sum(-1)


def params_of(loc, std):
    return {"loc": jnp.full(DIM, loc), "log_std": jnp.full(DIM, jnp.log(std))}


def log_target(rng_key, flat):
    """The standard normal prior tilted by -1/2 of the squared length: variance 1/2."""
    return norm.logpdf(flat).sum() - 0.5 * flat @ flat


@jax.jit
def gradient(params):
    def loss(params):
        return path_loss(jax.random.key(1), params, Gaussian, log_target, NUM_PARTICLES)

    return jax.grad(loss)(params)


def test_at_the_optimum_there_is_no_noise():
    for leaf in gradient(params_of(0.0, 0.5**0.5)).values():
        assert_allclose(leaf, 0.0, atol=1e-5)


def test_gradient_is_that_of_the_divergence():
    """KL(N(m, s^2) || N(0, 1/2)) = m^2 + s^2 - log s + c in each dimension."""
    loc, std = 0.3, 0.9
    found = gradient(params_of(loc, std))
    slope = 2 - 1 / std**2  # of the score along the draws
    error = abs(slope) * std / NUM_PARTICLES**0.5
    assert_allclose(found["loc"], 2 * loc, atol=4 * error)
    # Score times draw: u w with w ~ N(0, 1) and u = m + s w; its variance is m^2 + 2 s^2.
    error = std * (abs(slope) * 2**0.5 * std + 2 * loc) / NUM_PARTICLES**0.5
    assert_allclose(found["log_std"], 2 * std**2 - 1, atol=4 * error)


def test_draws_at_which_the_circuit_fails_are_left_out():
    params = params_of(0.0, 1.0)

    def loss(params, limit):
        def target(rng_key, flat):
            value = log_target(rng_key, flat)
            return jnp.where(flat[0] > limit, -jnp.inf, value)

        return path_loss(jax.random.key(1), params, Gaussian, target, NUM_PARTICLES)

    both = jax.jit(jax.value_and_grad(loss))
    (whole, _), (part, slope) = both(params, jnp.inf), both(params, 0.0)
    # In the mean, half of the draws are left; each has log q - log p = |z|^2 / 2 = 4.5.
    error = 4.5 * 0.5 / NUM_PARTICLES**0.5
    assert abs(part - 0.5 * whole) < 4 * error
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in slope.values())
