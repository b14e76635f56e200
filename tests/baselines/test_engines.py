"""Every engine on problems with an exact answer: the tilted one, and the ABC one at its epsilon."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from closed_forms import CLOSED_FORMS
from numpyro.diagnostics import effective_sample_size
from scipy.stats import norm

from numpyro_dsn import baselines, behavior
from numpyro_dsn.constraints import AtMost, Moments

pytestmark = pytest.mark.usefixtures("quick_compilation")

DECAY = CLOSED_FORMS["truncated exponential"]
"""One parameter on [0, 1] with mean 0.3."""

TOLERANCE = 0.1
"""Conditioned on f = z within 0.1 of 0.3, the uniform prior becomes uniform on [0.2, 0.4]."""

NOISE, TARGET, STD = 0.5, 0.5, 0.5**0.5


def decay_problem():
    return baselines.problem(
        DECAY.model, DECAY.behavior, natural_parameters=DECAY.natural_parameters
    )


def noisy_circuit():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    x = z + NOISE * jax.random.normal(numpyro.prng_key())
    behavior("x", x, Moments(TARGET, std=STD))


def noisy_problem():
    """E[x] and Var[x] are met by z ~ N(0.5, 0.25), which is the prior tilted by this eta."""
    variance = STD**2 - NOISE**2
    eta = np.array([TARGET, (1 - 1 / variance) / 2])
    return baselines.problem(noisy_circuit, natural_parameters=eta)


def moments(data, name="z"):
    """Return mean and standard deviation of all draws, with their standard errors."""
    draws = np.asarray(data["posterior"][name], dtype=float)
    mean = draws.mean()
    squares = (draws - mean) ** 2
    std = np.sqrt(squares.mean())
    errors = [v.std() / np.sqrt(effective_sample_size(v)) for v in (draws, squares)]
    return np.array([mean, std]), np.array([errors[0], errors[1] / (2 * std)])


def require(data, exact, bias=0.0):
    found, errors = moments(data)
    assert np.all(np.abs(found - np.array(exact)) < 4 * errors + bias), (found, exact, errors)


def exact_decay():
    """Mean and standard deviation of the density ~ exp(eta z) on [0, 1]."""
    grid = (np.arange(100_000) + 0.5) / 100_000
    weights = np.exp(DECAY.natural_parameters[0] * grid)
    weights /= weights.sum()
    return weights @ grid, np.sqrt(weights @ (grid - weights @ grid) ** 2)


TILTED = {
    "NUTS": lambda key, source: baselines.nuts(
        key, source, num_warmup=300, num_samples=500, num_replicates=1000
    ),
    "SMC": lambda key, source: baselines.smc(
        key, source, num_particles=500, num_mcmc_steps=10, num_replicates=1000
    ),
}
CONDITIONED = {
    "SMC-ABC": lambda key, source, **kwargs: baselines.smc_abc(
        key, source, num_particles=500, **kwargs
    ),
    "rejection ABC": lambda key, source, **kwargs: baselines.rejection(
        key, source, num_simulations=10_000, **kwargs
    ),
}


@pytest.mark.parametrize("name", TILTED)
def test_tilted_model_of_a_deterministic_circuit(name, rng_key):
    data = TILTED[name](rng_key, decay_problem())
    assert data.attrs["inference_method"] == name
    require(data, exact_decay())
    np.testing.assert_array_equal(data["posterior"]["f"], data["posterior"]["z"])


@pytest.mark.parametrize("name", TILTED)
def test_tilted_model_of_a_stochastic_circuit(name, rng_key):
    """The fixed noise has a mean of about 1/sqrt(1000) and shifts z by that share of its width."""
    data = TILTED[name](rng_key, noisy_problem())
    bias = 4 * 2 * 1.5 * NOISE * (STD**2 - NOISE**2) / np.sqrt(1000)
    require(data, (TARGET, np.sqrt(STD**2 - NOISE**2)), bias)
    # Statistics are simulated anew, with fresh noise for each draw.
    x = np.asarray(data["posterior"]["x"])
    assert abs(x.std() - STD) < 4 * STD / np.sqrt(2 * x.size) + bias
    achieved = data["behavior"]["achieved"]
    np.testing.assert_allclose(achieved[:, 0], x.mean(1), rtol=1e-4)


@pytest.mark.parametrize("name", CONDITIONED)
def test_abc_of_a_deterministic_circuit(name, rng_key):
    data = CONDITIONED[name](rng_key, decay_problem(), tolerance={"f": TOLERANCE})
    require(data, (0.3, 2 * TOLERANCE / np.sqrt(12)))
    z = np.asarray(data["posterior"]["z"])
    assert z.min() >= 0.2 - 1e-6
    assert z.max() <= 0.4 + 1e-6
    # log Z is the accepted share of the prior, 0.2, and the entropy is that of [0.2, 0.4].
    log_share = np.asarray(data["sample_stats"]["log_normalizer"])
    assert abs(log_share.mean() - np.log(0.2)) < 4 * np.sqrt(4 / 500)
    np.testing.assert_allclose(
        -np.asarray(data["sample_stats"]["log_q"]).mean(), log_share.mean(), rtol=1e-4
    )


@pytest.mark.parametrize("name", CONDITIONED)
def test_abc_of_a_stochastic_circuit(name, rng_key):
    """The likelihood of acceptance is the noise's mass within one standard deviation."""
    epsilon = 0.8
    data = CONDITIONED[name](rng_key, noisy_problem(), epsilon=epsilon)
    grid = np.linspace(-6, 6, 20_001)
    ends = (TARGET + sign * epsilon * STD for sign in (-1, 1))
    lower, upper = (norm.cdf((end - grid) / NOISE) for end in ends)
    weights = norm.pdf(grid) * (upper - lower)
    weights /= weights.sum()
    mean = weights @ grid
    require(data, (mean, np.sqrt(weights @ (grid - mean) ** 2)))
    x = np.asarray(data["posterior"]["x"])
    assert np.abs(x - TARGET).max() <= epsilon * STD + 1e-6
    np.testing.assert_allclose(
        data["sample_stats"]["distance"], np.abs(x - TARGET) / STD, atol=1e-5
    )
    assert "log_q" not in data["sample_stats"]


