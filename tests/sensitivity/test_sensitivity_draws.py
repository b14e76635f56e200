"""Perturbations, regressions, correlations and draws near a condition."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from exact_fits import fit_with
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn.constraints import Moments
from numpyro_dsn.sensitivity import correlations, nearest, perturbation_test
from numpyro_dsn.sensitivity.perturbation import regress

pytestmark = pytest.mark.usefixtures("quick_compilation")

NOISE = 0.1


def circuit():
    z = numpyro.sample("z", dist.Uniform(-2 * jnp.ones(2), 2.0).to_event(1))
    noise = NOISE * jax.random.normal(numpyro.prng_key())
    numpyro.deterministic("rate", 3 * z[0] + noise)
    numpyro.deterministic("pair", jnp.stack([z[1], z[0] + z[1]]))


@pytest.fixture(scope="module")
def result():
    asked = {"rate": Moments(0.0), "pair": Moments(np.zeros(2))}
    return fit_with(circuit, asked, AutoDiagonalNormal(circuit))


DISTANCES = np.linspace(-1.0, 1.0, 21)
CENTER = {"z": np.array([0.2, -0.3])}


# Perturbations -----------------------------------------------------------------------------------


def test_sensitive_directions_have_the_slope_of_the_statistic(result):
    found = perturbation_test(result, jax.random.key(0), CENTER, [2.0, 0.0], DISTANCES)
    np.testing.assert_allclose(found.distances, DISTANCES, rtol=1e-6)
    rate = found.regressions["rate"]
    exact_se = NOISE / np.sqrt(np.sum(DISTANCES**2))
    assert abs(rate.slope - 3.0) < 4 * exact_se  # the length of the direction does not matter
    assert exact_se / 2 < rate.slope_se < 2 * exact_se
    assert rate.p_value < 1e-10
    np.testing.assert_allclose(found.statistics["pair[0]"], -0.3, rtol=1e-5)
    np.testing.assert_allclose(found.regressions["pair[1]"].slope, 1.0, rtol=1e-4)


def test_degenerate_directions_have_no_slope(result):
    found = perturbation_test(result, jax.random.key(0), CENTER, [0.0, 1.0], DISTANCES, 5)
    assert found.distances.shape == found.statistics["rate"].shape == (5 * len(DISTANCES),)
    rate = found.regressions["rate"]
    assert abs(rate.slope) < 4 * NOISE / np.sqrt(5 * np.sum(DISTANCES**2))
    assert rate.p_value > 0.01


def test_several_starts_are_one_regression(result):
    starts = {"z": np.array([[0.0, 0.0], [0.5, 0.5], [-0.5, 0.0]])}
    found = perturbation_test(result, jax.random.key(0), starts, [1.0, 0.0], DISTANCES, 2)
    assert found.distances.shape == (3 * len(DISTANCES) * 2,)
    moved = starts["z"][:, 0, None, None] + DISTANCES[None, :, None] + np.zeros((1, 1, 2))
    noise = found.statistics["rate"] - 3 * moved.ravel()
    assert np.abs(noise).max() < 6 * NOISE
    assert len(np.unique(noise)) == noise.size  # every simulation has fresh noise


def test_regression_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    for slope in (0.0, 0.1, 2.0):
        y = slope * x + rng.normal(size=30)
        found, exact = regress(x, y), scipy.stats.linregress(x, y)
        np.testing.assert_allclose(found.slope, exact.slope, rtol=1e-6)
        np.testing.assert_allclose(found.slope_se, exact.stderr, rtol=1e-6)
        np.testing.assert_allclose(found.p_value, exact.pvalue, rtol=1e-3, atol=1e-12)
    with_nan = regress(np.append(x, 0.0), np.append(y, np.nan))
    np.testing.assert_allclose(with_nan, found)


def test_regression_without_scatter():
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert regress(x, np.ones(4)) == (0.0, 0.0, 1.0)
    assert regress(x, 2 * x) == (2.0, 0.0, 0.0)


# Correlations and conditions ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def draws():
    """w = +v where s > 0 and -v elsewhere; s is independent of v."""
    rng = np.random.default_rng(1)
    v, s = rng.normal(size=(2, 4000))
    z = np.stack([v, rng.normal(size=4000)], axis=-1)
    return {"z": jnp.asarray(z), "s": jnp.asarray(s), "w": jnp.asarray(np.sign(s) * v)}


def test_correlations_of_parameters_with_sites_and_functions(draws):
    functions = {"w": "w", "difference": lambda sites: sites["z"][0] - sites["z"][1]}
    found = correlations(draws, ["z"], functions)
    assert found.rows == ["z[0]", "z[1]"]
    assert found.columns == ["w", "difference"]
    assert found.num_draws == 4000
    error = 4 / np.sqrt(4000)
    expected = [[0, 0.5**0.5], [0, -(0.5**0.5)]]
    np.testing.assert_allclose(found.values, expected, atol=error)
    exact = np.corrcoef(draws["z"][:, 1], draws["w"])[0, 1]
    np.testing.assert_allclose(found.values[1, 0], exact, atol=1e-6)


def test_correlations_within_a_range(draws):
    positive = correlations(draws, ["z"], {"w": "w"}, given="s", between=(0.0, 9.0))
    negative = correlations(
        draws, ["z"], {"w": "w"}, given=lambda sites: sites["s"], between=(-9.0, 0.0)
    )
    np.testing.assert_allclose(positive.values[0, 0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(negative.values[0, 0], -1.0, rtol=1e-6)
    assert positive.num_draws + negative.num_draws == 4000


def test_correlation_with_a_constant_is_unknown(draws):
    found = correlations(draws, ["z"], {"one": lambda sites: jnp.ones(())})
    assert np.all(np.isnan(found.values))


def test_nearest_draws_to_a_condition(draws):
    found = nearest(draws, lambda sites: sites["z"][0] - sites["s"], 0.5, num_draws=20)
    assert found["z"].shape == (20, 2)
    distance = np.abs(found["z"][:, 0] - found["s"] - 0.5)
    assert np.all(np.diff(distance) >= 0)
    everything = np.sort(np.abs(draws["z"][:, 0] - draws["s"] - 0.5))
    np.testing.assert_allclose(distance, everything[:20], atol=1e-6)


# Requirements ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "distances", "message"),
    [
        ([1.0], DISTANCES, r"shape \(1,\); give one component .*'z\[0\]', 'z\[1\]'"),
        ([0.0, 0.0], DISTANCES, "finite length > 0"),
        ([1.0, 0.0], [0.0, 1.0], "three different values"),
        ([1.0, 0.0], 3 * DISTANCES, "support.* Take shorter `distances`"),
    ],
)
def test_perturbations_that_cannot_be_meant(result, direction, distances, message):
    with pytest.raises(ValueError, match=message):
        perturbation_test(result, jax.random.key(0), CENTER, direction, distances)


def test_perturbations_need_simulations(result):
    with pytest.raises(ValueError, match="`num_replicates` must be at least 1"):
        perturbation_test(result, jax.random.key(0), CENTER, [1.0, 0.0], DISTANCES, 0)


def test_regressions_need_three_pairs():
    with pytest.raises(ValueError, match="three finite pairs or more, but has 2"):
        regress(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, np.inf]))


def test_sites_that_do_not_exist(draws):
    with pytest.raises(ValueError, match="'g' is no site of the draws"):
        correlations(draws, ["g"], {"w": "w"})
    with pytest.raises(ValueError, match=r"'gamma' is no site .*\['s', 'w', 'z'\]"):
        nearest(draws, "gamma")


def test_fewer_draws_than_parameters(draws):
    few = {name: value[:3] for name, value in draws.items()}
    many = few | {"m": jnp.ones((3, 4))}
    with pytest.raises(ValueError, match="3 draws are left for 4 parameters"):
        correlations(many, ["m"], {"w": "w"})
    with pytest.raises(ValueError, match="0 draws are left"):
        correlations(draws, ["z"], {"w": "w"}, given="s", between=(50.0, 60.0))


def test_conditions_are_scalars(draws):
    with pytest.raises(ValueError, match=r"`given` must be a scalar .* shape \(2,\)"):
        correlations(draws, ["z"], {"w": "w"}, given="z")
    with pytest.raises(ValueError, match="`num_draws` is 5000, but there are 4000"):
        nearest(draws, "s", num_draws=5000)
