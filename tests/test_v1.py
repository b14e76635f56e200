"""V1: what is asked, what is said of a fit, the stochastic network, and the command."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from models import v1, v1_noise
from models.v1_circuit import POPULATIONS, WEIGHTS
from models.v1_statements import input_trends, leading_shares, slope, spread, weight_spreads
from numpyro_dsn.program import read
from numpyro_dsn.sensitivity import Curvature

ROOT = Path(__file__).parents[1]


# What is asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("population", ["S", "V"])
def test_targets(population):
    asked = partial(v1.silenced, population=population, tolerance=0.05)
    program = read(jax.random.key(0), v1.circuit, asked, (), {})
    assert program.labels == ["mean[regime]", "var[regime]", "mean[silence]"]
    assert_allclose(program.lower, [0.0, 0.0625, -np.inf], rtol=1e-6)
    assert_allclose(program.upper, [0.0, 0.0625, 0.05], rtol=1e-6)
    assert set(program.latents) == set(WEIGHTS)
    assert not program.is_stochastic


def test_noise_targets():
    asked = partial(v1_noise.fluctuating, mean=5.0)
    program = read(jax.random.key(0), v1_noise.circuit, asked, (), {})
    assert_allclose(program.lower, [5.0, 1.0])
    assert program.is_stochastic
    support = program.latents["sigma"]["fn"].support
    assert support(jnp.full(4, 0.049))
    assert not support(jnp.full(4, 0.051))


# What is said of a fit ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normal():
    """Draws of a proposal that is twice as wide, with the weights of a standard normal."""
    x = 2 * np.random.default_rng(0).standard_normal((40_000, 2))
    weights = np.exp(-0.375 * (x**2).sum(-1))
    return x, weights / weights.sum()


def test_spread_and_its_error(normal):
    x, weights = normal
    found = spread(x, weights)
    assert np.all(np.abs(found.value - 1.0) < 4 * found.error)
    even = spread(np.random.default_rng(1).standard_normal(10_000), np.full(10_000, 1e-4))
    assert_allclose(even.error, np.sqrt(1 / 20_000), rtol=0.1)


def test_slope_and_its_error(normal):
    x, weights = normal
    found = slope(x[:, 0], 3 * x[:, 0] + x[:, 1] + 7, weights)
    assert abs(found.value - 3.0) < 4 * found.error
    assert 0 < found.error < 0.05


def test_trends_are_of_the_input_that_a_silent_population_gets():
    gamma = np.linspace(-1, 1, 50)
    inputs = np.zeros((50, 4, 4))
    inputs[:, 2, 3], inputs[:, 2, 0] = -2 * gamma, gamma
    sites = {"gamma": gamma, "inputs": inputs}
    trends = input_trends(sites, np.full(50, 0.02), "S")
    assert {k: round(float(v.value), 6) for k, v in trends.items()} == {"E": 1.0, "V": -2.0}


def test_shares_of_eigenvectors():
    vectors = np.stack([np.eye(8), np.roll(np.eye(8), 1, axis=0)])
    zeros = np.zeros((2, 8))
    found = leading_shares(Curvature(list(WEIGHTS), zeros, vectors, zeros, vectors))
    assert_allclose(found.value[0, [0, 7]], [0.5, 0.5])
    assert_allclose(found.value.sum(-1), 1.0)


def test_spreads_of_the_prior():
    draws = np.random.default_rng(2).uniform(0, v1.BOX, (20_000, 8))
    sites = dict(zip(WEIGHTS, draws.T, strict=True))
    found = weight_spreads(sites, np.full(20_000, 1 / 20_000))
    assert_allclose(found.value, v1.BOX / np.sqrt(12), atol=4 * found.error.max())


# The stochastic network --------------------------------------------------------------------------


def steady_rates(contrast):
    """By Newton's method in float64."""
    rates = np.array([40.0, 50.0, 30.0, 50.0])
    inputs = v1_noise.inputs_at(contrast)
    for _ in range(100):
        drive = np.maximum(v1_noise.MATRIX @ rates + inputs, 0)
        jacobian = 2 * drive[:, None] * v1_noise.MATRIX - np.eye(4)
        rates = rates - 0.5 * np.linalg.solve(jacobian, drive**2 - rates)
    return rates, jacobian


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [(0.0, [19.2, 19.4, 11.6, 42.2]), (0.5, [45.9, 54.0, 27.5, 49.3])],
)
def test_steady_rates_are_those_of_the_printed_constants(contrast, expected):
    rates, _ = steady_rates(contrast)
    assert_allclose(rates, expected, atol=0.06)
    derivative = v1_noise.slope(jnp.asarray(rates), jnp.asarray(v1_noise.inputs_at(contrast)))
    assert_allclose(derivative, 0.0, atol=1e-3)


def test_only_p_is_paradoxical():
    """By the inverse of the Jacobian, and by the integrator."""
    _, jacobian = steady_rates(0.5)
    gain = 2 * np.sqrt(steady_rates(0.5)[0])
    expected = np.diag(-np.linalg.inv(jacobian)) * gain
    assert_allclose(v1_noise.responses(step=0.01), expected, rtol=0.05, atol=1.0)
    assert (expected < 0).tolist() == [name == "P" for name in POPULATIONS]


def linear_std(sigma):
    """Stationary standard deviation of E's rate for small noise, by the Lyapunov equation."""
    from scipy.linalg import solve_continuous_lyapunov

    rates, jacobian = steady_rates(0.5)
    tau, tau_noise = v1_noise.TAU, v1_noise.TAU_NOISE
    gain = np.diag(2 * np.sqrt(rates))
    whole = np.block([[jacobian / tau, gain / tau], [np.zeros((4, 4)), -np.eye(4) / tau_noise]])
    spread_ = 2 / tau_noise * (1 + tau / tau_noise) * np.diag(sigma**2)
    diffusion = np.block([[np.zeros((4, 4)), np.zeros((4, 4))], [np.zeros((4, 4)), spread_]])
    return np.sqrt(solve_continuous_lyapunov(whole, -diffusion)[0, 0])


@pytest.mark.parametrize("population", [0, 1])
def test_small_noise_fluctuates_as_in_linear_theory(population, rng_key):
    """Euler's steps and 25 ms of measurement make less of it, by no more than a third."""
    sigma = np.zeros(4)
    sigma[population] = 0.002
    found = v1_noise.fluctuation(rng_key, jnp.asarray(sigma, jnp.float32), num_trials=200)
    assert 0.67 < found / linear_std(sigma) < 1.05


def test_noise_of_s_and_v_hardly_matters(rng_key):
    loud = [jnp.zeros(4).at[k].set(0.02) for k in range(4)]
    found = [float(v1_noise.fluctuation(rng_key, sigma)) for sigma in loud]
    assert min(found[:2]) > 8 * max(found[2:])


# The command -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command(tmp_path):
    flags = ["--out", str(tmp_path), "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "models.v1", *flags],
        cwd=ROOT,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = {"matrix.png", "eigenvectors.png", "inputs.png"}
    figures |= {"optimization_S.png", "optimization_V.png"}
    assert {path.name for path in tmp_path.iterdir()} == figures | {"S.nc", "V.nc"}
    assert "sd, optimum" in done.stdout
