"""The tilted model: its density, and NUTS on it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from closed_forms import CLOSED_FORMS
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.reparam import NeuTraReparam
from numpyro.infer.util import log_density
from numpyro.optim import Adam

from numpyro_dsn import behavior, exponential_family, simulator
from numpyro_dsn.constraints import Moments


def test_density_is_the_tilted_prior():
    problem = CLOSED_FORMS["gaussian"]
    eta = jnp.array([0.1, -0.2, 0.3, 0.4, -0.5])
    z = jnp.array([0.7, -1.3])
    for statements in (problem.behavior, {"z": problem.constraint}):
        tilted = exponential_family(problem.model, statements, eta)
        value, _ = log_density(tilted, (), {}, {"z": z})
        expected = -2 * np.log(24.0) + eta @ problem.constraint.statistics(z)
        assert abs(value - expected) < 1e-5


def noisy_circuit(kind):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    if kind == "key":
        noise = jax.random.normal(numpyro.prng_key())
    else:
        with simulator():
            noise = numpyro.sample("noise", dist.Normal(0.0, 1.0))
    behavior("f", z + noise, Moments(0.0, std=1.0))


@pytest.mark.parametrize("kind", ["key", "site"])
def test_noise_is_averaged_over_fixed_keys(kind):
    eta = jnp.array([0.3, -0.2])
    tilted = exponential_family(noisy_circuit, None, eta, num_replicates=2000)
    value, trace = log_density(tilted, (kind,), {}, {"z": jnp.array(0.5)})
    again, _ = log_density(tilted, (kind,), {}, {"z": jnp.array(0.5)})
    assert value == again
    latent = [name for name, site in trace.items() if site["type"] == "sample"]
    assert set(latent) == {"z", "tilt"}
    # E[(z + noise)^2] = z^2 + 1; the standard error of the mean of 2000 squares is below 0.06.
    expected = dist.Normal(0.0, 1.0).log_prob(0.5) + 0.3 * 0.5 - 0.2 * (0.25 + 1.0)
    assert abs(value - expected) < 4 * (0.3 / np.sqrt(2000) + 0.2 * 0.06)


def test_nuts_samples_it(rng_key):
    problem = CLOSED_FORMS["truncated exponential"]
    tilted = exponential_family(problem.model, problem.behavior, problem.natural_parameters)
    mcmc = MCMC(NUTS(tilted), num_warmup=300, num_samples=2000, progress_bar=False)
    mcmc.run(rng_key)
    z = mcmc.get_samples()["z"]
    effective = numpyro.diagnostics.effective_sample_size(np.asarray(z)[None])
    assert abs(z.mean() - 0.3) < 4 * z.std() / np.sqrt(effective)


def test_replicates_must_be_positive():
    with pytest.raises(ValueError, match="num_replicates"):
        exponential_family(noisy_circuit, None, jnp.zeros(2), num_replicates=0)


def test_neutra_reparametrizes_it(rng_key):
    """The density in the guide's space is that of the tilted model times the map's Jacobian."""
    problem = CLOSED_FORMS["gaussian"]
    eta = jnp.asarray(problem.natural_parameters)
    guide = AutoDiagonalNormal(problem.model)
    SVI(problem.model, guide, Adam(1e-3), Trace_ELBO()).init(rng_key)
    params = {"auto_loc": jnp.array([0.3, -0.2]), "auto_scale": jnp.array([0.2, 0.3])}
    tilted = exponential_family(problem.model, problem.behavior, eta)
    neutra = NeuTraReparam(guide, params)
    shared = jnp.array([0.5, -0.4])
    model = neutra.reparam(tilted)
    value, trace = log_density(model, (), {}, {"auto_shared_latent": shared})
    z = neutra.transform_sample(shared)["z"]
    np.testing.assert_allclose(trace["z"]["value"], z, rtol=1e-6)
    plain, _ = log_density(tilted, (), {}, {"z": z})
    jacobian = jax.jacfwd(lambda u: neutra.transform_sample(u)["z"])(shared)
    assert abs(value - plain - jnp.linalg.slogdet(jacobian)[1]) < 1e-3


def two_normals():
    z, u = numpyro.sample("z", dist.Normal()), numpyro.sample("u", dist.Normal())
    behavior("x", z + u, Moments(1.0))


@pytest.mark.parametrize("hold", [handlers.substitute, handlers.do])
def test_a_held_site_is_no_latent_of_it(hold):
    tilted = exponential_family(hold(two_normals, {"u": 2.0}), None, jnp.array([0.5]))
    # As NUTS does, which would give every sample site that it sees a value of its own.
    value, trace = log_density(tilted, (), {}, {"z": 0.3, "u": -7.0})
    assert {name for name, site in trace.items() if site["type"] == "sample"} == {"z", "tilt"}
    assert abs(value - (dist.Normal().log_prob(0.3) + 0.5 * 2.3)) < 1e-5
