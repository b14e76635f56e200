"""The history: shapes, and averages over steps worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from numpyro_dsn.solver.history import (
    RECORDS_PER_EPOCH,
    Epoch,
    StepRecords,
    empty_epoch,
    extend_history,
    start_history,
)

NUM_CONSTRAINTS = 3
VECTORS = "mean", "mean_se", "scale", "violation", "multipliers", "failed", "beyond"


def epochs_of(fill, num_chains=2):
    """Measurements of several chains; chain k has the value fill + k everywhere."""

    def one(value):
        scalar, vector = jnp.asarray(value), jnp.full(NUM_CONSTRAINTS, value)
        return Epoch(**{name: vector if name in VECTORS else scalar for name in Epoch._fields})

    return [one(fill + chain) for chain in range(num_chains)]


def steps_of(first, num_steps, num_chains=2):
    """Records of each step: entropy is the number of the step plus 1000 for each chain."""

    def one(chain):
        step = jnp.arange(first, first + num_steps)
        entropy = step + 1000.0 * chain
        return StepRecords(step, entropy, entropy[:, None] * jnp.array([[1.0, 2.0, -1.0]]))

    return [one(chain) for chain in range(num_chains)]


@pytest.mark.parametrize("num_chains", [1, 2])
def test_a_history_starts_with_the_start_alone(num_chains):
    history = start_history(epochs_of(0.5, num_chains), 1.0)
    for name, leaf in history.epochs._asdict().items():
        trailing = (NUM_CONSTRAINTS,) if name in VECTORS else ()
        assert leaf.shape == (1, num_chains, *trailing)
        assert_array_equal(leaf[0].T, np.broadcast_to(0.5 + np.arange(num_chains), leaf[0].T.shape))
    assert history.steps.step.shape == history.steps.entropy.shape == (0, num_chains)
    assert history.steps.mean.shape == (0, num_chains, NUM_CONSTRAINTS)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(history))


def test_epochs_are_stacked_in_order():
    history = start_history(epochs_of(0.0), 1.0)
    for number in (1, 2):
        history = extend_history(history, epochs_of(10.0 * number), steps_of(1, 4), 2.0)
    expected = [[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]]
    assert_array_equal(history.epochs.entropy, expected)
    assert_array_equal(history.epochs.mean, np.stack([expected] * NUM_CONSTRAINTS, axis=-1))
    assert_array_equal(history.seconds, [1.0, 2.0, 2.0])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(history))


def test_a_short_epoch_is_recorded_step_by_step():
    history = extend_history(
        start_history(epochs_of(0.0), 1.0), epochs_of(1.0), steps_of(1, 3), 2.0
    )
    assert_array_equal(history.steps.step, [[1, 1], [2, 2], [3, 3]])
    assert_allclose(history.steps.entropy, [[1, 1001], [2, 1002], [3, 1003]])
    assert_allclose(history.steps.mean[1], [[2, 4, -2], [1002, 2004, -1002]])


def test_a_long_epoch_is_averaged_over_blocks_of_steps():
    num_steps = 4 * RECORDS_PER_EPOCH
    history = extend_history(
        start_history(epochs_of(0.0), 1.0), epochs_of(1.0), steps_of(1, num_steps), 2.0
    )
    history = extend_history(history, epochs_of(2.0), steps_of(1 + num_steps, num_steps), 2.0)
    steps = history.steps
    assert steps.step.shape == steps.entropy.shape == (2 * RECORDS_PER_EPOCH, 2)
    assert steps.mean.shape == (2 * RECORDS_PER_EPOCH, 2, NUM_CONSTRAINTS)
    # Steps 1 to 4 have the mean 2.5 and are recorded at step 4, and so on.
    last = 4.0 * np.arange(1, 2 * RECORDS_PER_EPOCH + 1)
    assert_array_equal(steps.step, np.stack([last, last], axis=1))
    assert_allclose(steps.entropy, np.stack([last - 1.5, last + 998.5], axis=1), rtol=1e-6)
    assert_allclose(steps.mean[..., 2], -steps.entropy, rtol=1e-6)


def test_blocks_of_unequal_length_cover_every_step_once():
    num_steps = RECORDS_PER_EPOCH + 7
    history = extend_history(
        start_history(epochs_of(0.0), 1.0), epochs_of(1.0), steps_of(1, num_steps), 2.0
    )
    last = history.steps.step[:, 0]
    lengths = np.diff(last, prepend=0)
    assert len(last) == RECORDS_PER_EPOCH
    assert last[-1] == num_steps
    assert set(lengths) == {1.0, 2.0}
    # The mean of consecutive integers is that of their ends.
    assert_allclose(history.steps.entropy[:, 0], last - (lengths - 1) / 2, rtol=1e-6)


def test_what_is_not_finite_stays_visible_in_the_average():
    steps = steps_of(1, 4 * RECORDS_PER_EPOCH)
    steps[0] = steps[0]._replace(entropy=steps[0].entropy.at[5].set(jnp.nan))
    history = extend_history(start_history(epochs_of(0.0), 1.0), epochs_of(1.0), steps, 2.0)
    assert_array_equal(np.argwhere(np.isnan(history.steps.entropy)), [[1, 0]])


def test_extending_leaves_the_given_history_as_it_was():
    start = start_history(epochs_of(0.0), 1.0)
    extend_history(start, epochs_of(1.0), steps_of(1, 4), 2.0)
    assert start.epochs.entropy.shape == (1, 2)
    assert start.steps.step.shape == (0, 2)


def test_an_empty_epoch_has_the_shapes_of_a_measured_one():
    history = start_history([empty_epoch(NUM_CONSTRAINTS)] * 2, 0.0)
    measured = start_history(epochs_of(0.0), 0.0)
    for one, other in zip(jax.tree.leaves(history), jax.tree.leaves(measured), strict=True):
        assert one.shape == other.shape
