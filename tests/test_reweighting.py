"""Draws of the exponential family, on a normal prior whose tilts are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from plain_flow import plain_flow

from numpyro_dsn.pool import Draws
from numpyro_dsn.reweighting import NUM_CANDIDATES, PRIOR_SHARE, draw_reweighted

NUMBER = 20_000
ETA = jnp.array([-1.0])


def sample(rng_key, params, num_draws):
    loc, scale = params
    return loc + scale * jax.random.normal(rng_key, (num_draws, 1))


def log_prob(params, flat):
    return norm.logpdf(flat[:, 0], *params)


def prior(rng_key, num_draws):
    return jax.random.normal(rng_key, (num_draws, 1))


def simulate(rng_key, flat):
    """T is the latent itself; beyond 2 it cannot be computed."""
    finite = flat[:, 0] < 2
    return Draws(
        flat=flat,
        statistics=jnp.where(finite[:, None], flat, 0.0),
        noise=jnp.zeros((len(flat), 1, 1)),
        log_prior=norm.logpdf(flat[:, 0]),
        log_det=jnp.zeros(len(flat)),
        finite=finite,
    )


FLOW = plain_flow(sample, log_prob, simulate)


@pytest.mark.parametrize(
    ("params", "effective"),
    [
        ((-1.0, 1.0), 0.8),  # the optimum itself
        ((-1.0, 0.1), 0.05),  # far too narrow
        ((1.5, 0.1), 0.05),  # on the other side
    ],
)
def test_a_poor_fit_makes_good_draws(params, effective):
    """The tilt of N(0, 1) by exp(-z) is N(-1, 1), whatever the fit is."""
    draws, ess = draw_reweighted(jax.random.key(0), FLOW, prior, params, ETA, NUMBER)
    assert effective * NUM_CANDIDATES * NUMBER < ess <= NUM_CANDIDATES * NUMBER
    error = np.sqrt(1 / ess + 1 / NUMBER)
    assert draws.shape == (NUMBER, 1)
    assert abs(draws.mean() + 1) < 4 * error + 0.005  # 0.1 % of the mass is beyond 2
    assert abs(draws.var() - 1) < 4 * np.sqrt(2) * error + 0.02
    assert draws.max() < 2


def test_effective_draws_of_the_prior_alone():
    """A fit that covers nothing leaves the draws of the prior, with E[w]^2 / E[w^2] = exp(-1)."""
    _, ess = draw_reweighted(jax.random.key(0), FLOW, prior, (9.0, 0.1), ETA, NUMBER)
    assert abs(ess / (PRIOR_SHARE * NUM_CANDIDATES * NUMBER) - np.exp(-1)) < 0.05 * np.exp(-1)


def test_an_improper_prior_is_not_drawn_from():
    draws, ess = draw_reweighted(jax.random.key(0), FLOW, None, (-1.0, 1.2), ETA, NUMBER)
    assert ess > 0.8 * NUM_CANDIDATES * NUMBER
    assert abs(draws.mean() + 1) < 4 * np.sqrt(1 / ess + 1 / NUMBER) + 0.005


def test_draws_are_in_no_order():
    draws, _ = draw_reweighted(jax.random.key(0), FLOW, prior, (-1.0, 1.0), ETA, NUMBER)
    half = NUMBER // 2
    difference = draws[:half].mean() - draws[half:].mean()
    assert abs(difference) < 4 * np.sqrt(2 / half)
