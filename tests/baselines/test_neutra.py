"""NUTS in the coordinates of a flow: the same posterior, whatever the flow and its base."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from closed_forms import CLOSED_FORMS
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn import DSN, DSNWarning, DualNewton, PenaltyMethod, baselines, behavior
from numpyro_dsn.baselines.mixture import normal_to_mixture
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP

pytestmark = pytest.mark.usefixtures("quick_compilation")

NOISE, TARGET, STD = 0.5, 0.5, 0.5**0.5

LOC = jnp.array([[-2.0, 0.5], [1.0, -1.0], [2.5, 2.0]])
SCALE = jnp.array([[0.5, 1.0], [1.0, 0.3], [0.4, 0.8]])
LOGITS = jnp.array([0.3, -0.5, 0.1])
MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(logits=LOGITS), dist.Normal(LOC, SCALE).to_event(1)
)


to_mixture = jax.jit(jax.vmap(lambda noise: normal_to_mixture(MIXTURE, noise)))


def test_map_to_a_mixture_has_the_determinant_of_its_jacobian(rng_key):
    """The derivatives are implicit: compare them with differences of the map."""
    noise, step = jax.random.normal(rng_key, (200, 2)), 3e-3
    shifts = step * jnp.eye(2)
    columns = [
        (to_mixture(noise + s[None])[0] - to_mixture(noise - s[None])[0]) / (2 * step)
        for s in shifts
    ]
    differences = jnp.stack(columns, -1)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda e: normal_to_mixture(MIXTURE, e)[0])))(noise)
    log_det = to_mixture(noise)[1]
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=1e-3)
    # Rounding and curvature of the difference: large only where the map is steep.
    assert np.quantile(np.abs(differences - jacobian) / (1 + np.abs(jacobian)), 0.9) < 0.01


def test_map_to_a_mixture_gives_its_draws(rng_key):
    draws, _ = to_mixture(jax.random.normal(rng_key, (20_000, 2)))
    weights = np.asarray(jax.nn.softmax(LOGITS))
    mean = weights @ np.asarray(LOC)
    second = np.einsum("k,ki,kj->ij", weights, LOC, LOC) + np.diag(weights @ np.asarray(SCALE) ** 2)
    error = np.sqrt(np.diag(second - np.outer(mean, mean)) / len(draws))
    assert np.all(np.abs(np.asarray(draws).mean(0) - mean) < 4 * error)
    products = np.einsum("ni,nj->nij", draws, draws)
    assert np.all(np.abs(products.mean(0) - second) < 4 * products.std(0) / np.sqrt(len(draws)))


def test_map_of_a_single_component_is_affine_also_in_the_tails():
    single = dist.MixtureSameFamily(
        dist.Categorical(logits=jnp.zeros(1)),
        dist.Normal(jnp.array([[1.0]]), jnp.array([[0.5]])).to_event(1),
    )
    noise = jnp.array([-8.0, -5.5, 0.0, 5.5, 8.0])
    value, log_det = jax.jit(jax.vmap(lambda e: normal_to_mixture(single, e)))(noise[:, None])
    np.testing.assert_allclose(value[:, 0], 1.0 + 0.5 * noise, atol=2e-4)
    np.testing.assert_allclose(log_det, np.log(0.5), atol=5e-3)


def noisy_circuit():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    x = z + NOISE * jax.random.normal(numpyro.prng_key())
    behavior("x", x, Moments(TARGET, std=STD))


def test_neutra_through_a_mixture_is_exact_on_a_stochastic_circuit(rng_key):
    """The fit is untrained and only lends its coordinates; z ~ N(0.5, 0.25)."""
    guide = AutoRealNVP(noisy_circuit, num_components=3)
    method = DualNewton(num_first=500, num_draws=500, num_flows=1)
    dsn = DSN(noisy_circuit, guide=guide, multipliers=method)
    with pytest.warns(match="not met yet"):
        fit = dsn.run(jax.random.key(0), num_epochs=0, progress_bar=False)
    variance = STD**2 - NOISE**2
    eta = {"mean[x]": TARGET, "var[x]": (1 - 1 / variance) / 2}
    fit.__dict__["certificate"] = SimpleNamespace(natural_parameters=eta)
    data = baselines.nuts(
        rng_key, fit, neutra=True, num_warmup=200, num_samples=300, num_replicates=500
    )
    assert data.attrs["inference_method"] == "NeuTra"
    z = np.asarray(data["posterior"]["z"], dtype=float)
    # The mean of the fixed noise shifts z by its share of the posterior's width.
    bias = 4 * 2 * 1.5 * NOISE * variance / np.sqrt(500)
    assert abs(z.mean() - TARGET) < 4 * z.std() / np.sqrt(effective_sample_size(z)) + bias
    assert abs(z.std() - np.sqrt(variance)) < 0.05


def circuit():
    numpyro.sample("z", dist.Uniform(0.0, 1.0))


@pytest.mark.parametrize("truncated", [False, True], ids=["normal", "truncated mixture"])
def test_neutra_on_a_deterministic_circuit_is_exact(truncated, rng_key):
    """z ~ exp(eta z) on [0, 1] with mean 0.3, in the coordinates of a guide that is untrained."""
    if truncated:
        guide = AutoRealNVP(circuit, num_components=2, truncated=True)
        method = DualNewton(num_first=500, num_draws=500, num_flows=1)
    else:
        guide, method = AutoDiagonalNormal(circuit), PenaltyMethod()
    dsn = DSN(circuit, {"z": Moments(0.3)}, guide, None, method)
    with pytest.warns(DSNWarning):
        fit = dsn.run(jax.random.key(0), num_epochs=0, progress_bar=False)
    eta = {"mean[z]": CLOSED_FORMS["truncated exponential"].natural_parameters[0]}
    fit.__dict__["certificate"] = SimpleNamespace(natural_parameters=eta)
    data = baselines.nuts(rng_key, fit, neutra=True, num_warmup=200, num_samples=500)
    z = np.asarray(data["posterior"]["z"], dtype=float)
    assert abs(z.mean() - 0.3) < 4 * z.std() / np.sqrt(effective_sample_size(z))
