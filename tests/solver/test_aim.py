"""What an epoch aims at: the tilted prior, and an offset that undoes the flow's own error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose, assert_array_equal
from weighted_draws import draws_of, evenly_weighted, pool_of, prior_of, targets_of

from numpyro_dsn.solver.aim import (
    Limits,
    active,
    offset_move,
    settle,
    solve,
    weighted_target,
)
from numpyro_dsn.weighted.acceptance import accepted, aimed_exponent
from numpyro_dsn.weighted.draws import is_held_out, softmax
from numpyro_dsn.weighted.dual import tilt

pytestmark = pytest.mark.usefixtures("quick_compilation")

BOTH = jnp.ones(2, bool)


# The move of the offset --------------------------------------------------------------------------


def test_move_undoes_a_small_violation():
    covariance, residual = jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.array([0.1, -0.05])
    expected = -jnp.linalg.solve(covariance, residual)
    assert_allclose(offset_move(residual, BOTH, covariance), expected, rtol=1e-4)


def test_move_undoes_the_violation_of_a_known_tilt(rng_key):
    """A flow that is the optimum tilted by c violates the constraints, and -c would mend it."""
    z = jax.random.normal(rng_key, (10_000, 2))
    draws = evenly_weighted(jnp.stack([z[:, 0], z[:, 0] + 0.5 * z[:, 1] ** 2], 1))
    eta, error = jnp.array([0.3, -0.4]), jnp.array([0.05, -0.04])
    optimum, flow = tilt(eta, draws), tilt(eta + error, draws)
    move = offset_move(flow.mean - optimum.mean, BOTH, flow.covariance)
    # To first order in the error.
    assert_allclose(move, -error, rtol=0.1)
    before = np.abs(flow.mean - optimum.mean)
    after = np.abs(tilt(eta + error + move, draws).mean - optimum.mean)
    assert np.all(after < 0.1 * before.max())


def test_an_inequality_that_holds_nothing_is_left_alone():
    covariance, residual = jnp.array([[2.0, 0.9], [0.9, 1.0]]), jnp.array([0.1, 0.0])
    move = offset_move(residual, jnp.array([True, False]), covariance)
    assert_allclose(move, [-0.05, 0.0], rtol=1e-4)


def test_move_is_bounded_where_statistics_are_redundant():
    """The difference of two statistics has a standard deviation of 0.01, and is violated by 10."""
    covariance = jnp.array([[1.0, 0.99995], [0.99995, 1.0]])
    residual = jnp.array([0.05, -0.05])
    unbounded = -np.linalg.solve(covariance, residual)
    move = np.asarray(offset_move(residual, BOTH, covariance))
    assert np.sqrt(unbounded @ covariance @ unbounded) > 9
    # At most 0.3 standard deviations of each of two combinations.
    assert np.sqrt(move @ covariance @ move) <= 0.3 * np.sqrt(2) * 1.01
    assert move @ residual < 0


def test_what_is_active():
    """Equalities always; an inequality if it is violated, or met where its multiplier holds it."""
    bounds = jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([0.0, jnp.inf, 1.0])
    assert_array_equal(active(jnp.array([0.0, 0.0, 0.0]), bounds), [True, False, False])
    assert_array_equal(active(jnp.array([0.1, -0.2, 0.3]), bounds), [True, True, True])


# The dual and the target -------------------------------------------------------------------------


def standard(flat):
    return norm.logpdf(flat[:, 0])


def above(flat):
    return norm.logpdf(flat[:, 0], 1.0, 1.0)


@pytest.fixture(scope="module")
def pool():
    """Draws of N(0, 1), the prior, and of N(1, 1), the last flow; the largest fail."""
    keys = jax.random.split(jax.random.key(2))
    flats = [shift + jax.random.normal(key, (4000, 1)) for shift, key in enumerate(keys)]
    blocks = [draws_of(z, log_prior=standard(z), finite=z[:, 0] < 2.5) for z in flats]
    return pool_of([*blocks, None], [standard, above, None])


def solved(pool, asked, offset=0.0, goes_on=False):
    targets, zero = targets_of(asked), jnp.zeros(1)
    return solve(pool, zero, zero + offset, targets, Limits(200.0, 3.0, goes_on))


def test_the_offset_is_added_to_what_the_flow_is_fitted_to(pool):
    aim = solved(pool, 0.5, offset=0.2)
    assert aim.solved
    assert_allclose(aim.aimed, aim.natural_parameters + 0.2, rtol=1e-5)
    assert_allclose(aim.log_normalizer, tilt(aim.natural_parameters, prior_of(pool)).log_normalizer)


def test_draws_are_kept_by_what_is_aimed_at(pool):
    aim = solved(pool, 0.5, offset=0.2)
    draws = prior_of(pool)
    exponents = aimed_exponent(aim.acceptance, draws.statistics, draws.noise)
    total = jnp.sum(jnp.exp(draws.log_base + exponents - aim.acceptance.log_level))
    assert_allclose(total, 1 / 3, rtol=1e-5)
    zero, targets = jnp.zeros(1), targets_of(0.5)
    every = solve(pool, zero, zero, targets, Limits(200.0, 0.0))
    assert every.acceptance.log_level == -jnp.inf


def test_where_no_draws_know_the_solution_eta_stays_what_it_was(pool):
    """What the flow's own draws made it; without them it goes as far as draws are known."""
    alone, own = solved(pool, 40.0, 0.7), solved(pool, 40.0, 0.7, goes_on=True)
    assert not alone.solved
    assert not own.solved
    assert alone.natural_parameters > 0
    assert_allclose(own.natural_parameters, [0.7])
    assert_allclose(own.aimed, [0.7])
    assert_allclose(solved(pool, 0.5, 0.2, goes_on=True).aimed, solved(pool, 0.5, 0.2).aimed)


