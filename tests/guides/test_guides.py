"""Guides of flows: exact densities, and all that NumPyro does with guides of its own."""

import copy
import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.reparam import NeuTraReparam
from numpyro.infer.util import log_density

from numpyro_dsn import behavior, simulator
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoNeuralSpline, AutoRealNVP, log_prob

pytestmark = pytest.mark.usefixtures("quick_compilation")


def uniform():
    numpyro.sample("z", dist.Uniform(-10.0, 10.0))


def normal():
    numpyro.sample("z", dist.Normal(5.0, 0.1))


def several():
    # Not in alphabetical order, of several ranks, and the simplex has fewer dimensions than values.
    numpyro.sample("rate", dist.LogNormal(0.5, 0.3))
    numpyro.sample("free", dist.Normal(-2.0, 3.0))
    numpyro.sample("box", dist.Uniform(jnp.array([-1.0, 0.0]), jnp.array([1.0, 5.0])).to_event(1))
    numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))


def structured():
    center = numpyro.sample("center", dist.Normal(1.0, 0.5))
    with numpyro.plate("cell", 3):
        numpyro.sample("gain", dist.LogNormal(center, 0.2))
    numpyro.sample("weights", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))


def noisy():
    z = numpyro.sample("z", dist.Normal(1.0, 0.5))
    numpyro.deterministic("twice", 2 * z)
    with simulator():
        numpyro.sample("spikes", dist.Poisson(jnp.exp(z)))
        x = numpyro.sample("x", dist.Normal(z, 0.5))
    behavior("f", x, Moments(0.0))


def improper():
    numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))


# model; shape of each latent; dimension of the unconstrained vector
MODELS = {
    "uniform": (uniform, {"z": ()}, 1),
    "normal": (normal, {"z": ()}, 1),
    "several": (several, {"rate": (), "free": (), "box": (2,), "share": (3,)}, 6),
    "structured": (structured, {"center": (), "gain": (3,), "weights": (2, 3)}, 10),
    "noisy": (noisy, {"z": ()}, 1),
    "improper": (improper, {"z": ()}, 1),
}
SMALL = {
    AutoRealNVP: {"num_layers": 2, "hidden_dims": (8,), "num_bins": 4},
    AutoNeuralSpline: {"num_layers": 2, "hidden_dim": 8, "num_bins": 4},
}
GUIDES = list(SMALL)
NUM_DRAWS = 4000


@cache
def set_up(make, name, precision="single"):
    """Return a guide that was set up, with its parameters at the start."""
    guide = make(MODELS[name][0], **SMALL[make])
    trace = handlers.trace(handlers.seed(guide, jax.random.key(1))).get_trace()
    return guide, {name: s["value"] for name, s in trace.items() if s["type"] == "param"}


def perturb(rng, params, weight=0.2):
    """Return parameters far from the start."""
    noise = {name: rng.normal(0, weight, np.shape(value)) for name, value in params.items()}
    return {
        name: value * np.exp(noise[name]) if "scale" in name else value + noise[name]
        for name, value in params.items()
    }


def draw(rng_key, guide, params):
    """Return the latents of one draw, log q by NumPyro's own bookkeeping, and u."""
    seeded = handlers.seed(handlers.substitute(guide, data=params), rng_key)
    sites = [s for s in handlers.trace(seeded).get_trace().values() if s["type"] == "sample"]
    flat, *latents = sites
    log_q = flat["fn"].log_prob(flat["value"], flat["intermediates"])
    log_q += sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in latents)
    return {site["name"]: site["value"] for site in latents}, log_q, flat["value"]


def draw_flat(rng_key, guide, params, num_draws=NUM_DRAWS):
    keys = jax.random.split(rng_key, num_draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw(key, guide, params)[2]))(keys))


@pytest.mark.parametrize("name", ["uniform", "several", "structured", "improper"])
@pytest.mark.parametrize("make", GUIDES)
def test_latents_and_density_are_those_of_the_guide_trace(make, name, x64, rng_key, rng):
    _, shapes, dim = MODELS[name]
    guide, params = set_up(make, name, "double")
    assert guide.latent_dim == dim
    assert params["auto_loc"].shape == params["auto_scale"].shape == (dim,)
    params = perturb(rng, params)

    @jax.jit
    @jax.vmap
    def evaluate(key):
        latents, log_q, flat = draw(key, guide, params)
        return latents, log_q, log_prob(guide, params, latents), flat

    latents, log_q, again, flat = evaluate(jax.random.split(rng_key, 50))
    assert {site: value.shape[1:] for site, value in latents.items()} == shapes
    assert flat.shape == (50, dim)
    # Bounded sites lose digits close to their ends, as 1 - p does: all of them at u = 37.
    inside = np.abs(flat).max(-1) < 20
    assert inside.sum() >= 40
    assert_allclose(again[inside], log_q[inside], rtol=1e-5, atol=1e-5)