def test_smc_on_a_simplex_knows_its_entropy(rng_key):
    problem = CLOSED_FORMS["dirichlet"]
    source = baselines.problem(
        problem.model, problem.behavior, natural_parameters=problem.natural_parameters
    )
    data = baselines.smc(rng_key, source, num_particles=500)
    z = np.asarray(data["posterior"]["z"], dtype=float)
    for cell, exact in enumerate(np.array([1, 2, 3]) / 6):
        ess = effective_sample_size(z[..., cell])
        assert abs(z[..., cell].mean() - exact) < 4 * z[..., cell].std() / np.sqrt(ess)
    entropy = -np.asarray(data["sample_stats"]["log_q"]).mean(1)
    assert abs(entropy.mean() - problem.entropy) < 4 * entropy.std(ddof=1) / 2 + 0.05


def test_smc_finds_both_modes(rng_key):
    problem = CLOSED_FORMS["double well"]
    source = baselines.problem(
        problem.model, problem.behavior, natural_parameters=problem.natural_parameters
    )
    data = baselines.smc(rng_key, source, num_particles=300)
    require(data, (0.0, 1.0))
    right = (np.asarray(data["posterior"]["z"]) > 0).mean(1)
    assert np.all(np.abs(right - 0.5) < 0.15)


def test_rare_and_tied_distances_are_reached(rng_key):
    """A statistic of three values, two of them far, leaves most particles tied."""

    def circuit():
        z = numpyro.sample("z", dist.Uniform(0.0, 1.0))
        numpyro.deterministic("level", jnp.where(z > 0.9, 0.0, jnp.where(z > 0.6, 0.5, 1.0)))

    source = baselines.problem(circuit, {"level": AtMost(0.0)})
    data = baselines.smc_abc(rng_key, source, num_particles=400, tolerance={"level": 0.1})
    require(data, (0.95, 0.1 / np.sqrt(12)))


def test_simulations_are_counted(rng_key):
    source = noisy_problem()
    tilted = baselines.smc(rng_key, source, num_particles=50, num_mcmc_steps=2, num_replicates=3)
    temperatures = int(np.sum(tilted["sample_stats"]["num_temperatures"]))
    assert tilted.attrs["num_simulations"] == 50 * (2 + 3) * temperatures * 3 + 4 * 50
    sampled = baselines.nuts(
        rng_key, source, num_warmup=50, num_samples=20, num_chains=2, num_replicates=3
    )
    steps = int(np.sum(sampled["sample_stats"]["n_steps"]))
    # What remains is the warmup: at least 50 steps of each chain, three replicates each.
    warmup = sampled.attrs["num_simulations"] - 3 * steps - 40
    assert warmup >= 300
    assert warmup % 3 == 0
    assert sampled.attrs["sampling_time"] > 0
