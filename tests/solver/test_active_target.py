"""Which value in its interval the mean of a statistic is pulled to."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from numpyro_dsn.solver.objective import active_target

# mean, multiplier, penalty, lower, upper, target
TARGETS = {
    "equality": (5.0, 2.0, 0.5, 3.0, 3.0, 3.0),
    "equality, other multiplier": (5.0, -70.0, 0.5, 3.0, 3.0, 3.0),
    "equality without penalty": (5.0, -70.0, 0.0, 3.0, 3.0, 3.0),
    "at least, violated": (1.0, 0.0, 0.5, 3.0, np.inf, 3.0),
    "at least, held by its multiplier": (5.0, -2.0, 0.5, 3.0, np.inf, 3.0),
    "at least, inactive": (5.0, -0.5, 0.5, 3.0, np.inf, 4.0),
    "at most, violated": (5.0, 0.0, 0.5, -np.inf, 3.0, 3.0),
    "at most, held by its multiplier": (1.0, 2.0, 0.5, -np.inf, 3.0, 3.0),
    "at most, inactive": (1.0, 0.5, 0.5, -np.inf, 3.0, 2.0),
    "between, below": (1.0, 0.0, 0.5, 3.0, 4.0, 3.0),
    "between, above": (5.0, 0.0, 0.5, 3.0, 4.0, 4.0),
    "between, inside": (3.5, 0.0, 0.5, 3.0, 4.0, 3.5),
    "no penalty, inside": (3.5, 0.0, 0.0, 3.0, 4.0, 3.5),
    "no penalty, held below": (3.5, -1.0, 0.0, 3.0, np.inf, 3.0),
}


@pytest.mark.parametrize(
    ("mean", "multiplier", "penalty", "lower", "upper", "expected"), TARGETS.values(), ids=TARGETS
)
def test_active_target_by_hand(mean, multiplier, penalty, lower, upper, expected):
    vectors = (jnp.array([value]) for value in (mean, multiplier))
    bounds = (jnp.array([value]) for value in (lower, upper))
    target = active_target(*vectors, jnp.asarray(penalty), *bounds)
    assert_allclose(target, [expected], rtol=1e-6)
    force = multiplier + penalty * (mean - float(target[0]))
    # Complementarity: no force inside, a push up from the lower end, a push down from the upper.
    if lower < expected < upper:
        assert abs(force) < 1e-6
    elif lower < upper:
        assert force < 0 if expected == lower else force > 0