# Constrained points that are dense where the density is steep, from unconstrained ones.
CONSTRAINED = {"uniform": lambda u: 20 * scipy.special.expit(u) - 10, "normal": lambda u: u}


@pytest.mark.parametrize(("name", "points"), CONSTRAINED.items(), ids=CONSTRAINED)
@pytest.mark.parametrize("make", GUIDES)
def test_the_density_is_normalized_on_the_constrained_space(make, name, points, x64, rng_key, rng):
    guide, params = set_up(make, name, "double")
    params = perturb(rng, params)
    flat = draw_flat(rng_key, guide, params)
    u = np.linspace(flat.mean() - 12 * flat.std(), flat.mean() + 12 * flat.std(), 20_001)
    z = points(u)
    density = jax.jit(jax.vmap(lambda z: jnp.exp(log_prob(guide, params, {"z": z}))))(z)
    # The trapezoid rule is of second order here: 1e-3 sd from point to point.
    assert_allclose(np.trapezoid(density, z), 1.0, atol=1e-4)


@pytest.mark.parametrize("make", GUIDES)
def test_noise_and_deterministic_sites_are_no_samples_of_the_guide(make, rng_key):
    guide, params = set_up(make, "noisy")
    assert set(jax.eval_shape(guide.sample_posterior, rng_key, params)) == {"z"}


def conjugate():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.asarray(1.0))


@pytest.mark.parametrize("make", GUIDES)
def test_plain_svi_trains_the_guide(make, rng_key):
    guide = make(conjugate, **SMALL[make])
    svi = SVI(conjugate, guide, numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=50))
    result = svi.run(rng_key, 300, progress_bar=False)
    # The posterior is N(1/2, 1/2) and the evidence N(1; 0, 2).
    log_evidence = -0.5 * np.log(4 * np.pi) - 0.25
    assert result.losses[0] > -log_evidence + 0.1
    gap = result.losses[-100:].mean() + log_evidence
    assert abs(gap) < 0.02
    # The gap is KL(q || posterior) >= (error of the mean)^2 / (2 * 1/2).
    flat = draw_flat(rng_key, guide, result.params)
    assert abs(flat.mean() - 0.5) < np.sqrt(0.02) + 4 * np.sqrt(0.5 / NUM_DRAWS)


@pytest.mark.parametrize("make", GUIDES)
def test_neutra_has_the_density_of_the_model_in_the_coordinates_of_the_guide(make, rng_key, rng):
    guide, params = set_up(make, "uniform")
    params = perturb(rng, params)
    neutra = NeuTraReparam(guide, params)
    noise = jnp.asarray(rng.normal(size=(20, 1)))

    @jax.jit
    @jax.vmap
    def evaluate(noise):
        value, trace = log_density(neutra.reparam(uniform), (), {}, {"auto_shared_latent": noise})
        slope = jax.jacfwd(lambda noise: neutra.transform_sample(noise)["z"])(noise)
        return value, trace["z"]["value"], neutra.transform_sample(noise)["z"], slope[0]

    value, z, same, slope = map(np.asarray, evaluate(noise))
    assert_allclose(z, same, rtol=1e-5)
    assert np.all(np.abs(z) < 10)
    assert_allclose(value, np.log(slope / 20), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "duplicate"),
    [
        (AutoRealNVP, copy.deepcopy),
        (AutoNeuralSpline, lambda guide: pickle.loads(pickle.dumps(guide))),
    ],
)
def test_a_copy_of_a_guide_gives_the_same_draws(make, duplicate, rng_key):
    guide, params = set_up(make, "noisy")
    again = duplicate(guide)
    assert again is not guide
    assert_array_equal(draw_flat(rng_key, again, params, 10), draw_flat(rng_key, guide, params, 10))
    jax.tree.map(assert_array_equal, again.start, guide.start)


@pytest.mark.parametrize("make", GUIDES)
def test_a_model_without_gradient_can_be_set_up(make, rng_key):
    def model():
        z = numpyro.sample("z", dist.Uniform(0.0, 1.0))
        shape = jax.ShapeDtypeStruct((), z.dtype)
        center = jax.pure_callback(lambda z: z + 1, shape, z, vmap_method="sequential")
        numpyro.sample("y", dist.Normal(center, 1.0), obs=jnp.asarray(1.0))

    guide = make(model, **SMALL[make])
    assert set(handlers.seed(guide, rng_key)()) == {"z"}
