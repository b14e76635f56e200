"""Units of what was asked: any scale is the same problem, and no tail rules it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from weighted_draws import draws_of, evenly_weighted, pool_of, prior_of, solve_compiled, targets_of

from numpyro_dsn.constraints import AtMost, Moments
from numpyro_dsn.weighted.dual import tilt
from numpyro_dsn.weighted.targets import (
    NORMAL_RANGE,
    in_units,
    is_beyond,
    measure_units,
    violation,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

MAX_UNITS = 60.0
NUM_DRAWS = 20_000


def raw_draws(constraint, f, finite=True):
    """Draws with the statistics of a constraint at every value of f, shape ``(n,)``."""
    statistics = jax.vmap(constraint.statistics)(jnp.asarray(f, jnp.float32))
    return draws_of(jnp.zeros((len(f), 1)), statistics, finite=finite)


def targets_for(constraint, draws, max_units=MAX_UNITS):
    return measure_units(*constraint.bounds(), constraint.units(), draws, max_units)


def natural_parameters(constraint, f, max_units=MAX_UNITS, finite=True):
    """eta per unit of what was asked, whether it solves the dual, and log of its normalizer."""
    draws = raw_draws(constraint, f, finite)
    targets = targets_for(constraint, draws, max_units)
    log_prior = [lambda flat: jnp.zeros(len(flat))]
    weighted = prior_of(pool_of([in_units(draws, targets)], log_prior))
    start = jnp.zeros_like(targets.unit)
    eta, solved = solve_compiled(start, weighted, targets.bounds, 100.0)
    return np.asarray(eta), bool(solved), float(tilt(eta, weighted).log_normalizer)


@pytest.mark.parametrize("scale", [1e-12, 1e-9, 1e-3, 1e3, 1e9])
@pytest.mark.parametrize(
    "make",
    [
        lambda scale: Moments(0.3 * scale, std=0.25 * scale),
        lambda scale: Moments(0.3 * scale),
        lambda scale: AtMost(0.3 * scale),
    ],
    ids=["moments", "mean", "at most"],
)
def test_natural_parameters_per_unit_do_not_depend_on_the_scale(make, scale, rng):
    """A current in ampere, a capacity in farad, a statistic of 1e9: to three digits."""
    z = rng.uniform(size=NUM_DRAWS)
    expected, solved, _ = natural_parameters(make(1.0), z)
    found, found_solved, _ = natural_parameters(make(scale), scale * z)
    assert solved
    assert found_solved
    assert np.all(expected != 0)
    assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("far", [1e3, 1e6, -1e6, 1e12])
def test_a_heavy_tail_does_not_move_the_solution(far, rng):
    """0.4 % of the circuits run away. What is left is the problem without them."""
    z, asked = rng.normal(size=NUM_DRAWS), Moments(0.1, std=0.25)
    runs = np.arange(NUM_DRAWS) % 250 != 0
    expected, _, log_normalizer = natural_parameters(asked, z, finite=runs)
    wild = np.where(runs, z, 0.25 * far)
    found, solved, found_normalizer = natural_parameters(asked, wild)
    assert solved
    assert_allclose(found, expected, rtol=1e-3)
    # No mass is left beyond the bound, so that all of the prior counts as it did.
    assert abs(found_normalizer - log_normalizer) < 1e-3


def test_without_a_bound_the_tail_rules_it(rng):
    """What the test above would say of a solver that does nothing about it."""
    z, asked = rng.normal(size=NUM_DRAWS), Moments(0.1, std=0.25)
    wild = np.where(np.arange(NUM_DRAWS) % 250 == 0, 0.25e6, z)
    expected, _, _ = natural_parameters(asked, z)
    found, _, _ = natural_parameters(asked, wild, max_units=np.inf)
    assert np.abs(found - expected).max() > 0.1


def test_units_are_those_of_what_was_asked(rng):
    targets = targets_for(
        Moments(2.0, std=0.5), raw_draws(Moments(2.0, std=0.5), rng.normal(size=9))
    )
    assert_allclose(targets.unit, [0.5, 0.25])
    assert_allclose(targets.limit, [MAX_UNITS] * 2)
    assert_allclose(targets.bounds[0], [0.0, 0.0])


@pytest.mark.parametrize("tail", [0.0, 1e6])
def test_where_no_spread_was_asked_the_unit_is_robust(tail, rng):
    """That of a normal distribution is its standard deviation, whatever one in 250 does."""
    f = np.where(np.arange(NUM_DRAWS) % 250 == 0, tail, 3 + 2 * rng.normal(size=NUM_DRAWS))
    for constraint in Moments(5.0), AtMost(5.0):
        targets = targets_for(constraint, raw_draws(constraint, f))
        # Quantiles at 5 % and 95 % have errors of 0.015 standard deviations each.
        assert_allclose(targets.unit, [2.0], rtol=0.1)
        assert targets.origin == 5.0
        # As many units on the far side of the prior's middle, whatever was asked of it.
        distance = np.abs(5 - np.median(f)) / targets.unit
        assert np.all(targets.limit >= (1 - 1e-5) * MAX_UNITS * (1 + distance))


def test_what_hardly_ever_varies_has_a_unit(rng):
    """A statistic that is zero at all but 1 % of the draws, and one that never changes."""
    rare = np.where(np.arange(1000) % 100 == 0, 7.0, 0.0)
    assert_allclose(targets_for(Moments(1.0), raw_draws(Moments(1.0), rare)).unit, [7.0])
    constant = np.full(1000, 4.0)
    assert_allclose(targets_for(Moments(1.0), raw_draws(Moments(1.0), constant)).unit, [3.0])
    assert_allclose(targets_for(Moments(4.0), raw_draws(Moments(4.0), constant)).unit, [1.0])


def test_draws_that_failed_have_no_part_in_units():
    f, runs = np.where(np.arange(1000) < 500, np.nan, np.arange(1000.0)), np.arange(1000) >= 500
    targets = targets_for(Moments(700.0), raw_draws(Moments(700.0), f, runs))
    assert_allclose(targets.unit, [0.9 * 499 / NORMAL_RANGE], rtol=1e-4)
    none = targets_for(Moments(700.0), raw_draws(Moments(700.0), f, False))
    assert_allclose(none.unit, [1.0])


def test_all_statistics_of_a_draw_are_bounded_together():
    """x = -2000 with (x, x^2): bounded apart, +eta x would make up for -eta x^2."""
    raw = draws_of(jnp.zeros((2, 1)), jnp.array([[-2000.0, 4e6], [5.0, 25.0]]))
    targets = targets_of([0.0, 0.0], limit=60.0)
    scaled = in_units(raw, targets).statistics
    assert_allclose(scaled, [[-0.03, 60.0], [5.0, 25.0]], rtol=1e-5)


def test_statistics_are_bounded_and_counted():
    raw = draws_of(jnp.zeros((4, 1)), jnp.array([[1.0], [121.0], [-400.0], [jnp.nan]]))
    raw = raw._replace(finite=jnp.arange(4) < 3, noise=jnp.ones((4, 1, 1)))
    targets = targets_of(0.0, unit=2.0, limit=60.0)
    scaled = in_units(raw, targets)
    assert_allclose(scaled.statistics[:, 0], [0.5, 60.0, -60.0, 0.0], rtol=1e-6)
    assert_allclose(scaled.noise[:, 0, 0], 0.5)
    assert_array_equal(is_beyond(raw, targets)[:, 0], [False, True, True, False])


def test_violation_is_signed_and_in_units():
    targets = targets_of([1.0, -np.inf, 2.0], [1.0, 3.0, 4.0], unit=0.5)
    mean = jnp.array([1.5, 7.0, 6.0])  # in units: bounds are 2, at most 6, and 4 to 8
    assert_allclose(violation(mean, targets), [-0.5, 1.0, 0.0])


def test_a_tilt_of_equal_weights_is_the_prior():
    statistics = jnp.arange(6.0).reshape(3, 2)
    start = tilt(jnp.zeros(2), evenly_weighted(statistics))
    assert_allclose(start.mean, statistics.mean(0))
    assert_allclose(start.ess, 3.0, rtol=1e-6)
    assert_allclose(start.log_normalizer, 0.0, atol=1e-6)
