"""Draws chosen by their weights, with the chances that are stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_dsn.weighted.resampling import resample, subsample

pytestmark = pytest.mark.usefixtures("quick_compilation")

WEIGHTS = np.array([0.0, 0.1, 0.35, 0.0, 0.25, 0.3, 0.0])


def test_draws_are_chosen_as_often_as_their_weights_say(rng_key):
    """Systematic resampling rounds each expected number up or down, and nothing else."""
    keys, number = jax.random.split(rng_key, 2000), 37
    cumulative = jnp.asarray(5 * WEIGHTS.cumsum())  # need not sum to one
    chosen = np.asarray(jax.vmap(lambda key: resample(key, cumulative, number))(keys))
    counts = np.stack([np.bincount(row, minlength=len(WEIGHTS)) for row in chosen])
    assert np.all(np.abs(counts - number * WEIGHTS) < 1 + 1e-4)
    assert np.all(counts[:, WEIGHTS == 0] == 0)
    # A number that is rounded has a standard deviation of at most one half.
    np.testing.assert_allclose(counts.mean(0), number * WEIGHTS, atol=4 * 0.5 / 2000**0.5)


def test_subsampling_has_the_chances_that_are_stated(rng_key):
    score = jnp.array([0.0, 5.0, 1.0, 1.0, 0.5, 0.5, 0.0, 1.0])
    keys = jax.random.split(rng_key, 4000)
    chosen, chance = jax.vmap(lambda key: subsample(key, score, 3))(keys)
    # One is certain; the others share two places in proportion to their score.
    expected = np.where(score == 5, 1.0, 2 * score / 4)
    frequency = np.bincount(np.asarray(chosen).ravel(), minlength=8) / 4000
    np.testing.assert_allclose(frequency, expected, atol=4 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(chance, expected[np.asarray(chosen)], rtol=1e-5)
    assert all(len(set(row)) == 3 for row in np.asarray(chosen)[:100].tolist())


@pytest.mark.parametrize("num_scored", [0, 2, 4])
def test_all_with_a_score_are_kept_where_there_is_room(rng_key, num_scored):
    score = jnp.zeros(9).at[3 : 3 + num_scored].set(0.3)
    chosen, chance = subsample(rng_key, score, 4)
    assert set(range(3, 3 + num_scored)) <= set(np.asarray(chosen).tolist())
    assert len(set(np.asarray(chosen).tolist())) == 4
    np.testing.assert_allclose(chance, 1.0, rtol=1e-6)
