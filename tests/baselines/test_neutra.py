"""NUTS in the coordinates of a flow: the same posterior, whatever the flow and its start."""

from types import SimpleNamespace

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from closed_forms import CLOSED_FORMS
from exact_fits import start_of
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn import DualNewton, PenaltyMethod, baselines, behavior
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoRealNVP

pytestmark = pytest.mark.usefixtures("quick_compilation")

NOISE, TARGET, STD = 0.5, 0.5, 0.5**0.5

SMALL = DualNewton(num_draws=500, max_simulations=500, num_proposals=2)


def untrained(model, asked, guide, method, eta):
    """A fit that only lends its coordinates; natural parameters as of its certificate."""
    fit = start_of(model, asked, guide, method)
    fit.__dict__["certificate"] = SimpleNamespace(natural_parameters=eta)
    return fit


def noisy_circuit():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    x = z + NOISE * jax.random.normal(numpyro.prng_key())
    behavior("x", x, Moments(TARGET, std=STD))


@pytest.mark.slow
def test_neutra_through_the_default_flow_is_exact_on_a_stochastic_circuit(rng_key):
    """z ~ N(0.5, 0.25), in coordinates in which the prior is normal."""
    variance = STD**2 - NOISE**2
    eta = {"mean[x]": TARGET, "var[x]": (1 - 1 / variance) / 2}
    fit = untrained(noisy_circuit, None, None, SMALL, eta)
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


FLOWS = {
    "default": (lambda model: None, SMALL),
    "real NVP": (AutoRealNVP, PenaltyMethod(num_batches=10)),
    "normal": (AutoDiagonalNormal, PenaltyMethod(num_batches=10)),
}


@pytest.mark.parametrize(
    "name", ["default", *(pytest.param(name, marks=pytest.mark.slow) for name in list(FLOWS)[1:])]
)
def test_neutra_on_a_deterministic_circuit_is_exact(name, rng_key):
    """z ~ exp(eta z) on [0, 1] with mean 0.3, in the coordinates of a flow that is untrained."""
    guide, method = FLOWS[name]
    eta = {"mean[z]": CLOSED_FORMS["truncated exponential"].natural_parameters[0]}
    fit = untrained(circuit, {"z": Moments(0.3)}, guide(circuit), method, eta)
    data = baselines.nuts(rng_key, fit, neutra=True, num_warmup=200, num_samples=500)
    z = np.asarray(data["posterior"]["z"], dtype=float)
    assert abs(z.mean() - 0.3) < 4 * z.std() / np.sqrt(effective_sample_size(z))


class Mapless(AutoDiagonalNormal):
    """A guide that keeps the map from noise to its draws to itself."""

    def get_transform(self, params):
        raise NotImplementedError


def test_neutra_needs_a_map_from_noise(rng_key):
    guide, eta = Mapless(circuit), {"mean[z]": -1.0}
    fit = untrained(circuit, {"z": Moments(0.3)}, guide, PenaltyMethod(num_batches=10), eta)
    with pytest.raises(ValueError, match="Mapless has no map from normal noise"):
        baselines.nuts(rng_key, fit, neutra=True)
