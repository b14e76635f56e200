"""What is measured of a flow, on weighted draws, where all of it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose, assert_array_equal
from weighted_draws import draws_of, evenly_weighted, pool_of, prior_of, solve_compiled, targets_of

from numpyro_dsn.solver.aim import Aim
from numpyro_dsn.solver.measurement import count_strays, gap_to, measure
from numpyro_dsn.weighted.acceptance import keep_all
from numpyro_dsn.weighted.dual import tilt

pytestmark = pytest.mark.usefixtures("quick_compilation")

INF = jnp.inf
POINTS = (jnp.arange(20_000) + 0.5) / 20_000
"""Even draws of a uniform prior on [0, 1], whose density is one."""


def truncated_exponential(mean):
    """Maximum entropy on [0, 1] with a mean: eta, and the log density of every point."""
    draws, bound = evenly_weighted(POINTS[:, None]), jnp.array([mean])
    eta, _ = solve_compiled(jnp.zeros(1), draws, (bound, bound), 10.0)
    return eta, eta[0] * POINTS - tilt(eta, draws).log_normalizer


def entropy(log_density):
    return -jnp.mean(jnp.exp(log_density) * log_density)


@pytest.mark.parametrize(
    ("bounds", "mean", "is_short"),
    [
        ((0.6, INF), 0.65, True),
        ((-INF, 0.4), 0.35, True),
        ((0.6, 0.8), 0.65, True),
        ((0.6, INF), 0.58, False),
        ((0.6, 0.6), 0.65, False),
    ],
)
def test_gap(bounds, mean, is_short):
    """All the entropy that is lacking, where an inequality is met further than its bound."""
    at_bound = bounds[1] if bounds[0] == -INF else bounds[0]
    eta, log_optimum = truncated_exponential(at_bound)
    _, log_q = truncated_exponential(mean)
    pool = pool_of([draws_of(POINTS[:, None])], [lambda flat: jnp.zeros(len(flat))])
    tilted, bounds = tilt(eta, prior_of(pool)), tuple(jnp.array([bound]) for bound in bounds)
    # The prior's density is one, so that weights of the flow are its density.
    gap, _ = gap_to(pool, log_q[None] - jnp.log(POINTS.size), log_q[None], eta, tilted, bounds)
    divergence = jnp.mean(jnp.exp(log_q) * (log_q - log_optimum))
    lacking = entropy(log_optimum) - entropy(log_q)
    assert_allclose(gap, lacking if is_short else divergence, atol=1e-4)
    assert abs(lacking - divergence) > 1e-2


MEAN, STD = 1.2, 0.8
"""Of a flow that should be N(1, 1): the standard normal prior tilted by eta = 1."""


@pytest.fixture(scope="module")
def blocks():
    prior_key, flow_key = jax.random.split(jax.random.key(3))
    first = jax.random.normal(prior_key, (20_000, 1))
    second = MEAN + STD * jax.random.normal(flow_key, (20_000, 1))
    return [draws_of(z, log_prior=norm.logpdf(z[:, 0])) for z in (first, second)]


def measured(blocks, own_draws):
    def log_prior(flat):
        return norm.logpdf(flat[:, 0])

    pool = pool_of(blocks, [log_prior, lambda flat: norm.logpdf(flat[:, 0], MEAN, STD)])
    eta, index = jnp.ones(1), jnp.array(1)
    log_normalizer = tilt(eta, prior_of(pool)).log_normalizer
    aim = Aim(eta, jnp.array(True), log_normalizer, keep_all(1)._replace(aimed=eta))
    return measure(pool, index, index, aim, targets_of(1.0), own_draws)


@pytest.mark.parametrize("own_draws", [False, True])
def test_a_normal_flow(own_draws, blocks):
    found = measured(blocks, own_draws)
    exact_gap = -np.log(STD) + (STD**2 + (MEAN - 1) ** 2) / 2 - 0.5
    assert abs(found.entropy - 0.5 * np.log(2 * np.pi * np.e * STD**2)) < 4 * found.entropy_se
    exact_kl = -np.log(STD) + (STD**2 + MEAN**2) / 2 - 0.5
    assert abs(found.kl_to_prior - exact_kl) < 4 * np.hypot(found.entropy_se, MEAN / 20_000**0.5)
    assert abs(found.mean[0] - MEAN) < 4 * found.mean_se[0]
    assert found.mean_se[0] < 2 * STD / 20_000**0.5
    assert_allclose(found.residual, found.mean - 1, rtol=1e-5)
    assert abs(found.gap - exact_gap) < 4 * found.gap_se
    # log Z - eta mu = 1/2 - 1: minus the divergence of the optimum from the prior.
    assert abs(found.dual_bound + 0.5) < 4 * found.gap_se
    worth = jnp.abs(found.residual).sum()
    assert_allclose(found.distance, found.gap + found.gap_se + worth, rtol=1e-5)
    # The tilt of a normal distribution of this variance that undoes the violation.
    assert_allclose(found.move, -found.residual / STD**2, rtol=0.1)


def test_a_violation_is_undone_no_further_than_it_can_be_trusted(blocks):
    far = [block._replace(statistics=block.statistics + 10) for block in blocks]
    assert_allclose(measured(far, False).move, [-0.3 / STD], rtol=0.1)


def test_strays_are_counted():
    statistics = jnp.array([[1.0, 2.0], [jnp.nan, 500.0], [90.0, jnp.inf], [-90.0, 1.0]])
    raw = draws_of(jnp.zeros((4, 1)), statistics, finite=jnp.isfinite(statistics).all(1))
    strays = count_strays(raw, targets_of([0.0, 0.0], limit=60.0))
    assert_array_equal(strays.failed, [0.25, 0.25])
    assert_array_equal(strays.beyond, [0.5, 0.25])
    assert strays.nonfinite == 0.5
