"""Drawing until enough draws are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from numpyro_dsn import DSNWarning
from numpyro_dsn.programs import MAX_BATCHES, FitDraws, draw_until

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_SAMPLES = 200


def draws_kept_with(probability):
    """Uniform draws, kept with a probability that depends on them; and the number of batches."""
    batches = []

    def draw(key):
        z = np.asarray(jax.random.uniform(key, (NUM_SAMPLES,)))
        batches.append(z)
        with np.errstate(divide="ignore"):
            return FitDraws({"z": z}, z, -z), jnp.asarray(np.log(probability(z)))

    return draw, batches


def test_all_fields_are_those_of_the_draws_that_are_kept(rng_key):
    draw, batches = draws_kept_with(lambda z: np.where(z < 0.3, 1.0, 0.0))
    found = draw_until(rng_key, draw, NUM_SAMPLES)
    z = np.asarray(found.sites["z"])
    assert z.shape == (NUM_SAMPLES,)
    assert z.max() < 0.3
    assert len(np.unique(z)) == NUM_SAMPLES
    assert_allclose(found.log_q, z)
    assert_allclose(found.log_prior, -z)
    assert 2 < len(batches) < 6


def test_draws_are_kept_with_their_probability(rng_key):
    """z is kept with probability z: its density is 2z, of mean 2/3 and variance 1/18."""
    draw, _ = draws_kept_with(lambda z: z)
    means = [
        draw_until(jax.random.fold_in(rng_key, index), draw, NUM_SAMPLES).sites["z"].mean()
        for index in range(20)
    ]
    assert abs(np.mean(means) - 2 / 3) < 4 * np.sqrt(1 / 18 / (20 * NUM_SAMPLES))


def test_too_few_are_repeated_and_said(rng_key):
    draw, batches = draws_kept_with(lambda z: np.where(z < 0.002, 1.0, 0.0))
    with pytest.warns(DSNWarning, match=r"only \d+ belong to the fit; these are repeated"):
        found = draw_until(rng_key, draw, NUM_SAMPLES)
    assert len(batches) == MAX_BATCHES
    assert np.asarray(found.sites["z"]).max() < 0.002
    assert found.log_q.shape == (NUM_SAMPLES,)


def test_if_none_belong_to_the_fit_those_that_do_not_are_returned(rng_key):
    draw, batches = draws_kept_with(np.zeros_like)
    with pytest.warns(DSNWarning, match="only 0 belong to the fit; draws that do not are returned"):
        found = draw_until(rng_key, draw, NUM_SAMPLES)
    assert_allclose(found.sites["z"], batches[-1])
