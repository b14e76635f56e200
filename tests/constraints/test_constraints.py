"""Constraints against values worked out by hand, and every refusal of a target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from numpyro_dsn.constraints import AtLeast, AtMost, Between, Constraint, Covariance, Moments
from numpyro_dsn.constraints.constraint import require_constraint

INF = np.inf
MATRIX = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
MATRIX_LABELS = ["[f[0,0]]", "[f[0,1]]", "[f[0,2]]", "[f[1,0]]", "[f[1,1]]", "[f[1,2]]"]

# name: constraint, value, statistics, lower, upper, labels for a site named "f"
CASES = {
    "moments-scalar": (Moments(3.0), 5.0, [5.0], [3.0], [3.0], ["mean[f]"]),
    "moments-scalar-std": (
        Moments(3.0, 0.5),
        5.0,
        [5.0, 4.0],
        [3.0, 0.25],
        [3.0, 0.25],
        ["mean[f]", "var[f]"],
    ),
    "moments-vector": (
        Moments([1.0, 2.0]),
        [4.0, -1.0],
        [4.0, -1.0],
        [1.0, 2.0],
        [1.0, 2.0],
        ["mean[f[0]]", "mean[f[1]]"],
    ),
    "moments-vector-std": (
        Moments([1.0, 2.0], [0.1, 3.0]),
        [4.0, -1.0],
        [4.0, -1.0, 9.0, 9.0],
        [1.0, 2.0, 0.01, 9.0],
        [1.0, 2.0, 0.01, 9.0],
        ["mean[f[0]]", "mean[f[1]]", "var[f[0]]", "var[f[1]]"],
    ),
    "moments-matrix": (
        Moments(np.zeros((2, 3))),
        MATRIX,
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        np.zeros(6),
        np.zeros(6),
        ["mean" + label for label in MATRIX_LABELS],
    ),
    "moments-matrix-std": (
        Moments(np.ones((2, 3)), 2 * np.ones((2, 3))),
        MATRIX,
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 1.0, 4.0, 9.0, 16.0, 25.0],
        [1.0] * 6 + [4.0] * 6,
        [1.0] * 6 + [4.0] * 6,
        [kind + label for kind in ("mean", "var") for label in MATRIX_LABELS],
    ),
    "covariance": (
        Covariance([1.0, 2.0], [[4.0, 1.0], [1.0, 9.0]]),
        [4.0, -1.0],  # deviations 3 and -3
        [4.0, -1.0, 9.0, -9.0, 9.0],
        [1.0, 2.0, 4.0, 1.0, 9.0],
        [1.0, 2.0, 4.0, 1.0, 9.0],
        ["mean[f[0]]", "mean[f[1]]", "cov[f[0,0]]", "cov[f[0,1]]", "cov[f[1,1]]"],
    ),
    "at-least-scalar": (AtLeast(3.0), 5.0, [5.0], [3.0], [INF], ["mean[f]"]),
    "at-least-matrix": (
        AtLeast(np.ones((2, 3))),
        MATRIX,
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        np.ones(6),
        np.full(6, INF),
        ["mean" + label for label in MATRIX_LABELS],
    ),
    "at-most-vector": (
        AtMost([3.0, 4.0]),
        [5.0, 6.0],
        [5.0, 6.0],
        [-INF, -INF],
        [3.0, 4.0],
        ["mean[f[0]]", "mean[f[1]]"],
    ),
    "between-vector": (
        Between([3.0, 4.0], [5.0, 4.0]),
        [5.0, 6.0],
        [5.0, 6.0],
        [3.0, 4.0],
        [5.0, 4.0],
        ["mean[f[0]]", "mean[f[1]]"],
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    constraint, value, *expected = request.param
    return constraint, jnp.asarray(value), *expected


def test_statistics_bounds_and_labels_are_those_by_hand(case):
    constraint, value, statistics, lower, upper, labels = case
    assert_allclose(constraint.statistics(value), statistics, rtol=1e-6)
    assert_allclose(constraint.bounds()[0], lower, rtol=1e-6)
    assert_allclose(constraint.bounds()[1], upper, rtol=1e-6)
    assert constraint.labels("f") == labels


def test_statistics_bounds_and_labels_have_one_length(case):
    constraint, value, *_ = case
    size = len(constraint.labels("f"))
    assert constraint.statistics(value).shape == (size,)
    assert [bound.shape for bound in constraint.bounds()] == [(size,), (size,)]


UNITS = {
    "moments-scalar": [np.nan],
    "moments-scalar-std": [0.5, 0.25],
    "moments-vector": [np.nan, np.nan],
    "moments-vector-std": [0.1, 3.0, 0.01, 9.0],
    "moments-matrix": [np.nan] * 6,
    "moments-matrix-std": [2.0] * 6 + [4.0] * 6,
    "covariance": [2.0, 3.0, 4.0, 6.0, 9.0],
    "at-least-scalar": [np.nan],
    "at-least-matrix": [np.nan] * 6,
    "at-most-vector": [np.nan, np.nan],
    "between-vector": [np.nan, np.nan],
}


@pytest.mark.parametrize("name", CASES)
def test_units_are_the_spreads_that_were_asked_for(name):
    assert_allclose(CASES[name][0].units(), UNITS[name], rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_units_and_bounds_of_traced_targets_are_the_same(name):
    def both(constraint):
        return *constraint.bounds(), constraint.units()

    constraint = CASES[name][0]
    for traced, known in zip(jax.jit(both)(constraint), both(constraint), strict=True):
        assert isinstance(known, np.ndarray)
        assert_allclose(traced, known, rtol=1e-6)


def test_valid_targets_are_accepted(case):
    constraint, value, *_ = case
    require_constraint("f", constraint, value)


def test_a_pytree_round_trip_keeps_the_targets(case):
    constraint, value, *_ = case
    leaves, structure = jax.tree.flatten(constraint)
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert type(rebuilt) is type(constraint)
    assert all(map(np.array_equal, jax.tree.leaves(rebuilt), leaves))
    assert rebuilt.labels("f") == constraint.labels("f")


def test_targets_may_be_traced_under_jit_and_vmap(case):
    constraint, value, statistics, lower, upper, _ = case

    def look(constraint: Constraint):
        return constraint.statistics(value), *constraint.bounds()

    arrays = jax.tree.map(jnp.asarray, constraint)
    for result, expected in zip(jax.jit(look)(arrays), (statistics, lower, upper), strict=True):
        assert_allclose(result, expected, rtol=1e-6)
    doubled = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), arrays)
    for result, expected in zip(jax.vmap(look)(doubled), (statistics, lower, upper), strict=True):
        assert_allclose(result, np.stack([expected, expected]), rtol=1e-6)


def test_a_sweep_over_targets_moves_the_centred_square():
    means = jnp.array([0.0, 1.0, 2.0])
    swept = jax.vmap(lambda mean: Moments(mean, 1.0).statistics(jnp.asarray(2.0)))(means)
    assert_allclose(swept, [[2.0, 4.0], [2.0, 1.0], [2.0, 0.0]])


def test_the_gradient_with_respect_to_the_targets_is_exact():
    # T = (f, (f - mean)^2): d/d mean of the sum is -2 (f - mean).
    gradient = jax.grad(lambda mean: Moments(mean, 1.0).statistics(jnp.asarray(2.0)).sum())
    assert_allclose(gradient(0.5), -3.0)


def test_integer_targets_give_floating_bounds():
    lower, upper = Between([0, 1], [2, 3]).bounds()
    assert jnp.issubdtype(lower.dtype, jnp.floating)
    assert_allclose([lower, upper], [[0, 1], [2, 3]])


def test_labels_keep_the_spaces_of_a_site_name():
    assert Moments([1.0, 2.0]).labels("firing rate") == [
        "mean[firing rate[0]]",
        "mean[firing rate[1]]",
    ]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_positive_definiteness_does_not_depend_on_units(scale):
    units = np.array([[scale**2, scale], [scale, 1.0]])
    Covariance(np.zeros(2), units * np.array([[1.0, 0.9], [0.9, 1.0]])).validate("f", (2,))
    for singular in ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.9], [0.8, 1.0]], [[1.0, 2.0], [2.0, 1.0]]):
        with pytest.raises(ValueError, match="behavior 'f': `cov` must be symmetric positive"):
            Covariance(np.zeros(2), units * np.array(singular)).validate("f", (2,))


SHAPE = "has shape .* but the statistic has shape .*give one target for each element"
COVARIANCE = "`cov` must be symmetric positive definite.*raise the variances or lower the corr"
TWO = [0.0, 1.0]

# name: constraint, shape of the statistic, what the message says after the name of the site
REFUSALS = {
    "mean-shape": (Moments(1.0), (2,), "`mean` " + SHAPE),
    "mean-rank": (Moments([1.0]), (), "`mean` " + SHAPE),
    "mean-nan": (Moments(np.nan), (), "`mean` must be finite.*give a finite target"),
    "mean-inf": (Moments([0.0, INF]), (2,), "`mean` must be finite.*give a finite target"),
    "std-shape": (Moments(TWO, 1.0), (2,), "`std` " + SHAPE),
    "std-zero": (Moments(0.0, 0.0), (), "`std` must be > 0.*no variance"),
    "std-negative": (Moments(TWO, [1.0, -1.0]), (2,), "`std` must be > 0.*no variance"),
    "std-nan": (Moments(0.0, np.nan), (), "`std` must be finite.*leave it out"),
    "std-inf": (Moments(0.0, INF), (), "`std` must be finite.*leave it out"),
    "cov-of-scalar": (Covariance(0.0, 1.0), (), "a covariance needs a vector.*use `Moments`"),
    "cov-of-matrix": (Covariance(MATRIX, MATRIX), (2, 3), "a covariance needs a vector.*reshape"),
    "cov-mean-shape": (Covariance([0.0], np.eye(2)), (2,), "`mean` " + SHAPE),
    "cov-shape": (Covariance(TWO, np.eye(3)), (2,), "`cov` " + SHAPE),
    "cov-mean-nan": (Covariance([0.0, np.nan], np.eye(2)), (2,), "`mean` must be finite.*give"),
    "cov-inf": (Covariance(TWO, INF * np.ones((2, 2))), (2,), "`cov` must be finite.*give"),
    "cov-asymmetric": (Covariance(TWO, [[1.0, 0.5], [0.4, 1.0]]), (2,), COVARIANCE),
    "cov-singular": (Covariance(TWO, [[0.1, 0.3], [0.3, 0.9]]), (2,), COVARIANCE),
    "cov-indefinite": (Covariance(TWO, [[1.0, 2.0], [2.0, 1.0]]), (2,), COVARIANCE),
    "cov-negative": (Covariance(TWO, [[-1.0, 0.0], [0.0, 1.0]]), (2,), COVARIANCE),
    "at-least-shape": (AtLeast(1.0), (2,), "`bound` " + SHAPE),
    "at-least-nan": (AtLeast(np.nan), (), "`bound` must be finite.*leave the statement out"),
    "at-least-inf": (AtLeast(-INF), (), "`bound` must be finite.*leave the statement out"),
    "at-most-shape": (AtMost([1.0]), (), "`bound` " + SHAPE),
    "at-most-nan": (AtMost([0.0, np.nan]), (2,), "`bound` must be finite.*leave the statement"),
    "at-most-inf": (AtMost(INF), (), "`bound` must be finite.*leave the statement out"),
    "between-low-shape": (Between(0.0, TWO), (2,), "`low` " + SHAPE),
    "between-high-shape": (Between(TWO, 3.0), (2,), "`high` " + SHAPE),
    "between-low-inf": (Between(-INF, 0.0), (), "`low` must be finite.*use `AtLeast` or `AtMost`"),
    "between-high-nan": (Between(0.0, np.nan), (), "`high` must be finite.*use `AtLeast`"),
    "between-crossed": (Between([0.0, 2.0], TWO), (2,), "`low` must not exceed `high`.*exchange"),
}


@pytest.mark.parametrize(("constraint", "shape", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_target_that_cannot_be_meant_is_refused(constraint, shape, message):
    with pytest.raises(ValueError, match=f"(?s)^behavior 'peak rate': {message}"):
        constraint.validate("peak rate", shape)


@pytest.mark.parametrize("given", [3.0, np.zeros(2), {"mean": 3.0}, Moments])
def test_something_else_than_a_constraint_is_refused(given):
    with pytest.raises(TypeError, match="behavior 'f': expected a constraint.*`Moments"):
        require_constraint("f", given, jnp.zeros(()))


@pytest.mark.parametrize("statistic", [[1.0, 2.0], (1.0, 2.0), {"a": 1.0}, None])
def test_a_statistic_that_is_no_array_is_refused(statistic):
    with pytest.raises(TypeError, match="behavior 'f': the statistic must be an array.*stack"):
        require_constraint("f", Moments([1.0, 2.0]), statistic)


@pytest.mark.parametrize("statistic", [1, 1.0, np.float32(1.0), np.ones(()), jnp.ones(())])
def test_any_kind_of_number_is_a_statistic(statistic):
    require_constraint("f", Moments(0.0), statistic)
    assert_allclose(Moments(0.0).statistics(statistic), [1.0])
