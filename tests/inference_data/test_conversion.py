"""ArviZ data of a fit, on whichever ArviZ is installed: InferenceData (0.x) or DataTree (1.x)."""

import json
from dataclasses import replace

import arviz
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn import DSN, DSNWarning, PenaltyMethod, __version__
from numpyro_dsn.constraints import AtMost, Moments

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:The fit has not converged:numpyro_dsn.DSNWarning"),
]

IS_TREE = int(arviz.__version__.split(".")[0]) >= 1
NUM_CHAINS, NUM_CELLS, NUM_SAMPLES, NUM_STEPS = 2, 3, 50, 20

ASKED = {"sum": Moments(1.0, std=1.0), "rate": AtMost(2 * np.ones(NUM_CELLS))}
GROUPS = {
    *("posterior", "posterior_predictive", "prior", "prior_predictive", "sample_stats"),
    *("constant_data", "behavior", "optimization"),
}


def circuit():
    """Sites inside and outside a plate, with and without names for their own dimensions."""
    with numpyro.plate("cell", NUM_CELLS):
        g = numpyro.sample("g", dist.Uniform(jnp.zeros(NUM_CELLS), jnp.ones(NUM_CELLS)))
        prior = dist.Normal(jnp.zeros((NUM_CELLS, 2)), jnp.ones((NUM_CELLS, 2)))
        w = numpyro.sample("w", prior.to_event(1), infer={"event_dims": ["input"]})
        rate = numpyro.deterministic("rate", g + w.sum(-1))
        numpyro.deterministic("trace", g[:, None] * jnp.ones((1, 4)))
    numpyro.deterministic("sum", rate.sum())
    numpyro.deterministic("spectrum", jnp.zeros(5))


@pytest.fixture(scope="module")
def fit():
    dsn = DSN(
        circuit,
        ASKED,
        AutoDiagonalNormal(circuit),
        method=PenaltyMethod(penalty_init=0.1, num_batches=10),
        num_particles=50,
        num_steps=NUM_STEPS,
        num_chains=NUM_CHAINS,
    )
    last = dsn.run(jax.random.key(0), num_epochs=2)
    # As if chain 0 held its first epoch: then what is held is not simply what is last.
    return replace(last, epochs=np.array([1, 2]))


@pytest.fixture(scope="module")
def data(fit):
    return fit.to_inference_data(jax.random.key(1), num_samples=NUM_SAMPLES)


def group_names(data):
    return set(data.children) if IS_TREE else set(data.groups())


def datasets(data):
    return {name: data[name].to_dataset() if IS_TREE else data[name] for name in group_names(data)}


def held(fit, name):
    """What was measured after each chain's held epoch."""
    return getattr(fit.history.epochs, name)[fit.epochs, np.arange(NUM_CHAINS)]


def test_container_and_groups(data):
    assert type(data).__name__ == ("DataTree" if IS_TREE else "InferenceData")
    assert group_names(data) == GROUPS


def test_posterior_has_latents_and_statistics(fit, data):
    posterior = data["posterior"]
    assert set(posterior.data_vars) == {"g", "w", "sum", "rate"}
    for chain in range(NUM_CHAINS):
        key = jax.random.fold_in(jax.random.key(1), chain)
        draws = fit.draw_chain(key, chain, NUM_SAMPLES).sites
        for name in posterior.data_vars:
            np.testing.assert_array_equal(posterior[name].sel(chain=chain), draws[name])


def test_default_draws_are_those_of_get_samples(fit):
    posterior = fit.to_inference_data()["posterior"]
    for name, value in fit.get_samples(group_by_chain=True).items():
        if name in posterior.data_vars:
            np.testing.assert_array_equal(posterior[name], value)


def test_posterior_predictive_has_all_other_sites(data):
    predictive = data["posterior_predictive"]
    assert set(predictive.data_vars) == {"rate", "trace", "sum", "spectrum"}
    posterior = data["posterior"]
    np.testing.assert_array_equal(predictive["sum"], posterior["sum"])
    np.testing.assert_array_equal(
        predictive["trace"], np.repeat(np.asarray(posterior["g"])[..., None], 4, -1)
    )


def test_prior_is_of_the_same_names_and_shapes(data):
    for prior, posterior in (("prior", "posterior"), ("prior_predictive", "posterior_predictive")):
        for name, variable in data[posterior].data_vars.items():
            drawn = data[prior][name]
            assert drawn.dims == variable.dims
            assert drawn.shape == (1, NUM_SAMPLES, *variable.shape[2:])
    g, w = (np.ravel(data["prior"][name]) for name in ("g", "w"))
    assert abs(g.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / g.size)
    assert abs(w.mean()) < 4 / np.sqrt(w.size)
    assert abs(w.var() - 1) < 4 * np.sqrt(2 / w.size)
    total = np.asarray(data["prior"]["g"]).sum(-1) + np.asarray(data["prior"]["w"]).sum((-1, -2))
    np.testing.assert_allclose(data["prior"]["sum"], total, rtol=1e-4, atol=1e-5)


