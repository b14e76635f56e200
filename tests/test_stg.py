"""The stomatogastric ganglion: what is asked, the exact optimum, figures and the command."""

import os
import subprocess
import sys
from pathlib import Path

import arviz
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from grid_oracle import maximum_entropy, midpoints
from scipy.optimize import LinearConstraint, minimize
from stg_grid import frequencies_on_grid, standardized

from models import stg
from models.stg_circuit import CURRENT_NOISE, NEURONS
from numpyro_dsn import DSN, DSNWarning, PenaltyMethod
from numpyro_dsn.guides import AutoRealNVP
from numpyro_dsn.program import read
from numpyro_dsn.program import simulate as simulate_once

ROOT = Path(__file__).parents[1]
FILES = ["pair", "optimization", "conductances", "traces", "frequencies"]


# What is asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "neurons"),
    [(stg.network_syncing, NEURONS), (stg.intermediate_hub, ["hub"])],
    ids=["syncing", "hub"],
)
def test_targets(asked, neurons):
    program = read(jax.random.key(0), stg.circuit, asked, (), {})
    assert len(program.labels) == 2 * len(neurons)
    # 0.55 Hz, and 0.025 Hz squared.
    np.testing.assert_allclose(program.lower, np.repeat([0.55, 0.000625], len(neurons)), rtol=1e-5)
    np.testing.assert_array_equal(program.lower, program.upper)
    latents = {name: site["value"] for name, site in program.latents.items()}
    sites = simulate_once(jax.random.key(0), program.model, latents, None, (), {}).sites
    (value,) = [sites[name] for name in program.constraints]
    whole = sites["frequency"]
    expected = [whole[NEURONS.index(name)] for name in neurons]
    np.testing.assert_array_equal(np.ravel(value), expected)


@pytest.mark.parametrize("box", stg.BOXES.values(), ids=stg.BOXES)
def test_conductances_lie_in_the_box(box):
    program = read(jax.random.key(0), stg.circuit, stg.intermediate_hub, (box,), {})
    assert list(program.latents) == ["g"]
    assert program.latents["g"]["infer"]["event_dims"] == ["conductance"]
    (low, high), (syn_low, syn_high) = box
    support = program.latents["g"]["fn"].support
    assert support(jnp.array([high - 0.1, syn_low + 0.1]))
    assert support(jnp.array([low + 0.1, syn_high - 0.1]))
    assert not support(jnp.array([high + 0.1, syn_low + 0.1]))
    assert not support(jnp.array([low + 0.1, syn_high + 0.1]))


@pytest.mark.parametrize("noise", [0.0, CURRENT_NOISE])
def test_only_noise_makes_the_circuit_stochastic(noise):
    arguments = (stg.PUBLISHED_BOX, noise)
    program = read(jax.random.key(0), stg.circuit, stg.intermediate_hub, arguments, {})
    assert program.is_stochastic == (noise > 0)


# The exact optimum -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published_grid():
    return frequencies_on_grid(stg.PUBLISHED_BOX, 120)


@pytest.mark.parametrize("densest", [np.inf, 2.0])
def test_the_oracle_agrees_with_another_optimizer(densest):
    x = midpoints([(-1, 1)], 21)[:, 0]
    statistics = np.stack([x - 0.2, x**2 - 0.15], 1)
    found = maximum_entropy([(-1, 1)], statistics, densest)
    other = minimize(
        lambda w: w @ np.log(np.maximum(w, 1e-12) * 21),
        np.full(21, 1 / 21),
        constraints=LinearConstraint(np.vstack([statistics.T, np.ones(21)]), [0, 0, 1], [0, 0, 1]),
        bounds=[(0, min(densest / 21, 1))] * 21,
        tol=1e-10,
    )
    np.testing.assert_allclose(found.weights, other.x, atol=1e-4)
    assert (found.weights.max() * 21 > 2.01) == (densest > 2)


def test_the_oracle_tells_what_cannot_be_met():
    """The flattest density of a variance is uniform, of a width that is known."""
    x = midpoints([(-1, 1)], 2001)[:, 0]
    statistics = np.stack([x, x**2 - 0.2**2], 1)
    least = 2 / (12**0.5 * 0.2)
    assert maximum_entropy([(-1, 1)], statistics, 1.01 * least).weights.max() > 0.99 * least / 2001
    with pytest.raises(ValueError, match="No density of at most"):
        maximum_entropy([(-1, 1)], statistics, 0.99 * least)


