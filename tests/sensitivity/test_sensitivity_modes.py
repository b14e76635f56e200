"""Modes, their mass and ridges, on densities whose summits are known."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from exact_fits import as_columns, fit_of, fit_with
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from numpyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal

from numpyro_dsn.constraints import Moments
from numpyro_dsn.sensitivity import conditional_modes, find_modes
from numpyro_dsn.sensitivity.ascent import ascend
from numpyro_dsn.sensitivity.modes import merge

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_STARTS = 200
ROOT = np.array([[1.0, 0.0], [0.9, 0.1]])
"""A narrow normal distribution: its standard deviations differ by a factor of 19."""
CENTER = np.array([0.5, -1.0])


def unbounded():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.deterministic("total", z.sum())


ASKED = {"total": Moments(0.0)}


def scaled(width):
    """A model of two parameters in a box of this width."""

    def model():
        z = numpyro.sample("z", dist.Uniform(jnp.zeros(2), width).to_event(1))
        numpyro.deterministic("total", z.sum())

    return model


@pytest.fixture(scope="module")
def gaussian():
    guide = AutoMultivariateNormal(unbounded)
    return fit_with(unbounded, ASKED, guide, auto_loc=CENTER, auto_scale_tril=ROOT)


class Mixture:
    """70 % around (-2, 0) and 30 % around (2, 1), of standard deviations (0.5, 1)."""

    dim, weights = 2, np.array([0.7, 0.3])
    loc, scale = np.array([[-2.0, 0.0], [2.0, 1.0]]), np.array([0.5, 1.0])

    def log_prob(self, params, flat):
        scaled = (flat[:, None] - self.loc[None]) / self.scale[None, None]
        log_probs = norm.logpdf(scaled).sum(-1) - np.log(self.scale).sum()
        return logsumexp(log_probs + np.log(self.weights)[None], axis=1)

    def sample(self, rng_key, params, num_draws):
        which, noise = jax.random.split(rng_key)
        component = jax.random.bernoulli(which, self.weights[1], (num_draws,)).astype(int)
        noise = jax.random.normal(noise, (num_draws, 2))
        return jnp.asarray(self.loc)[component] + self.scale[None] * noise


@pytest.fixture(scope="module")
def mixture():
    return fit_of(unbounded, ASKED, Mixture())


# Modes -------------------------------------------------------------------------------------------


def test_one_mode_of_a_gaussian(gaussian):
    modes = find_modes(gaussian, jax.random.key(0), NUM_STARTS)
    np.testing.assert_allclose(as_columns(modes), CENTER[None], rtol=1e-3)
    np.testing.assert_allclose(modes.mass, [1.0])
    np.testing.assert_allclose(modes.mass_se, [0.0])
    exact = -np.log(2 * np.pi) - np.log(0.1)
    np.testing.assert_allclose(modes.log_prob, [exact], rtol=1e-4)
    np.testing.assert_allclose(gaussian.log_prob(modes.values), modes.log_prob, rtol=1e-4)


def test_two_modes_and_their_mass(mixture):
    modes = find_modes(mixture, jax.random.key(0), NUM_STARTS)
    np.testing.assert_allclose(as_columns(modes), [[-2.0, 0.0], [2.0, 1.0]], atol=2e-3)
    se = np.sqrt(0.7 * 0.3 / NUM_STARTS)
    np.testing.assert_allclose(modes.mass_se, se, rtol=0.2)
    assert np.all(np.abs(modes.mass - [0.7, 0.3]) < 4 * se)
    np.testing.assert_allclose(modes.log_prob[0] - modes.log_prob[1], np.log(7 / 3), atol=1e-3)


def test_shallow_valleys_do_not_separate_modes(mixture):
    """Half of the pass is from each: 7.0 nats below the lower mode, ln(0.3 / (2 0.7 e^-8.43))."""
    both = find_modes(mixture, jax.random.key(0), NUM_STARTS, prominence=5.0)
    one = find_modes(mixture, jax.random.key(0), NUM_STARTS, prominence=9.0)
    assert (len(both.mass), len(one.mass)) == (2, 1)
    np.testing.assert_allclose(as_columns(one), [[-2.0, 0.0]], atol=2e-3)


@pytest.mark.parametrize("width", [0.005, 1.0, 300.0])
def test_modes_do_not_depend_on_the_width_of_the_box(width):
    """The mode of the density of z is not that of u, u ~ N(0.4, 0.7^2) and z = width sigmoid(u)."""
    model, loc, scale = scaled(width), 0.4, 0.7
    guide = AutoDiagonalNormal(model)
    result = fit_with(model, ASKED, guide, auto_loc=[loc, -loc], auto_scale=[scale, scale])
    modes = find_modes(result, jax.random.key(0), 50)
    u = 0.0
    for _ in range(100):  # d/du [log N(u) - log sigmoid'(u)] = 0
        u = loc + scale**2 * np.tanh(u / 2)
    summit = 1 / (1 + np.exp(-u))
    np.testing.assert_allclose(as_columns(modes) / width, [[summit, 1 - summit]], rtol=1e-3)
    assert abs(summit - 1 / (1 + np.exp(-loc))) > 0.01


@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_modes_at_an_end_of_the_support_are_at_the_margin(margin):
    """With u ~ N(0, 2^2) the density of sigmoid(u) grows towards both ends, and is even."""
    model = scaled(1.0)
    guide = AutoDiagonalNormal(model)
    result = fit_with(model, ASKED, guide, auto_loc=[-3.0, 0.0], auto_scale=[2.0, 0.5])
    modes = find_modes(result, jax.random.key(0), 50, margin=margin)
    np.testing.assert_allclose(as_columns(modes), [[margin, 0.5]], rtol=1e-3)


def test_merging_takes_the_highest_pass():
    """Summits 0, 1, 2 in a row; the direct way from 0 to 2 is lower than that over 1."""
    heights = np.array([5.0, 4.0, 4.5])
    edges = np.array([[0, 2], [0, 1], [1, 2]])
    levels = np.array([1.0, 3.5, 2.0])
    np.testing.assert_array_equal(merge(heights, edges, levels, 0.4), [0, 1, 2])
    np.testing.assert_array_equal(merge(heights, edges, levels, 1.0), [0, 0, 2])
    np.testing.assert_array_equal(merge(heights, edges, levels, 2.5), [0, 0, 0])


# Ascents -----------------------------------------------------------------------------------------

FAR = jnp.full(2, 100.0)


def test_ascents_leave_saddles_and_stay_off_nan():
    def height(x):  # two summits at (+-1, 0), a saddle between, no density at x[1] < -0.5
        inside = x[1] > -0.5
        return jnp.where(inside, -((x[0] ** 2 - 1) ** 2) - 50 * x[1] ** 2, jnp.nan)

    start = jnp.array([0.01, 0.4])
    path = ascend(height, start, jnp.array([1.0, 0.2]), jnp.ones(2, bool), -FAR, FAR)
    np.testing.assert_array_equal(path[0], start)
    np.testing.assert_allclose(path[-1], [1.0, 0.0], atol=1e-3)
    heights = jax.vmap(height)(path)
    assert np.all(np.diff(heights) >= 0)


def test_ascents_hold_what_is_not_free():
    def height(x):
        return -jnp.sum((x - jnp.array([1.0, 2.0])) ** 2) - x[0] * x[1]

    path = ascend(height, jnp.array([0.5, 0.0]), jnp.ones(2), jnp.array([False, True]), -FAR, FAR)
    np.testing.assert_array_equal(path[:, 0], 0.5)
    np.testing.assert_allclose(path[-1, 1], 2.0 - 0.25, rtol=1e-4)


def test_ascents_go_on_along_a_bound():
    """The summit (3, 1) is beyond the bound of the first coordinate, which pulls the second."""

    def height(x):
        away = x - jnp.array([3.0, 1.0])
        return -jnp.sum(away**2) - away[0] * away[1]

    bound = jnp.array([1.0, 100.0])
    path = ascend(height, jnp.zeros(2), jnp.ones(2), jnp.ones(2, bool), -FAR, bound)
    np.testing.assert_allclose(path[-1], [1.0, 1.0 + 2.0 / 2], rtol=1e-4)


# Ridges ------------------------------------------------------------------------------------------


def test_ridge_of_a_gaussian_is_its_regression_line(gaussian):
    along = np.linspace(-1.0, 2.0, 7)
    ridge = conditional_modes(gaussian, "z[0]", along)
    covariance = ROOT @ ROOT.T
    expected = CENTER[1] + covariance[0, 1] / covariance[0, 0] * (along - CENTER[0])
    np.testing.assert_allclose(ridge.values["z"][:, 0], along, rtol=1e-6)
    np.testing.assert_allclose(ridge.values["z"][:, 1], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ridge.log_prob, gaussian.log_prob(ridge.values), rtol=1e-4)
    assert ridge.parameter == "z[0]"


def test_ridges_stay_on_the_branch_of_their_start(mixture):
    along = np.linspace(0.0, 1.0, 5)
    for center in (-2.0, 2.0):
        start = {"z": jnp.array([center, 0.5])}
        ridge = conditional_modes(mixture, "z[1]", along, start)
        np.testing.assert_allclose(ridge.values["z"][:, 0], center, atol=1e-2)


# Requirements ------------------------------------------------------------------------------------


def test_more_starts_than_parameters(gaussian):
    with pytest.raises(ValueError, match="`num_starts` is 2, but there are 2 parameters"):
        find_modes(gaussian, jax.random.key(0), 2)


def test_prominence_is_a_depth_and_margin_a_share(gaussian):
    with pytest.raises(ValueError, match="must not be negative, but is -1"):
        find_modes(gaussian, jax.random.key(0), 10, prominence=-1)
    with pytest.raises(ValueError, match="below 1/2, but is 0.5"):
        find_modes(gaussian, jax.random.key(0), 10, margin=0.5)


def test_ridges_along_parameters_that_do_not_exist(gaussian):
    with pytest.raises(ValueError, match=r"'z' is no parameter; .*\['z\[0\]', 'z\[1\]'\]"):
        conditional_modes(gaussian, "z", [0.0])


def test_ridges_outside_the_support():
    model = scaled(1.0)
    result = fit_with(model, ASKED, AutoDiagonalNormal(model))
    with pytest.raises(ValueError, match="Site 'z' must lie inside its support"):
        conditional_modes(result, "z[1]", [0.5, 1.5])
    with pytest.raises(ValueError, match="`start` must be one point"):
        conditional_modes(result, "z[1]", [0.5], {"z": jnp.full((3, 2), 0.5)})
    with pytest.raises(ValueError, match="`along` must have shape"):
        conditional_modes(result, "z[1]", [])