def test_sample_stats_are_log_densities(fit, data):
    stats, posterior = data["sample_stats"], data["posterior"]
    assert stats["log_q"].dims == ("chain", "draw")
    values = {name: np.asarray(posterior[name])[fit.chain] for name in ("g", "w")}
    np.testing.assert_allclose(
        stats["log_q"].sel(chain=fit.chain), fit.log_prob(values), rtol=1e-3, atol=1e-3
    )
    w = np.asarray(posterior["w"])
    log_prior = -0.5 * (w**2 + np.log(2 * np.pi)).sum((-1, -2))  # that of g is zero
    np.testing.assert_allclose(stats["log_prior"], log_prior, rtol=1e-4)
    total, rate = np.asarray(posterior["sum"]), np.asarray(posterior["rate"])
    statistics = np.concatenate([np.stack([total, (total - 1) ** 2], -1), rate], -1)
    tilt = (statistics * held(fit, "multipliers")[:, None]).sum(-1)
    assert np.abs(tilt).max() > 1e-3  # else the next line would not see it
    np.testing.assert_allclose(stats["lp"], log_prior - tilt, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stats["log_weight"], stats["lp"] - stats["log_q"], atol=1e-5)


def test_targets_and_what_was_achieved(fit, data):
    labels = ["mean[sum]", "var[sum]", *(f"mean[rate[{cell}]]" for cell in range(NUM_CELLS))]
    lower, upper = [1, 1, *[-np.inf] * NUM_CELLS], [1, 1, *[2] * NUM_CELLS]
    constant, behavior = data["constant_data"], data["behavior"]
    for group in (constant, behavior, data["optimization"]):
        assert list(group["statistic"].values) == labels
    for name, bound in (("lower", lower), ("upper", upper)):
        np.testing.assert_array_equal(constant[name], bound)
        np.testing.assert_array_equal(behavior[f"target_{name}"], [bound] * NUM_CHAINS)
    names = {
        "achieved": "mean",
        "achieved_se": "mean_se",
        "scale": "scale",
        "violation": "violation",
        "multiplier": "multipliers",
    }
    for name, field in names.items():
        assert behavior[name].dims == ("chain", "statistic")
        np.testing.assert_array_equal(behavior[name], held(fit, field))


def test_optimization_has_every_epoch_and_step(fit, data):
    optimization, (epochs, steps, seconds) = data["optimization"], fit.history
    assert list(optimization["epoch"].values) == [0, 1, 2]
    np.testing.assert_array_equal(optimization["held_epoch"], fit.epochs)
    # Every chain has what all took together.
    np.testing.assert_array_equal(optimization["seconds"], [seconds] * NUM_CHAINS)
    for name in ("entropy", "entropy_se", "kl_to_prior", "penalty", "nonfinite", "converged"):
        assert optimization[name].dims == ("chain", "epoch")
        np.testing.assert_array_equal(optimization[name], getattr(epochs, name).T)
    for name in ("mean", "violation", "multipliers", "failed", "beyond"):
        assert optimization[name].dims == ("chain", "epoch", "statistic")
        expected = np.swapaxes(getattr(epochs, name), 0, 1)
        np.testing.assert_array_equal(optimization[name], expected)
    np.testing.assert_array_equal(optimization["step_entropy"], steps.entropy.T)
    np.testing.assert_array_equal(optimization["step_mean"], np.swapaxes(steps.mean, 0, 1))
    np.testing.assert_array_equal(optimization["step"], steps.step[:, 0])
    assert optimization["step"].values[-1] == 2 * NUM_STEPS
    assert optimization.attrs["steps_per_epoch"] == NUM_STEPS


@pytest.mark.skipif(IS_TREE, reason="a DataTree has no data frame of all groups")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # ArviZ 0.x, of pandas
def test_a_data_frame_has_every_draw_and_group(data):
    """ArviZ joins groups along chains, which a variable without this dimension would break."""
    for group in ("behavior", "optimization"):
        assert all("chain" in variable.dims for variable in data[group].data_vars.values())
    frame = data.to_dataframe()
    assert len(frame) == NUM_CHAINS * NUM_SAMPLES
    # ArviZ leaves out groups with `data` in their name.
    found = {column[0] for column in frame.columns if isinstance(column, tuple)}
    assert found == GROUPS - {"constant_data"}
    second = frame[frame["chain"] == 1].sort_values("draw")
    total = np.asarray(data["posterior"]["sum"])[1]
    np.testing.assert_array_equal(second["posterior", "sum"], total)
    entropy = np.asarray(data["optimization"]["entropy"])
    np.testing.assert_array_equal(second["optimization", "entropy[2]", 2], entropy[1, 2])


# Names -------------------------------------------------------------------------------------------


