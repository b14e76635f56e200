"""Which targets no distribution over the draws can meet, by hand."""

import numpy as np
import pytest

from numpyro_dsn.weighted.feasibility import approaches, describe, separating_direction

SQUARE = np.random.default_rng(0).uniform(-1, 1, (2000, 2))


@pytest.mark.parametrize("target", [[0.0, 0.0], [0.9, -0.9], [0.99, 0.0]])
def test_a_target_inside_is_feasible(target):
    assert separating_direction(SQUARE, np.array(target), np.array(target)) is None


@pytest.mark.parametrize("target", [[1.01, 0.0], [0.0, -3.0], [1.2, 1.2]])
def test_a_target_outside_is_separated(target):
    target = np.array(target)
    direction = separating_direction(SQUARE, target, target)
    assert np.all(SQUARE @ direction > target @ direction)


def test_a_square_below_its_mean_is_infeasible():
    """E[f^2] >= E[f]^2 for every distribution, although each target alone can be met."""
    f = SQUARE[:, 0]
    statistics = np.stack([f, f**2], 1)
    target = np.array([0.5, 0.2])
    direction = separating_direction(statistics, target, target)
    assert np.all(statistics @ direction > target @ direction)
    assert describe(direction, ["mean", "square"]) == "mean and square cannot be met together"
    feasible = np.array([0.5, 0.3])
    assert separating_direction(statistics, feasible, feasible) is None


def test_inequalities_leave_room():
    lower = np.array([0.5, -np.inf])
    assert separating_direction(SQUARE, lower, np.full(2, np.inf)) is None
    lower = np.array([1.5, -np.inf])
    direction = separating_direction(SQUARE, lower, np.full(2, np.inf))
    np.testing.assert_allclose(direction, [-1, 0], atol=1e-12)
    assert describe(direction, ["f", "g"]) == "f is below its target in all of them"


@pytest.mark.parametrize(
    ("mean", "tail", "expected"),
    [
        (8.0, "normal", True),
        (9.9, "normal", False),  # a hundredth of the way to zero
        (11.0, "normal", False),  # away from it
        (8.0, "exponential", False),  # nothing is below 7
    ],
)
def test_a_fit_on_its_way_is_not_infeasible(mean, tail, expected, rng):
    """Its mean was 10, zero is asked, and all draws are above it."""
    draws = {"normal": rng.normal(size=1000), "exponential": rng.exponential(size=1000) - 1}[tail]
    zero = np.zeros(1)
    last = (mean + draws)[:, None]
    assert approaches(np.array([10.0]), last, np.ones(1), zero, zero) is expected


def test_an_inequality_is_approached_too(rng):
    """The second statistic has no bounds, and no part in the direction."""
    last = np.stack([-3 + rng.normal(size=1000), np.zeros(1000)], 1)
    lower, upper = np.array([0.0, -np.inf]), np.full(2, np.inf)
    assert approaches(np.array([-4.0, 0.0]), last, np.array([-1.0, 0.0]), lower, upper)
