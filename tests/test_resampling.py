"""A mixture with holes: its density is that of its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from numpyro_dsn.guides import resampling
from numpyro_dsn.guides.network import network
from numpyro_dsn.guides.resampling import ResampledMixture

NUM_DRAWS = 50_000

pytestmark = pytest.mark.usefixtures("numpyro_ranks")


def mixture(dim, bias=0.0):
    """Three components, and a network that rejects about half of their draws, in patches."""
    rng = np.random.default_rng(dim)
    widths = (dim, 16, 16, 1)
    layers = [
        [rng.normal(0, 2 / np.sqrt(num_in), (num_in, num_out)), rng.normal(0, 1, num_out)]
        for num_in, num_out in zip(widths[:-1], widths[1:], strict=True)
    ]
    parts = rng.normal(0, 2, (3, dim)), rng.lognormal(0, 0.3, (3, dim)), rng.normal(0, 1, 3)
    x = parts[0][rng.integers(3, size=1000)] + rng.normal(size=(1000, dim))
    logits = np.asarray(network(layers, jnp.asarray(x)))[:, 0]
    steepness = 6 / logits.std()
    weight, constant = layers[-1]
    constant = bias - resampling.START - steepness * (np.median(logits) - constant)
    layers[-1] = [steepness * weight, constant]
    single = lambda leaf: jnp.asarray(leaf, jnp.float32)  # noqa: E731
    return ResampledMixture(*map(single, parts), [tuple(map(single, pair)) for pair in layers])


@pytest.mark.parametrize("bias", [0.0, -4.0], ids=["half accepted", "hardly any accepted"])
def test_the_density_is_that_of_the_draws(bias, rng_key):
    """Also where all tries are often rejected, and the last is kept nevertheless."""
    density = mixture(1, bias)
    draws = np.asarray(jax.jit(lambda key: density.sample(key, (NUM_DRAWS,)))(rng_key))
    assert draws.shape == (NUM_DRAWS, 1)
    edges = np.linspace(-8, 8, 65)
    fine = np.linspace(-8, 8, 64 * 50 + 1)[:-1] + 16 / 6400
    exact = np.exp(jax.jit(density.log_prob)(fine[:, None].astype(np.float32)))
    shares = exact.reshape(64, 50).sum(1) * 16 / 3200
    assert shares.sum() > 0.99
    counts = np.histogram(draws[:, 0], edges)[0]
    # Z is known to about 0.5 %; the rest is counting.
    error = np.sqrt(NUM_DRAWS * shares + (0.005 * NUM_DRAWS * shares) ** 2) + 1
    assert np.all(np.abs(counts - NUM_DRAWS * shares) < 4.5 * error)
    # The test can fail: without holes the draws would be others.
    whole = np.exp(density.mixture.log_prob(fine[:, None].astype(np.float32)))
    whole = whole.reshape(64, 50).sum(1) * 16 / 3200
    differs = np.abs(counts - NUM_DRAWS * whole) > 4.5 * error
    assert differs.sum() > 5


@pytest.mark.parametrize("dim", [1, 2, 4, 10])
def test_the_accepted_share_is_that_of_many_draws(dim, rng_key):
    density = mixture(dim)
    accepted = density.acceptance(density.mixture.sample(rng_key, (NUM_DRAWS,)))
    exact, error = float(accepted.mean()), float(accepted.std()) / np.sqrt(NUM_DRAWS)
    assert 0.1 < exact < 0.9
    found = float(jax.jit(ResampledMixture.accepted_share)(density))
    # Independent points would be as far off as this; the lattice is closer.
    independent = float(accepted.std()) / np.sqrt(3 * resampling.NUM_POINTS)
    assert abs(found - exact) < 3 * independent + 4 * error


def test_other_parameters_have_other_points_and_the_same_the_same():
    density = mixture(4)
    moved = ResampledMixture(density.loc + 1e-4, density.scale, density.logits, density.layers)
    share = jax.jit(ResampledMixture.accepted_share)
    assert share(density) == share(density)
    # The share itself changes by less than 1e-4.
    assert abs(share(density) - share(moved)) > 2e-4


def test_nearly_all_are_accepted_at_the_start():
    density = mixture(2)
    silent = jax.tree.map(jnp.zeros_like, density.layers)
    density = ResampledMixture(density.loc, density.scale, density.logits, silent)
    x = jnp.asarray([[0.3, -1.0], [5.0, 2.0]])
    assert_allclose(density.acceptance(x), jax.nn.sigmoid(resampling.START), rtol=1e-6)
    assert_allclose(density.log_prob(x), density.mixture.log_prob(x), rtol=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
def test_the_lattice_fills_the_cube_evenly(dim):
    points = resampling._lattice(512, dim)
    assert points.shape == (512, dim)
    for coordinate in points.T:
        gaps = np.diff(np.sort(coordinate))
        assert gaps.max() < 8 / 512
    # In pairs too: every sixteenth of a square has about its share of 32.
    for first in range(dim - 1):
        counts = np.histogram2d(points[:, first], points[:, first + 1], 4, [[0, 1], [0, 1]])[0]
        assert counts.min() >= 20
        assert counts.max() <= 44


def test_gradients_are_finite(rng_key):
    density = mixture(2)
    x = density.mixture.sample(rng_key, (50,))
    gradient = jax.jit(jax.grad(lambda density, x: density.log_prob(x).sum()))(density, x)
    leaves = jax.tree.leaves(gradient)
    assert len(leaves) == 3 + 6
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in leaves)