def test_dimensions_are_named_by_plates_and_event_dims(data):
    dims = {
        name: variable.dims[2:]
        for group in ("posterior", "posterior_predictive")
        for name, variable in data[group].data_vars.items()
    }
    assert dims == {
        "g": ("cell",),
        "w": ("cell", "input"),
        "rate": ("cell",),
        "trace": ("cell", "trace_dim_1"),
        "sum": (),
        "spectrum": ("spectrum_dim_0",),
    }
    assert list(data["posterior"]["cell"].values) == [0, 1, 2]
    assert list(data["posterior"]["chain"].values) == [0, 1]
    assert list(data["posterior"]["draw"].values) == list(range(NUM_SAMPLES))


def test_user_names_and_coordinates(fit):
    coords = {"cell": ["AB", "LP", "PY"], "frequency": 0.5 * np.arange(5), "unused": [1]}
    dims = {"spectrum": ["frequency"], "trace": ["cell", "time"]}
    data = fit.to_inference_data(num_samples=10, coords=coords, dims=dims)
    assert list(data["posterior"]["cell"].values) == ["AB", "LP", "PY"]
    assert data["posterior"]["g"].sel(cell="LP").shape == (NUM_CHAINS, 10)
    assert list(data["prior"]["cell"].values) == ["AB", "LP", "PY"]
    predictive = data["posterior_predictive"]
    assert predictive["spectrum"].dims[2:] == ("frequency",)
    assert predictive["trace"].dims[2:] == ("cell", "time")
    np.testing.assert_array_equal(predictive["frequency"], 0.5 * np.arange(5))
    assert "unused" not in data["posterior"].coords


@pytest.mark.parametrize("names", [[], ["cell", "input", "extra"]])
def test_wrong_number_of_dims(fit, names):
    with pytest.raises(ValueError, match="Site 'w' has 2 dimensions but `dims` names"):
        fit.to_inference_data(num_samples=2, dims={"w": names})


def test_attributes(fit, data):
    for name, attrs in [("root", data.attrs)] + [(n, g.attrs) for n, g in datasets(data).items()]:
        assert attrs["inference_library"] == "numpyro_dsn", name
        assert attrs["inference_library_version"] == __version__
        assert attrs["inference_method"] == "DSN"
        assert attrs["numpyro_version"] == numpyro.__version__
        assert attrs["jax_version"] == jax.__version__
        assert attrs["status"] == fit.status.name
        assert attrs["held_chain"] == fit.chain
        assert attrs["held_epoch"] == fit.epochs[fit.chain]
        assert json.loads(attrs["latents"]) == ["g", "w"]
        assert json.loads(attrs["behaviors"]) == ["rate", "sum"]


# Files and consumers -----------------------------------------------------------------------------


def test_netcdf_round_trip(data, tmp_path):
    path = str(tmp_path / "fit.nc")
    data.to_netcdf(path, engine="h5netcdf")
    again = arviz.from_netcdf(path, engine="h5netcdf")
    assert group_names(again) == GROUPS
    restored = datasets(again)
    for name, dataset in datasets(data).items():
        assert set(restored[name].variables) == set(dataset.variables)
        for variable in dataset.variables:
            assert restored[name][variable].dims == dataset[variable].dims
            np.testing.assert_array_equal(restored[name][variable], dataset[variable])
        for key, value in dataset.attrs.items():
            assert restored[name].attrs[key] == value


def test_arviz_summary(data):
    summary = arviz.summary(data, var_names=["g", "sum"], kind="stats")
    assert list(summary.index) == ["g[0]", "g[1]", "g[2]", "sum"]
    means = [*np.asarray(data["posterior"]["g"]).mean((0, 1)), data["posterior"]["sum"].mean()]
    # ArviZ may give rounded strings, to two significant digits or more.
    np.testing.assert_allclose(summary["mean"].astype(float), means, rtol=0.05, atol=0.01)


def test_arviz_diagnostics_compare_chains(data):
    """Independent fits are chains, so R-hat has a value."""
    r_hat = arviz.rhat(data, var_names=["g"])
    r_hat = r_hat["posterior"] if IS_TREE and "posterior" in r_hat else r_hat
    assert np.all(np.isfinite(r_hat["g"]))


def test_arviz_plot_pair(data):
    arviz.plot_pair(data, var_names=["g"])
    assert plt.get_fignums()
    plt.close("all")


# Special fits ------------------------------------------------------------------------------------


def test_improper_prior_has_no_prior_group():
    def improper():
        support = dist.constraints.real_vector
        z = numpyro.sample("z", dist.ImproperUniform(support, (), (2,)))
        numpyro.deterministic("f", z)

    dsn = DSN(
        improper,
        {"f": Moments(np.zeros(2), std=np.ones(2))},
        AutoDiagonalNormal(improper),
        method=PenaltyMethod(num_batches=10),
        num_particles=50,
    )
    with pytest.warns(DSNWarning, match="improper"):
        fit = dsn.run(jax.random.key(0), num_epochs=0)
    data = fit.to_inference_data(num_samples=10)
    assert group_names(data) == GROUPS - {"prior", "prior_predictive"}
    np.testing.assert_array_equal(data["sample_stats"]["log_prior"], 0)
