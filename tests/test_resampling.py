"""A mixture with holes: its density is that of its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers

from numpyro_dsn import DSN, PenaltyMethod
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP, resampling
from numpyro_dsn.guides.network import network
from numpyro_dsn.guides.resampling import ResampledMixture

NUM_DRAWS = 50_000

pytestmark = pytest.mark.usefixtures("numpyro_ranks")


def mixture(dim, bias=0.0):
    """Three components, and a network that rejects about half of their draws, in patches."""
    rng = np.random.default_rng(dim)
    # A hidden layer has a value and a gate for each of its sixteen units.
    layers = [
        [rng.normal(0, 2 / np.sqrt(num_in), (num_in, num_out)), rng.normal(0, 1, num_out)]
        for num_in, num_out in ((dim, 32), (16, 32), (16, 1))
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
    independent = float(accepted.std()) / np.sqrt(resampling.NUM_POINTS)
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


def slope(logit, constant):
    """A standard normal distribution in one dimension whose acceptance is sigmoid of a line."""
    layers = [(jnp.full((1, 1), logit), jnp.full(1, constant - resampling.START))]
    return ResampledMixture(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.zeros(1), layers)


@pytest.mark.parametrize(
    ("logit", "constant", "x"),
    [(-2.0, 10.0, 50.0), (0.0, 100.0, 0.5), (0.0, -30.0, 0.5), (0.0, -200.0, 0.5)],
    ids=["far out", "all accepted", "few accepted", "none accepted"],
)
def test_extreme_acceptances_have_a_density_and_a_gradient(logit, constant, x):
    """In float32 the acceptance, its share or the chance to reject all of T are zero here."""
    density, x = slope(logit, constant), jnp.array([x])
    value, gradient = jax.value_and_grad(lambda density: density.log_prob(x))(density)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if logit == 0.0:  # all draws are accepted alike, so the density is the mixture's
        assert_allclose(value, density.mixture.log_prob(x), atol=1e-4)
    else:
        # All but a part in a million are accepted, and this one with a chance of exp(-90).
        assert_allclose(value, density.mixture.log_prob(x) - 90.0, atol=0.01)


def model():
    numpyro.sample("z", dist.Normal(jnp.zeros(3), 2.0).to_event(1))


@pytest.mark.parametrize("num_components", [1, 8])
def test_the_base_starts_at_mean_zero_and_variance_one(num_components, rng_key):
    guide = AutoRealNVP(model, num_components=num_components, acceptance_dims=(4,))
    handlers.seed(guide, rng_key)()
    with handlers.seed(rng_seed=0):
        base = guide.get_base_dist()
    draws = base.sample(rng_key, (20_000,))
    if num_components == 1:
        assert_allclose(draws.mean(0), 0.0, atol=5 / np.sqrt(20_000))
        assert_allclose(draws.var(0), 1.0, atol=5 * np.sqrt(2 / 20_000))
    else:  # the means of the components are at random
        assert np.all(np.abs(draws.mean(0)) < 1.5)
        assert np.all((draws.var(0) > 0.3) & (draws.var(0) < 3))


@pytest.mark.parametrize("num_components", [1, 8])
def test_draws_have_no_gradient(num_components, rng_key):
    guide = AutoRealNVP(model, num_components=num_components, acceptance_dims=(4,))
    fit = DSN(model, {"z": Moments(np.ones(3))}, guide, multipliers=PenaltyMethod(1.0))
    with pytest.raises(ValueError, match=r"`acceptance_dims=\(\)`"):
        fit.run(rng_key, num_epochs=1)


@pytest.mark.parametrize("widths", [(0,), (4, -1), (2.5,)])
def test_widths_are_checked(widths):
    with pytest.raises(ValueError, match="`acceptance_dims` must be integers of at least 1"):
        AutoRealNVP(model, acceptance_dims=widths)


def test_gradients_are_finite(rng_key):
    density = mixture(2)
    x = density.mixture.sample(rng_key, (50,))
    gradient = jax.jit(jax.grad(lambda density, x: density.log_prob(x).sum()))(density, x)
    leaves = jax.tree.leaves(gradient)
    assert len(leaves) == 3 + 6
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in leaves)
