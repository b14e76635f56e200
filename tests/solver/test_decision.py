"""What an epoch comes to: kept or rejected, converged or not, where to aim next."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpyro.optim import Adam
from weighted_draws import draws_of, targets_of

from numpyro_dsn import DualNewton
from numpyro_dsn.solver.aim import Aim
from numpyro_dsn.solver.decision import decide, meets, report
from numpyro_dsn.solver.measurement import Measured, Strays
from numpyro_dsn.solver.newton_state import first_state
from numpyro_dsn.weighted.acceptance import keep_all
from numpyro_dsn.weighted.search import unweighted

pytestmark = pytest.mark.usefixtures("quick_compilation")

RULES = DualNewton()._rules(SimpleNamespace(follows_gradients=False))
OPTIM = Adam(0.1)
ETA, OFFSET = jnp.array([-1.0, 2.0]), jnp.array([0.1, 0.0])


def measured_with(**values):
    """Measurements that are zero but for what is given."""
    given = {name: jnp.asarray(value, float) for name, value in values.items()}
    vectors = "mean", "mean_se", "residual", "move"
    zeros = {name: jnp.zeros(2 if name in vectors else ()) for name in Measured._fields}
    return Measured(**(zeros | {"acceptance": jnp.ones(())} | given))


def state_of(value, last, is_solved=True):
    """A state with this parameter of the flow."""
    params, key = {"x": jnp.full(1, value)}, jax.random.key(0)
    found = unweighted(draws_of(jnp.zeros((8, 2))))
    first = targets_of([0.0, 1.0], unit=2.0), jnp.zeros(8)
    state = first_state(key, params, OPTIM, found, first, 2)
    return state._replace(
        last=jnp.array(last), offset=OFFSET, solved=jnp.array(is_solved), epoch=jnp.array(3)
    )


def decided(after, before, is_solved=True):
    aim = Aim(ETA, jnp.array(is_solved), jnp.zeros(()), keep_all(2)._replace(aimed=ETA + OFFSET))
    return decide(RULES, state_of(1.0, 0), state_of(2.0, 1), aim, (after, before))


@pytest.mark.parametrize(
    ("loss", "is_solved", "is_kept", "step_scale"),
    [
        (-0.5, True, True, 1.0),
        (-0.01, True, True, 0.7),  # hardly a gain
        (0.9, True, True, 0.7),
        (1.1, True, False, 0.7),  # more than `max_loss`
        (np.nan, True, False, 0.7),
        (5.0, False, True, 1.0),  # the target has moved: gaps cannot be compared
    ],
)
def test_an_epoch_that_loses_too_much_is_rejected(loss, is_solved, is_kept, step_scale):
    """The flow, its optimizer and its place are those of before; its draws and eta stay."""
    assert RULES.max_loss == 1.0
    before, after = measured_with(gap=0.3, entropy=1.0), measured_with(gap=0.3 + loss, entropy=2.0)
    state, measured = decided(after, before, is_solved)
    expected = state_of(2.0, 1) if is_kept else state_of(1.0, 0)
    assert_array_equal(state.params["x"], expected.params["x"])
    assert_array_equal(OPTIM.get_params(state.training.optim_state)["x"], expected.params["x"])
    assert state.last == expected.last
    assert_allclose(state.training.step_scale, step_scale, rtol=1e-6)
    assert measured.entropy == (2.0 if is_kept else 1.0)
    assert_array_equal(state.natural_parameters, ETA)
    assert bool(state.solved) is is_solved
    assert state.epoch == 4


def test_the_offset_moves_more_the_closer_the_flow_is():
    """By half of what would undo the violation, and less where the flow has yet to learn."""
    tolerance = RULES.gap_tolerance
    for gap, trust in ((0.5 * tolerance, 1.0), (4 * tolerance, 0.25)):
        after = measured_with(gap=gap, move=[0.2, -0.4])
        state, _ = decided(after, measured_with(gap=gap))
        expected = OFFSET + RULES.offset_rate * trust * np.array([0.2, -0.4])
        assert_allclose(state.offset, expected, rtol=1e-4)


def test_the_offset_stays_while_eta_is_on_its_way():
    after = measured_with(gap=0.01, move=[jnp.nan, 0.1])
    assert_allclose(decided(after, after, is_solved=False)[0].offset, OFFSET, rtol=1e-5)


def test_the_best_converged_epoch_is_remembered():
    good = measured_with(gap=0.01)
    state, _ = decided(good, good)
    assert state.best.epoch == 4
    assert_array_equal(state.best.params["x"], [2.0])
    assert_allclose(state.best.score, -0.01)
    state, _ = decided(measured_with(gap=0.01, residual=[0.0, 0.1]), good)
    assert state.best.epoch == -1
    assert decided(good, good, is_solved=False)[0].best.epoch == -1


@pytest.mark.parametrize(
    ("residual", "mean_se", "distance", "expected"),
    [
        (0.006, 0.002, 0.01, True),
        (0.021, 0.0, 0.01, False),  # one constraint is missed
        (0.006, 0.016, 0.01, False),  # or not known to be met
        (0.0, 0.0, 0.051, False),  # far from maximum entropy
        (0.006, 0.002, np.nan, False),
    ],
)
def test_what_has_converged(residual, mean_se, distance, expected):
    assert (RULES.tolerance, RULES.gap_tolerance) == (0.02, 0.05)
    measured = measured_with(residual=[0.0, -residual], mean_se=[0.0, mean_se], distance=distance)
    assert bool(meets(RULES, measured)) is expected


def test_an_epoch_is_reported_in_the_statistics_own_units():
    state = state_of(1.0, 0)._replace(natural_parameters=ETA)
    measured = measured_with(mean=[0.5, -1.0], mean_se=[0.1, 0.2], residual=[0.3, 0.0], gap=0.2)
    none = jnp.zeros(2)
    epoch = report(RULES, state, measured, Strays(none, none, jnp.zeros(())), 123.0)
    assert_allclose(epoch.mean, [1.0, -2.0])  # the unit is 2, the origin 0
    assert_allclose(epoch.mean_se, [0.2, 0.4])
    assert_allclose(epoch.violation, [0.3, 0.0])
    assert_allclose(epoch.multipliers, [0.5, -1.0])
    assert_allclose(epoch.scale, [2.0, 2.0])
    assert epoch.num_simulations == 123
    assert not epoch.converged
