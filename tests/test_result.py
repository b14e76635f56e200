"""What a fit can be asked: draws, densities, predictions, numbers, a table and a file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_dsn import DSN, DSNWarning, PenaltyMethod, Status
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:The fit has not converged:numpyro_dsn.DSNWarning"),
]

NUM_CHAINS, NUM_BATCHES, NUM_PARTICLES = 2, 10, 50
LOG_VOLUME = np.log(4.0**2 * 3.0)
"""Of the box z in [-2, 2]^2, w in [0, 3]."""

ASKED = {"total": Moments(0.5, std=1.0), "z": Moments(np.array([0.2, 0.3]))}


def circuit(gain=1.0, *, shift=0.0):
    """Two latent sites, a deterministic one and noise of standard deviation `gain`."""
    z = numpyro.sample("z", dist.Uniform(-2 * jnp.ones(2), 2.0).to_event(1))
    w = numpyro.sample("w", dist.Uniform(0.0, 3.0))
    total = numpyro.deterministic("total", z.sum() + w)
    noise = jax.random.normal(numpyro.prng_key())
    numpyro.deterministic("rate", total + shift + gain * noise)


def real_nvp(width=8):
    return AutoRealNVP(circuit, num_layers=2, hidden_dims=(width,), num_bins=4)


def make_dsn(asked=ASKED, guide=None, **settings):
    settings = {
        "method": PenaltyMethod(num_batches=NUM_BATCHES),
        "num_particles": NUM_PARTICLES,
        "num_steps": 20,
        "num_chains": NUM_CHAINS,
    } | settings
    return DSN(circuit, asked, real_nvp() if guide is None else guide, **settings)


@pytest.fixture(scope="module")
def dsn():
    return make_dsn()


@pytest.fixture(scope="module")
def fit(dsn):
    return dsn.run(jax.random.key(0), num_epochs=2)


@pytest.fixture(scope="module")
def draws(fit):
    return fit.sample(jax.random.key(1), 4000)


def assert_same_sites(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# Draws -------------------------------------------------------------------------------------------


def test_sample_has_every_site(draws):
    shapes = {name: value.shape for name, value in draws.items()}
    assert shapes == {"z": (4000, 2), "w": (4000,), "total": (4000,), "rate": (4000,)}
    np.testing.assert_allclose(draws["total"], draws["z"].sum(-1) + draws["w"], rtol=1e-5)
    assert np.all(np.abs(draws["z"]) <= 2)
    assert np.all((draws["w"] >= 0) & (draws["w"] <= 3))


def test_sample_depends_on_the_key_alone(fit, draws):
    assert_same_sites(fit.sample(jax.random.key(1), 4000), draws)
    other = fit.sample(jax.random.key(2), 4000)
    assert not np.any(np.all(other["z"] == draws["z"], axis=-1))


def test_sample_has_fresh_noise(draws):
    noise = draws["rate"] - draws["total"]
    size = len(noise)
    assert abs(noise.mean()) < 4 / np.sqrt(size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / size)
    assert abs(np.corrcoef(noise, draws["total"])[0, 1]) < 4 / np.sqrt(size)


def test_sample_agrees_with_what_was_measured(fit, draws):
    """Two estimates of E[T]: from the draws here, and from those after the held epoch."""
    values = np.stack(
        [draws["total"], (draws["total"] - 0.5) ** 2, draws["z"][:, 0], draws["z"][:, 1]]
    )
    error = np.hypot(values.std(1) / np.sqrt(values.shape[1]), fit.measured.mean_se)
    assert np.all(np.abs(values.mean(1) - fit.measured.mean) < 4 * error)


def test_get_samples_are_of_the_held_chain(fit):
    flat, grouped = fit.get_samples(), fit.get_samples(group_by_chain=True)
    assert_same_sites(flat, fit.get_samples())
    assert flat["z"].shape == (1000, 2)
    assert grouped["z"].shape == (NUM_CHAINS, 1000, 2)
    assert grouped["w"].shape == (NUM_CHAINS, 1000)
    assert_same_sites(flat, {name: value[fit.chain] for name, value in grouped.items()})


def test_chains_of_get_samples_are_independent(fit):
    one, other = fit.get_samples(group_by_chain=True)["w"]
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(1000)


def test_chains_have_their_own_parameters(fit):
    keys = jax.random.key(3)
    one, other = (fit.draw_chain(keys, chain, 10).sites for chain in range(NUM_CHAINS))
    assert not np.any(one["w"] == other["w"])


# Densities ---------------------------------------------------------------------------------------


def test_log_prob_is_that_of_the_draws(fit):
    draws, log_q, log_prior = fit.draw_chain(jax.random.key(4), fit.chain, 500)
    # One way through the flow and back: rounding errors of float32.
    np.testing.assert_allclose(fit.log_prob(draws), log_q, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(log_prior, -LOG_VOLUME, rtol=1e-6)


def test_log_prob_averages_to_minus_the_entropy(fit, draws):
    log_q = np.asarray(fit.log_prob(draws))
    error = np.hypot(log_q.std() / np.sqrt(log_q.size), fit.measured.entropy_se)
    assert abs(log_q.mean() + fit.entropy) < 4 * error


def test_log_prob_is_normalized(fit):
    """The mean of q / prior over the prior is one."""
    prior = fit.draw_prior(jax.random.key(5), 4000)
    ratio = np.exp(fit.log_prob(prior) + LOG_VOLUME)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(ratio.size)
    assert ratio.std() > 0.05  # else a constant would pass as well


@pytest.mark.parametrize(
    ("z", "w"), [((2.5, 0.0), 1.0), ((0.0, -2.01), 1.0), ((0.0, 0.0), -0.1), ((9.0, 9.0), 4.0)]
)
def test_log_prob_is_minus_infinity_off_the_support(fit, z, w):
    assert fit.log_prob({"z": np.array(z), "w": np.array(w)}) == -np.inf


def test_log_prob_is_minus_infinity_at_the_ends_of_the_support(fit):
    """As in the limit: the flow has Gaussian tails in unconstrained space."""
    ends = {"z": np.array([[-2.0, 2.0], [2.0, 0.0], [0.0, 0.0]]), "w": np.array([1.0, 1.0, 3.0])}
    np.testing.assert_array_equal(fit.log_prob(ends), -np.inf)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 6, 1)])
def test_log_prob_takes_any_leading_axes(fit, draws, shape):
    size = int(np.prod(shape))
    flat = fit.log_prob({name: value[:size] for name, value in draws.items()})
    values = {
        "z": np.reshape(draws["z"][:size], (*shape, 2)),
        "w": np.reshape(draws["w"][:size], shape),
    }
    shaped = fit.log_prob(values)
    assert shaped.shape == shape
    np.testing.assert_allclose(np.ravel(shaped), flat, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"z": np.zeros(2)}, r"Site 'w' is missing; .* \['w', 'z'\]"),
        ({"z": np.zeros(3), "w": np.ones(())}, r"Site 'z' has shape \(3,\); it must end in \(2,\)"),
        ({"z": np.zeros(()), "w": np.ones(())}, r"Site 'z' has shape \(\); it must end in \(2,\)"),
        ({"z": np.zeros((5, 2)), "w": np.ones(4)}, "Leading axes of the sites differ"),
        ({"z": np.zeros((5, 2)), "w": np.ones((1, 5))}, "Leading axes of the sites differ"),
    ],
)
def test_values_that_cannot_be_meant(fit, values, message):
    with pytest.raises(ValueError, match=message):
        fit.log_prob(values)
    with pytest.raises(ValueError, match=message):
        fit.predictive(jax.random.key(0), values=values)


# Predictions -------------------------------------------------------------------------------------


def test_predictive_under_the_fits_conditions(fit):
    predicted = fit.predictive(jax.random.key(6), num_samples=100)
    assert {name: value.shape for name, value in predicted.items()} == {
        "z": (100, 2),
        "w": (100,),
        "total": (100,),
        "rate": (100,),
    }
    assert_same_sites(fit.predictive(jax.random.key(6), num_samples=100), predicted)


def test_predictive_under_other_conditions(fit):
    same = fit.predictive(jax.random.key(6), num_samples=100)
    other = fit.predictive(jax.random.key(6), 10.0, num_samples=100, shift=3.0)
    np.testing.assert_array_equal(other["total"], same["total"])
    noise = same["rate"] - same["total"]
    np.testing.assert_allclose(other["rate"] - other["total"], 3 + 10 * noise, atol=1e-4)


def test_predictive_at_given_circuits(fit, draws):
    values = {"z": np.reshape(draws["z"][:6], (2, 3, 2)), "w": np.full((2, 3), 1.5)}
    one = fit.predictive(jax.random.key(7), values=values)
    np.testing.assert_array_equal(one["z"], values["z"])
    np.testing.assert_array_equal(one["w"], values["w"])
    np.testing.assert_allclose(one["total"], values["z"].sum(-1) + 1.5, rtol=1e-5)
    other = fit.predictive(jax.random.key(8), values=values)
    assert one["rate"].shape == (2, 3)
    assert not np.any(one["rate"] == other["rate"])
    assert len(np.unique(one["rate"] - one["total"])) == 6


def test_predictive_at_one_circuit(fit):
    one = fit.predictive(jax.random.key(7), values={"z": np.zeros(2), "w": 1.0})
    assert one["total"] == 1
    assert one["rate"].shape == ()


# Numbers -----------------------------------------------------------------------------------------


def test_entropy_and_divergence_add_up_to_the_log_volume(fit):
    # Exactly, because the density of the prior is constant: float32 rounding alone.
    assert abs(fit.entropy + fit.kl_to_prior - LOG_VOLUME) < 1e-5 * LOG_VOLUME
    assert fit.kl_to_prior > -4 * fit.measured.entropy_se


def test_numbers_are_of_the_held_epoch_and_chain(fit):
    index = (fit.epochs[fit.chain], fit.chain)
    assert fit.history.epochs.entropy.shape == (3, NUM_CHAINS)
    assert fit.entropy == fit.history.epochs.entropy[index]
    assert fit.kl_to_prior == fit.history.epochs.kl_to_prior[index]
    multipliers = fit.history.epochs.multipliers[index]
    assert fit.multipliers == dict(
        zip(["mean[total]", "var[total]", "mean[z[0]]", "mean[z[1]]"], multipliers, strict=True)
    )
    assert all(isinstance(value, float) for value in fit.multipliers.values())


def test_print_summary(fit, capsys):
    fit.print_summary()
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == [
        *("statistic", "target", "achieved", "std.", "error", "violation/unit", "multiplier")
    ]
    measured = fit.measured
    rows = zip(fit.multipliers, (0.5, 1.0, 0.2, 0.3), lines[1:5], strict=True)
    for index, (label, target, line) in enumerate(rows):
        name, asked, achieved, error, violation, multiplier = line.split()
        assert name == label
        assert float(asked) == target
        # To the digits that are printed.
        assert float(achieved) == pytest.approx(measured.mean[index], rel=1e-4)
        assert float(error) == pytest.approx(measured.mean_se[index], rel=0.06)
        assert float(violation) == pytest.approx(measured.violation[index], abs=6e-4)
        assert float(multiplier) == pytest.approx(measured.multipliers[index], rel=1e-3)
    assert f"entropy {fit.entropy:.4f} +- {measured.entropy_se:.4f} nats" in out
    assert f"KL to prior {fit.kl_to_prior:.4f} nats" in out
    assert f"chain {fit.chain} of {NUM_CHAINS}, epoch {fit.epochs[fit.chain]}" in out
    assert f"{fit.status.name}: " in out
    assert "NaN" not in out
    assert "steps left out" not in out
    assert max(map(len, lines)) <= 100


# Files -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(fit, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "fit"
    fit.save(path)
    return path


def test_loaded_fit_is_the_saved_one(fit, file):
    assert [path.name for path in file.parent.iterdir()] == ["fit"]
    loaded = make_dsn().load(str(file))
    assert_same_sites(loaded.sample(jax.random.key(1), 100), fit.sample(jax.random.key(1), 100))
    values = fit.get_samples()
    np.testing.assert_allclose(loaded.log_prob(values), fit.log_prob(values), rtol=1e-5)
    assert loaded.status is fit.status
    assert loaded.chain == fit.chain
    np.testing.assert_array_equal(loaded.epochs, fit.epochs)
    assert loaded.multipliers == fit.multipliers
    for one, other in zip(
        jax.tree.leaves(loaded.history), jax.tree.leaves(fit.history), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_file_has_no_pickled_code_and_says_what_it_is(file):
    with np.load(file, allow_pickle=False) as arrays:
        said = json.loads(str(arrays["fingerprint"]))
    assert said["guide"] == "AutoRealNVP"
    assert said["num_chains"] == NUM_CHAINS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"asked": {"total": Moments(0.5)}}, r"statistics = \['mean\[total\]', 'var"),
        ({"asked": ASKED | {"total": Moments(0.6, std=1.0)}}, r"bounds = \[\[0.5"),
        ({"num_chains": 3}, "num_chains = 2, but this DSN has num_chains = 3"),
        ({"guide": real_nvp(width=9)}, "does not hold `.*; load it with a DSN of the same guide"),
        (
            {"optim": numpyro.optim.Momentum(1e-3, 0.9)},
            "holds `.*optim_state.*`, which this DSN does not have",
        ),
    ],
    ids=["statistics", "targets", "chains", "width", "optimizer"],
)
def test_file_of_another_dsn(file, settings, message):
    with pytest.raises(ValueError, match=message):
        make_dsn(**settings).load(file)


def test_file_of_another_guide(file):
    guide = numpyro.infer.autoguide.AutoDiagonalNormal(circuit)
    with pytest.raises(ValueError, match="guide = AutoRealNVP, but this DSN has guide = AutoDiag"):
        make_dsn(guide=guide).load(file)


def test_status_survives(dsn, tmp_path, monkeypatch):
    def interrupted(self, state):
        raise KeyboardInterrupt

    monkeypatch.setattr(DSN, "update", interrupted)
    with pytest.warns(DSNWarning, match="interrupted"):
        fit = dsn.run(jax.random.key(0), num_epochs=2)
    fit.save(tmp_path / "fit.npz")
    with pytest.warns(DSNWarning, match="interrupted"):
        loaded = dsn.load(tmp_path / "fit.npz")
    assert loaded.status is Status.INTERRUPTED
