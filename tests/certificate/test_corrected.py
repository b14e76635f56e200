"""Draws of the exponential family, on a normal prior whose tilts are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from weighted_draws import draws_of, pool_of, targets_of

from numpyro_dsn.certificate import draw_corrected
from numpyro_dsn.solver.inputs import Inputs
from numpyro_dsn.weighted.acceptance import keep_all

NUMBER = 20_000


def draws(key, loc, scale):
    """T is the latent itself; beyond 2 it cannot be computed."""
    z = loc + scale * jax.random.normal(key, (NUMBER, 1))
    return draws_of(z, log_prior=norm.logpdf(z[:, 0]), finite=z[:, 0] < 2)


def corrected(flow, start=(0.0, 1.0)):
    """Draws of the prior tilted by exp(-z), which is N(-1, 1), whatever the flow is."""
    both = start, flow
    keys = jax.random.split(jax.random.key(0), 3)
    blocks = [draws(key, *one) for key, one in zip(keys[1:], both, strict=True)]

    def density(loc, scale):
        return lambda flat: norm.logpdf(flat[:, 0], loc, scale)

    pool = pool_of(blocks, [density(*one) for one in both])
    is_prior = jnp.array(start == (0.0, 1.0))
    inputs = Inputs(pool, jnp.array(1), jnp.array([-1.0]), targets_of(-1.0), is_prior, keep_all(1))
    return draw_corrected(keys[0], inputs, NUMBER)


@pytest.mark.parametrize(
    ("flow", "effective"),
    [
        ((-1.0, 1.0), 0.6),  # the optimum itself
        ((-1.0, 0.1), 0.15),  # far too narrow
        ((1.5, 0.1), 0.15),  # on the other side
    ],
)
def test_a_poor_fit_makes_good_draws(flow, effective):
    chosen, ess = corrected(flow)
    assert effective * 2 * NUMBER < ess <= 2 * NUMBER
    error = np.sqrt(1 / ess + 1 / NUMBER)
    assert chosen.shape == (NUMBER, 1)
    assert abs(chosen.mean() + 1) < 4 * error + 0.005  # 0.1 % of the mass is beyond 2
    assert abs(chosen.var() - 1) < 4 * np.sqrt(2) * error + 0.02
    # What fails has no weight; the rounding of a sum of 40,000 may choose one.
    assert np.mean(chosen >= 2) < 1e-4


def test_effective_draws_of_the_prior_alone():
    """A fit that covers nothing leaves the draws of the prior, with E[w]^2 / E[w^2] = exp(-1)."""
    _, ess = corrected((9.0, 0.1))
    assert abs(ess / NUMBER - np.exp(-1)) < 0.05 * np.exp(-1)


def test_an_improper_prior_is_not_drawn_from():
    chosen, ess = corrected((-1.0, 1.2), start=(-1.0, 1.3))
    assert ess > 0.8 * 2 * NUMBER
    assert abs(chosen.mean() + 1) < 4 * np.sqrt(1 / ess + 1 / NUMBER) + 0.005


def test_draws_are_in_no_order():
    chosen, _ = corrected((-1.0, 1.0))
    half = NUMBER // 2
    assert abs(chosen[:half].mean() - chosen[half:].mean()) < 4 * np.sqrt(2 / half)
