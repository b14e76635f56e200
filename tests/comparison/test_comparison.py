"""The comparison of posteriors whose differences are known."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_dsn import baselines, compare
from numpyro_dsn.baselines.output import to_data
from numpyro_dsn.comparison import Distances, Estimate, Row
from numpyro_dsn.constraints import Moments
from numpyro_dsn.plots import plot_compare
from numpyro_dsn.program import Simulation

NUM_CHAINS, NUM_DRAWS = 4, 500


def circuit():
    z = numpyro.sample("z", dist.Normal(0.0, 5.0))
    numpyro.deterministic("f", 2.0 * z)


PROBLEM = baselines.problem(circuit, {"f": Moments(0.0, std=2.0)})


def data_of(z, method="exact", **stats):
    """Data of an engine whose draws are these."""
    f = 2.0 * z
    runs = Simulation(
        np.asarray(dist.Normal(0.0, 5.0).log_prob(z)), np.stack([f, f**2], -1), {"z": z, "f": f}
    )
    attrs = {"inference_method": method, "num_simulations": z.size, "sampling_time": 1.5}
    return to_data(PROBLEM, runs, stats, attrs, None, None)


def draws(seed, mean=0.0, std=1.0):
    return mean + std * np.random.default_rng(seed).standard_normal((NUM_CHAINS, NUM_DRAWS))


def two_modes(z):
    """Half of the draws of every chain at -3 and half at 3."""
    return 0.3 * z + 3.0 * np.sign(np.random.default_rng(9).standard_normal(z.shape))


def sign(sites):
    return np.where(sites["z"] > 0, "right", "left")


@pytest.fixture(scope="module")
def comparison():
    exact = draws(0)
    log_q = -0.5 * exact**2 - 0.5 * np.log(2 * np.pi)
    stuck = 0.3 * draws(1) + 3.0 * np.array([[-1.0], [1.0], [1.0], [1.0]])
    return compare(
        {
            "exact": data_of(exact, log_q=log_q),
            "again": data_of(draws(2)),
            "narrow": data_of(draws(3, std=0.5)),
            "modes": data_of(two_modes(draws(4))),
            "stuck": data_of(stuck, "NUTS", diverging=np.zeros(stuck.shape, bool)),
        },
        sign,
    )


def test_rows_and_distances_are_public(comparison):
    """No module has the name of the function: types are where users look for them."""
    assert callable(compare)
    row = comparison.rows["exact"]
    assert isinstance(row, Row)
    assert isinstance(row.means["z"], Estimate)
    assert isinstance(comparison.distances["exact", "again"], Distances)


def test_what_is_known_of_an_exact_posterior(comparison):
    row = comparison.rows["exact"]
    entropy = 0.5 * np.log(2 * np.pi * np.e)
    assert abs(row.entropy.mean - entropy) < 4 * row.entropy.error
    # The larger of two estimates; that of how four chains differ is within 2.4 of the truth.
    assert 0.8 < row.entropy.error / (np.sqrt(0.5) / np.sqrt(NUM_CHAINS * NUM_DRAWS)) < 2.4
    for label, target in (("mean[f]", 0.0), ("var[f]", 4.0)):
        found = row.statistics[label]
        assert abs(found.mean - target) < 4 * found.error
    for found, target in ((row.means["z"], 0.0), (row.stds["z"], 1.0)):
        assert abs(found.mean - target) < 4 * found.error
    assert 0.8 < row.stds["z"].error * np.sqrt(2 * NUM_CHAINS * NUM_DRAWS) < 2.4
    assert row.violation < 4 / np.sqrt(NUM_CHAINS * NUM_DRAWS)
    assert 0.8 < row.ess / (NUM_CHAINS * NUM_DRAWS) < 1.25
    assert abs(row.r_hat - 1.0) < 0.01
    assert (row.num_simulations, row.sampling_time) == (NUM_CHAINS * NUM_DRAWS, 1.5)
    assert abs(row.modes["left"].mean - 0.5) < 4 * row.modes["left"].error
    assert np.isnan(row.divergences)
    assert np.isnan(comparison.rows["again"].entropy.mean)


def test_violation_is_in_units_of_what_was_asked(comparison):
    """Var[f] is 1 instead of 4, which is the unit that was asked of it."""
    row = comparison.rows["narrow"]
    error = 2 / 4 * np.sqrt(1 / 2 / (NUM_CHAINS * NUM_DRAWS)) * 2
    assert abs(row.violation - 3 / 4) < 4 * error


def test_violation_without_an_asked_spread_is_in_spreads_of_the_statistic():
    """E[f] is 3 instead of 0, and f = 2 z has a spread of 2, whatever one chain says of it."""
    free = baselines.problem(circuit, {"f": Moments(0.0)})
    z = 1.5 + 0.1 * draws(5) + np.array([[-1.0], [1.0], [-1.0], [1.0]])
    runs = Simulation(np.zeros(z.shape), 2.0 * z[..., None], {"z": z, "f": 2.0 * z})
    data = to_data(free, runs, {}, {"inference_method": "exact"}, None, None)
    found = compare({"one": data}).rows["one"]
    assert abs(found.violation - 3 / np.sqrt(4 + 0.04)) < 0.02
    np.testing.assert_allclose(data["behavior"]["scale"], np.std(2.0 * z), rtol=1e-6)


def test_chains_that_do_not_cross_show(comparison):
    row = comparison.rows["stuck"]
    assert row.method == "NUTS"
    assert row.r_hat > 3
    assert row.ess < 10
    # Three of four chains are on the right: 0.75, give or take what four coins would.
    assert row.modes["right"].mean == 0.75
    np.testing.assert_allclose(row.modes["right"].error, 0.5 / np.sqrt(4))
    assert row.divergences == 0
    mixed = comparison.rows["modes"]
    assert mixed.r_hat < 1.02
    assert abs(mixed.modes["right"].mean - 0.5) < 4 * mixed.modes["right"].error
    assert mixed.modes["right"].error < 0.02


def test_distances(comparison):
    same = comparison.distances["exact", "again"]
    assert same.latents.p_value > 0.05
    # f = 2 z: in its own units it is as far.
    np.testing.assert_allclose(same.statistics.value, same.latents.value, rtol=1e-6)
    different = comparison.distances["exact", "narrow"]
    assert different.latents.value > different.latents.noise
    # E|z| of one is twice that of the other, and the unit is the pooled standard deviation.
    pooled = np.sqrt((1 + 1 + 0.25 + 2 * 9.09) / 5)
    expected = 0.5 * np.sqrt(2 / np.pi) / pooled
    assert abs(different.latents.value - expected) < 0.15 * expected
    # Chains that do not cross cannot tell.
    assert comparison.distances["modes", "stuck"].latents.p_value > 0.05


def test_table(comparison):
    text = str(comparison)
    tables = text.split("\n\n")
    assert len(tables) == 5
    assert tables[0].splitlines()[0].split()[:3] == ["entropy", "violation/unit", "simulations"]
    for name in comparison.rows:
        assert any(line.startswith(name) for line in tables[0].splitlines())
    assert tables[1].splitlines()[0].split() == ["E[T]", *comparison.rows]
    assert len(tables[4].splitlines()) == 1 + 10
    assert "mode right" in tables[0]
    assert "nan" not in text


def test_one_result_without_modes_is_a_row():
    one = compare({"exact": data_of(draws(0)[:1])})
    assert one.distances == {}
    assert one.rows["exact"].modes == {}
    # One chain of independent draws has no R-hat that means something.
    assert np.isnan(one.rows["exact"].r_hat)


def test_uncertain_normalizer_adds_to_the_error_of_the_entropy():
    z = draws(0)
    stats = {"log_q": np.full(z.shape, -1.0), "log_normalizer_se": np.full(NUM_CHAINS, 0.3)}
    row = compare({"uniform": data_of(z, **stats)}).rows["uniform"]
    np.testing.assert_allclose(row.entropy, (1.0, 0.3), rtol=1e-6)


def test_figure(comparison):
    axes = plot_compare(comparison)
    # Two statistics, two modes and the entropy.
    assert [axis.get_title() for axis in axes] == [
        *("mean[f]", "var[f]", "share of left", "share of right", "entropy (nats)")
    ]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(comparison.rows)
    axes[0].figure.clear()


def test_results_of_different_problems_are_refused():
    other = baselines.problem(circuit, {"f": Moments(0.0)})
    data = baselines.rejection(jax.random.key(0), other, num_simulations=1000, tolerance={"f": 9.0})
    with pytest.raises(ValueError, match="different problems"):
        compare({"one": data_of(draws(0)), "other": data})


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare({})


def test_modes_must_label_each_draw():
    with pytest.raises(ValueError, match="one label for each draw"):
        compare({"exact": data_of(draws(0))}, lambda sites: sites["z"][:3])