@pytest.mark.parametrize(("scale", "rejects"), [(0.1, True), (1.0, False)])
def test_what_is_kept_meets_the_constraints_if_noise_is_small(pool, scale, rejects):
    """The last flow is N(1, 1), cut at 2.5; its draws that are kept have a mean of 0.5."""
    noise = scale * jnp.ones((*pool.log_share.shape, 1, 1))
    noisy = pool._replace(draws=pool.draws._replace(noise=noise))
    aim = solved(pool, 1.0)._replace(solved=jnp.array(False))
    aim = settle(noisy, jnp.array(1), aim, targets_of(0.5), 4.0)
    kept = accepted(noisy, jnp.array(1), aim.acceptance)
    weights = softmax(jnp.where(pool.draws.finite[1], kept.log_q[1] - noisy.log_q[1, 1], -jnp.inf))
    mean = weights @ pool.draws.flat[1, :, 0]
    assert np.isfinite(aim.acceptance.log_level) == rejects
    if rejects:
        assert_allclose(mean, 0.5, atol=1e-3)
        assert_allclose(kept.rate, 0.25, rtol=1e-4)
        assert_allclose(aim.natural_parameters, aim.aimed)
    else:
        assert_allclose(aim.aimed, solved(pool, 1.0).aimed)


def test_the_target_is_normalized_and_knows_what_failed(pool):
    aim = solved(pool, 0.5)
    target = weighted_target(pool, aim, jnp.array(1))
    fails = ~np.asarray(pool.draws.finite).ravel()
    is_empty = np.arange(3 * 4000) >= 8000
    assert np.all(np.isneginf(target.log_target[fails | is_empty]))
    z = np.asarray(target.flat)[:, 0]
    exact = norm.logpdf(z) + aim.natural_parameters[0] * z - aim.log_normalizer
    keep = ~(fails | is_empty)
    assert_allclose(target.log_target[keep], exact[keep], rtol=1e-3, atol=1e-3)
    assert_allclose(target.log_last[:8000], above(target.flat[:8000]), atol=1e-5)

    def weights(cumulative):
        return np.diff(np.asarray(cumulative, float), prepend=0.0)

    held_out = np.tile(is_held_out(4000), 3)
    for name, part in (("cumulative", ~held_out), ("held_out", held_out)):
        of_target = weights(getattr(target, f"{name}_target"))
        of_last = weights(getattr(target, f"{name}_last"))
        # But for the rounding of a cumulative sum, in either direction.
        assert np.abs(of_target[~part | fails | is_empty]).sum() < 1e-4
        assert np.abs(of_last[~part | is_empty]).sum() < 1e-4
        # Where the last flow fails it is to be pulled away from.
        assert of_last[part & fails].sum() > 0.01
        assert_allclose([of_target.sum(), of_last.sum()], 1.0, rtol=1e-4)
        error = 4 * np.sqrt(of_target**2 @ (z - 0.5) ** 2)
        assert abs(of_target @ z - 0.5) < error
        # However often draws of the last flow are taken, they count as often as they should.
        counted = of_last / np.asarray(target.frequency)
        counted /= counted.sum()
        assert abs(counted @ z - 1.0) < 4 * np.sqrt(counted**2 @ (z - 1.0) ** 2)