def test_exact_optimum_of_the_hub(published_grid):
    """The reference that fits are held against; 180 x 180 by another code gave the same."""
    grid, frequencies = published_grid
    optimum = maximum_entropy(stg.PUBLISHED_BOX, standardized(frequencies[:, [2]]))
    assert abs(optimum.entropy - 1.565) < 0.005
    np.testing.assert_allclose(optimum.multipliers, [0.287, 0.320], rtol=0.02)
    mean = optimum.weights @ grid
    np.testing.assert_allclose(mean, [6.40, 1.36], rtol=0.01)
    np.testing.assert_allclose(
        np.sqrt(optimum.weights @ (grid - mean) ** 2), [0.82, 0.47], rtol=0.02
    )


@pytest.mark.parametrize("box", stg.BOXES.values(), ids=stg.BOXES)
def test_syncing_is_feasible(box, published_grid):
    is_published = box == stg.PUBLISHED_BOX
    _, frequencies = published_grid if is_published else frequencies_on_grid(box, 120)
    # It raises unless weights of these circuits meet all ten constraints.
    weights = maximum_entropy(box, standardized(frequencies)).weights
    np.testing.assert_allclose(weights @ frequencies, 0.55, atol=1e-6)


# Figures and the command -------------------------------------------------------------------------


@pytest.mark.slow
def test_figures(tmp_path, numpyro_ranks):
    # The penalty method has the shortest epochs.
    guide = AutoRealNVP(stg.circuit, num_layers=2, hidden_dims=(8,))
    method = PenaltyMethod(num_batches=2)
    sizes = {"num_particles": 4, "num_steps": 2}
    dsn = DSN(stg.circuit, stg.network_syncing, guide, method=method, **sizes)
    with pytest.warns(DSNWarning):  # it has not converged
        result = dsn.run(jax.random.key(0), num_epochs=1, progress_bar=False)
    data = stg.inference_data(result)
    posterior = data["posterior"]
    assert list(posterior["conductance"].values) == ["g_el", "g_synA"]
    assert list(data["posterior_predictive"]["neuron"].values) == list(NEURONS)
    log_q, g = np.asarray(data["sample_stats"]["log_q"])[0], np.asarray(posterior["g"])[0]
    np.testing.assert_array_equal(stg.densest(data), g[log_q.argmax()])
    files = stg.draw_figures(data, stg.PUBLISHED_BOX, tmp_path)
    assert [file.stem for file in files] == FILES
    for file in files:
        assert min(plt.imread(file).shape[:2]) > 300
    plt.close("all")


@pytest.mark.slow
def test_command(tmp_path):
    flags = ["--num-epochs", "1", "--behavior", "network-syncing", "--box", "draft", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "models.stg", *flags, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    labels = [f"{kind}[syncing[{index}]]" for kind in ("mean", "var") for index in range(5)]
    assert [line.split()[0] for line in lines[1:11]] == labels
    files = {"fit.nc", *(f"{name}.png" for name in FILES)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    data = arviz.from_netcdf(str(tmp_path / "out" / "fit.nc"), engine="h5netcdf")
    assert list(data["posterior"]["neuron"].values) == list(NEURONS)


@pytest.mark.slow
def test_default_fit_is_the_optimum(published_grid):
    grid, frequencies = published_grid
    optimum = maximum_entropy(stg.PUBLISHED_BOX, standardized(frequencies[:, [2]]))
    result = stg.fit("intermediate-hub", stg.PUBLISHED_BOX, 0.0, seed=0, num_epochs=20)
    assert result.certificate.verdict.startswith("Close to maximum entropy")
    assert abs(result.entropy - optimum.entropy) < 0.05
    eta = np.array(list(result.certificate.natural_parameters.values()))
    np.testing.assert_allclose(-eta * [0.025, 0.025**2], optimum.multipliers, rtol=0.05)
    draws = np.asarray(result.sample(jax.random.key(1), 20000)["g"])
    mean = optimum.weights @ grid
    np.testing.assert_allclose(draws.mean(0), mean, rtol=0.02)
    deviation = np.sqrt(optimum.weights @ (grid - mean) ** 2)
    np.testing.assert_allclose(draws.std(0), deviation, rtol=0.02)
