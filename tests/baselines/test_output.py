"""Data of all engines line up with those of a fit, on whichever ArviZ is installed."""

import arviz
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn import DSN, PenaltyMethod, baselines, compare
from numpyro_dsn.constraints import AtMost, Moments

pytestmark = pytest.mark.usefixtures("quick_compilation")

IS_TREE = int(arviz.__version__.split(".")[0]) >= 1
NUM_CELLS = 2
COORDS = {"input": ["left", "right"]}

ASKED = {"sum": Moments(1.0, std=1.0), "rate": AtMost(2 * np.ones(NUM_CELLS))}


def circuit():
    """Latents in a plate, one with names for its own dimensions, and noise."""
    with numpyro.plate("cell", NUM_CELLS):
        g = numpyro.sample("g", dist.Uniform(jnp.zeros(NUM_CELLS), jnp.ones(NUM_CELLS)))
        prior = dist.Normal(jnp.zeros((NUM_CELLS, 2)), jnp.ones((NUM_CELLS, 2)))
        w = numpyro.sample("w", prior.to_event(1), infer={"event_dims": ["input"]})
        rate = numpyro.deterministic("rate", g + w.sum(-1))
    noise = 0.1 * jax.random.normal(numpyro.prng_key())
    numpyro.deterministic("sum", rate.sum() + noise)


@pytest.fixture(scope="module")
def datas():
    dsn = DSN(circuit, ASKED, AutoDiagonalNormal(circuit), method=PenaltyMethod())
    with pytest.warns(match="not met yet"):
        fit = dsn.run(jax.random.key(0), num_epochs=0, progress_bar=False)
    key, size = jax.random.key(1), {"num_chains": 2, "coords": COORDS}
    tolerance = {"rate": 0.5}
    return {
        "DSN": fit.to_inference_data(num_samples=50, coords=COORDS),
        "NUTS": baselines.nuts(key, fit, num_warmup=20, num_samples=50, **size),
        "NeuTra": baselines.nuts(key, fit, neutra=True, num_warmup=20, num_samples=50, **size),
        "SMC": baselines.smc(key, fit, num_particles=50, **size),
        "SMC-ABC": baselines.smc_abc(key, fit, num_particles=50, tolerance=tolerance, **size),
        "rejection": baselines.rejection(
            key, fit, num_simulations=1000, tolerance=tolerance, coords=COORDS
        ),
    }


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def groups(data):
    return set(data.children) if IS_TREE else set(data.groups())


def layout(dataset):
    """Dims and coords of every variable, but for the number of chains and draws."""
    return {
        str(name): (
            variable.dims,
            {d: variable[d].values.tolist() for d in variable.dims if d not in ("chain", "draw")},
        )
        for name, variable in dataset.data_vars.items()
    }


def test_variables_dims_and_coords_are_those_of_a_fit(datas):
    expected = datas["DSN"]
    for name, data in datas.items():
        assert type(data) is type(expected)
        assert groups(data) <= groups(expected), name
        for group in ("posterior", "posterior_predictive", "constant_data"):
            assert layout(data[group]) == layout(expected[group]), (name, group)
        assert data["posterior"].attrs["latents"] == expected["posterior"].attrs["latents"]
    assert expected["posterior"]["w"].dims == ("chain", "draw", "cell", "input")


def test_engines_keep_their_own_statistics(datas):
    stats = {name: set(data["sample_stats"].data_vars) for name, data in datas.items()}
    for name in ("NUTS", "NeuTra"):
        assert stats[name] >= {"diverging", "energy", "n_steps", "acceptance_rate", "lp"}
    assert stats["SMC"] >= {"lp", "log_q", "log_normalizer", "num_temperatures"}
    assert stats["SMC-ABC"] >= {"distance", "log_normalizer", "num_levels"}
    for name in ("NUTS", "NeuTra", "SMC", "SMC-ABC", "rejection"):
        assert datas[name].attrs["num_simulations"] > 0
        assert datas[name].attrs["sampling_time"] > 0
        assert datas[name].attrs["inference_method"].startswith(name)


def test_abc_accepts_what_is_below_a_bound(datas):
    for name in ("SMC-ABC", "rejection"):
        posterior = datas[name]["posterior"]
        assert float(posterior["rate"].max()) <= 2.0 + 0.5 + 1e-5
        assert float(np.abs(posterior["sum"] - 1.0).max()) <= 1.0 + 1e-5


def test_data_is_written(datas, tmp_path):
    for name, data in datas.items():
        file = tmp_path / f"{name}.nc"
        data.to_netcdf(str(file), engine="h5netcdf")
        assert file.stat().st_size > 0


def test_a_fit_is_compared_with_all(datas):
    found = compare(datas)
    assert list(found.rows) == list(datas)
    assert len(found.distances) == 15


def num_panels():
    return sum(axis.get_visible() for axis in plt.gcf().axes)


@pytest.mark.filterwarnings("ignore")
def test_forest_overlays(datas):
    def draw(chosen):
        if IS_TREE:
            arviz.plot_forest(chosen, var_names=["g", "w"], combined=True, backend="matplotlib")
        else:
            names = list(chosen)
            arviz.plot_forest(
                list(chosen.values()), model_names=names, var_names=["g", "w"], combined=True
            )
        return num_panels()

    assert draw(datas) == draw({"DSN": datas["DSN"]})


@pytest.mark.filterwarnings("ignore")
def test_density_overlays(datas):
    def draw(chosen):
        if IS_TREE:
            arviz.plot_dist(chosen, var_names=["g", "w"], backend="matplotlib")
        else:
            names = list(chosen)
            arviz.plot_density(list(chosen.values()), data_labels=names, var_names=["g", "w"])
        return num_panels()

    assert draw(datas) == draw({"DSN": datas["DSN"]})


@pytest.mark.filterwarnings("ignore")
def test_pairs_overlay(datas):
    """The matrix of the first takes the others too, each with as many chains or fewer."""
    order = sorted(datas.values(), key=lambda data: -data["posterior"].sizes["chain"])
    drawn, panels, points = None, [], []
    for data in order:
        if IS_TREE:
            drawn = arviz.plot_pair(
                data, var_names=["g", "w"], plot_matrix=drawn, backend="matplotlib"
            )
        else:
            drawn = arviz.plot_pair(data, var_names=["g", "w"], ax=drawn)
        panels.append(num_panels())
        points.append(sum(len(a.collections) + len(a.lines) for a in plt.gcf().axes))
    assert len(set(panels)) == 1
    assert len(plt.get_fignums()) == 1
    # Every result adds its own points.
    assert np.all(np.diff(points) > 0)
