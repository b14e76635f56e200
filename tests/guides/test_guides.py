"""Flow guides: their density is exact, and they start at the prior."""

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
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.distributions.transforms import SoftplusTransform
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.util import unconstrain_fn

from numpyro_dsn import behavior, simulator
from numpyro_dsn.constraints import Moments
from numpyro_dsn.guides import AutoNeuralSpline, AutoRealNVP, constrain, log_prob, unconstrain
from numpyro_dsn.guides.flow import NUM_START_DRAWS
from numpyro_dsn.objective import latents_and_log_density

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


def cholesky():
    numpyro.sample("factor", dist.LKJCholesky(2, 2.0))


def noisy():
    z = numpyro.sample("z", dist.Normal(1.0, 0.5))
    numpyro.deterministic("twice", 2 * z)
    with simulator():
        numpyro.sample("spikes", dist.Poisson(jnp.exp(z)))
        x = numpyro.sample("x", dist.Normal(z, 0.5))
    behavior("f", x, Moments(0.0))


def unbounded():
    numpyro.sample("w", dist.Normal(jnp.zeros(4), 1.0).to_event(1))


def improper():
    numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))


# model; shape of each latent; dimension of the unconstrained vector
MODELS = {
    "uniform": (uniform, {"z": ()}, 1),
    "mixture": (uniform, {"z": ()}, 1),
    "normal": (normal, {"z": ()}, 1),
    "several": (several, {"rate": (), "free": (), "box": (2,), "share": (3,)}, 6),
    "structured": (structured, {"center": (), "gain": (3,), "weights": (2, 3)}, 10),
    "cholesky": (cholesky, {"factor": (2, 2)}, 1),
    "noisy": (noisy, {"z": ()}, 1),
    "improper": (improper, {"z": ()}, 1),
}
SETTINGS = {"mixture": {"num_components": 3}}
NUM_DRAWS = 4000


@cache
def set_up(model, precision, make=AutoRealNVP, **settings):
    """Return a guide that was set up, with its parameters at the start."""
    guide = make(model, **({"num_layers": 2, "hidden_dims": (8,), "num_bins": 4} | settings))
    trace = handlers.trace(handlers.seed(guide, jax.random.key(1))).get_trace()
    return guide, {name: s["value"] for name, s in trace.items() if s["type"] == "param"}


@pytest.fixture
def start(request, x64):
    """Guide and parameters of a model at the start, in double precision."""
    if request.param == "neural spline":
        return set_up(unbounded, "double", AutoNeuralSpline)
    return set_up(MODELS[request.param][0], "double", **SETTINGS.get(request.param, {}))


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
    log_q = sum(jnp.sum(site["fn"].log_prob(site["value"])) for site in sites)
    flat, *latents = sites
    return {site["name"]: site["value"] for site in latents}, log_q, flat["value"]


def draw_flat(rng_key, guide, params, num_draws=NUM_DRAWS):
    keys = jax.random.split(rng_key, num_draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: draw(key, guide, params)[2]))(keys))


def moments(sample):
    """Return mean and standard deviation, and the squared standard error of each per draw."""
    deviation = sample - sample.mean(0)
    variance = np.mean(deviation**2, axis=0)
    kurtosis = np.mean(deviation**4, axis=0) / variance**2
    return sample.mean(0), np.sqrt(variance), variance, variance * (kurtosis - 1) / 4


@pytest.mark.parametrize(("start", "name"), [(name, name) for name in MODELS], indirect=["start"])
def test_the_latents_are_those_of_the_model(start, name, rng_key):
    guide, params = start
    _, shapes, dim = MODELS[name]
    assert guide.latent_dim == dim
    assert params["auto_loc"].shape == params["auto_scale"].shape == (dim,)
    assert any("coupling" in param for param in params) == (dim > 1)
    latents, _, flat = jax.eval_shape(lambda: draw(rng_key, guide, params))
    assert flat.shape == (dim,)
    assert {site: value.shape for site, value in latents.items()} == shapes


@pytest.mark.parametrize("start", [*MODELS, "neural spline"], indirect=True)
def test_log_prob_of_a_draw_is_that_of_the_guide_trace(start, rng_key, rng):
    guide, params = start
    params = perturb(rng, params)

    @jax.jit
    @jax.vmap
    def evaluate(key):
        latents, log_q, flat = draw(key, guide, params)
        seeded = handlers.seed(handlers.substitute(guide, data=params), key)
        forward_latents, forward_log_q = latents_and_log_density(handlers.trace(seeded).get_trace())
        returned, log_det = unconstrain(guide, latents)
        constrained, same_log_det = constrain(guide, flat)
        return [
            (log_prob(guide, params, latents), log_q),
            (forward_log_q, log_q),
            (forward_latents, latents),
            (constrained, latents),
            (returned, flat),
            (log_det, same_log_det),
        ]

    pairs = evaluate(jax.random.split(rng_key, 50))
    # Bounded sites lose digits close to their ends, as 1 - p does: all of them at u = 37.
    inside = np.abs(pairs[4][1]).max(-1) < 20
    assert inside.sum() >= 45
    for pair in pairs:
        one, other = jax.tree.map(lambda leaf: leaf[inside], pair)
        jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, other)


@pytest.mark.parametrize("start", ["structured"], indirect=True)
def test_the_log_det_of_constrain_is_that_of_its_jacobian(start, rng):
    guide, _ = start
    flat = jnp.asarray(rng.normal(size=guide.latent_dim))
    jacobian = jax.jit(jax.jacobian(lambda u: ravel_pytree(constrain(guide, u)[0])[0]))(flat)
    assert_allclose(constrain(guide, flat)[1], np.linalg.slogdet(jacobian)[1], rtol=1e-12)


# Constrained points that are dense where the density is steep, from unconstrained ones.
CONSTRAINED = {
    "uniform": lambda u: 20 * scipy.special.expit(u) - 10,
    "mixture": lambda u: 20 * scipy.special.expit(u) - 10,
    "normal": lambda u: u,
}


@pytest.mark.parametrize(
    ("start", "points"), CONSTRAINED.items(), ids=CONSTRAINED, indirect=["start"]
)
def test_the_density_is_normalized_on_the_constrained_space(start, points, rng_key, rng):
    guide, params = start
    params = perturb(rng, params)
    flat = draw_flat(rng_key, guide, params)
    u = np.linspace(flat.mean() - 8 * flat.std(), flat.mean() + 8 * flat.std(), 20_001)
    z = points(u)
    density = jax.jit(jax.vmap(lambda z: jnp.exp(log_prob(guide, params, {"z": z}))))(z)
    # The trapezoid rule is of second order here: 1e-3 sd from point to point.
    assert_allclose(np.trapezoid(density, z), 1.0, atol=1e-5)


# The components of a mixture start at random places, and so do its moments.
@pytest.mark.parametrize(
    "start", [name for name in MODELS if name not in ("improper", "mixture")], indirect=True
)
def test_the_guide_starts_at_the_unconstrained_moments_of_the_prior(start, rng_key):
    guide, params = start

    def prior_draw(key):
        seeded = handlers.seed(guide.model, key)
        trace = handlers.trace(seeded).get_trace()
        latents = {name: trace[name]["value"] for name in guide._init_locs}
        flat = unconstrain_fn(seeded, (), {}, latents)
        return jnp.concatenate([jnp.ravel(flat[name]) for name in guide._init_locs])

    prior_key, guide_key = jax.random.split(rng_key)
    prior = np.asarray(jax.jit(jax.vmap(prior_draw))(jax.random.split(prior_key, NUM_DRAWS)))
    mean, sd, *errors = moments(prior)
    # Three samples differ here: the prior draws, the guide's and those that made the start.
    mean_error, sd_error = (
        np.sqrt(error * (2 / NUM_DRAWS + 1 / NUM_START_DRAWS)) for error in errors
    )
    flat = draw_flat(guide_key, guide, params)
    assert np.all(np.abs(flat.mean(0) - mean) < 4 * mean_error)
    assert np.all(np.abs(flat.std(0) - sd) < 4 * sd_error)


@pytest.mark.parametrize("start", ["uniform"], indirect=True)
def test_the_start_of_a_uniform_prior_has_the_moments_of_the_logistic(start):
    _, params = start
    sd, kurtosis = np.pi / np.sqrt(3), 4.2
    assert abs(params["auto_loc"][0]) < 4 * sd / np.sqrt(NUM_START_DRAWS)
    error = sd * np.sqrt((kurtosis - 1) / 4 / NUM_START_DRAWS)
    assert abs(params["auto_scale"][0] - sd) < 4 * error


def test_the_start_leaves_out_prior_draws_at_the_ends_of_their_support():
    # log(1 + exp(x)) is zero below x = -104, or -745 in double precision; its inverse is infinite.
    sd = 1000.0
    prior = dist.TransformedDistribution(dist.Normal(0.0, sd), SoftplusTransform())
    _, params = set_up(lambda: numpyro.sample("z", prior), "single")
    # Between the moments of the half that is positive and those of the whole.
    error = sd / np.sqrt(NUM_START_DRAWS / 2)
    assert 0 < params["auto_loc"][0] < sd * np.sqrt(2 / np.pi) + 4 * error
    assert sd * np.sqrt(1 - 2 / np.pi) - 4 * error < params["auto_scale"][0] < sd


@pytest.mark.parametrize("start", ["improper"], indirect=True)
def test_an_improper_prior_starts_with_unit_variance_at_the_initial_point(start, rng_key):
    guide, params = start
    flat = draw_flat(rng_key, guide, params)
    assert abs(flat.mean() - guide._init_latent[0]) < 4 / np.sqrt(NUM_DRAWS)
    assert abs(flat.std() - 1) < 4 * np.sqrt(1 / 2 / NUM_DRAWS)


def box():
    numpyro.sample("a", dist.Uniform(-10.0 * jnp.ones(4), 10.0).to_event(1))


@pytest.mark.parametrize("variance", [1.0, 0.01])
def test_init_variance_is_that_of_the_latents(variance, rng_key):
    guide, params = set_up(box, "single", num_layers=0, init_variance=variance)
    flat = draw_flat(rng_key, guide, params)
    a = np.asarray(jax.jit(jax.vmap(lambda u: constrain(guide, u)[0]["a"]))(flat))
    # The center is the mean of logistic draws of u, of standard deviation 1.81, and da/du = 5.
    center_error = 5 * 1.81 / np.sqrt(NUM_START_DRAWS) + np.sqrt(variance / NUM_DRAWS)
    assert np.all(np.abs(a.mean(0)) < 4 * center_error)
    # a = 10 tanh(u / 2), so sd(a) = 5 sd(u) and Var(a) = 25 Var(u) (1 - Var(u) / 2 + ...).
    linearization = variance / 25 / 2
    error = 4 * np.sqrt(2 / NUM_DRAWS) + linearization
    assert_allclose(np.cov(a.T) / variance, np.eye(4), atol=error)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_init_variance_must_be_positive(variance):
    with pytest.raises(ValueError, match=r"`init_variance` must be > 0, but is"):
        AutoRealNVP(normal, init_variance=variance)


@pytest.mark.parametrize("num_components", [0, -1])
def test_num_components_must_be_positive(num_components):
    with pytest.raises(ValueError, match=r"`num_components` must be at least 1, but is"):
        AutoRealNVP(normal, num_components=num_components)


@pytest.mark.parametrize("start", ["noisy"], indirect=True)
def test_noise_and_deterministic_sites_are_no_samples_of_the_guide(start, rng_key):
    guide, params = start
    assert set(guide.sample_posterior(rng_key, params)) == {"z"}


def conjugate():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.asarray(1.0))


def test_plain_svi_trains_the_guide(rng_key):
    guide = AutoRealNVP(conjugate, num_bins=4)
    svi = SVI(conjugate, guide, numpyro.optim.Adam(0.02), Trace_ELBO(num_particles=50))
    result = svi.run(rng_key, 300, progress_bar=False)
    # The posterior is N(1/2, 1/2) and the evidence N(1; 0, 2).
    log_evidence = -0.5 * np.log(4 * np.pi) - 0.25
    assert result.losses[0] > -log_evidence + 0.1
    gap = result.losses[-100:].mean() + log_evidence
    assert abs(gap) < 0.01
    # The gap is KL(q || posterior) >= (error of the mean)^2 / (2 * 1/2).
    flat = draw_flat(rng_key, guide, result.params)
    assert abs(flat.mean() - 0.5) < np.sqrt(0.01) + 4 * np.sqrt(0.5 / NUM_DRAWS)


@pytest.mark.parametrize("start", ["noisy"], indirect=True)
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda guide: pickle.loads(pickle.dumps(guide))]
)
def test_a_copy_of_a_guide_gives_the_same_draws(start, duplicate, rng_key):
    guide, params = start
    again = duplicate(guide)
    assert again is not guide
    assert_array_equal(draw_flat(rng_key, again, params, 10), draw_flat(rng_key, guide, params, 10))
    jax.tree.map(assert_array_equal, again._start, guide._start)


@pytest.mark.parametrize("corner", [-100.0, 100.0])
def test_gradients_are_finite_in_a_saturated_corner(corner, rng_key):
    guide, params = set_up(uniform, "single")

    @jax.jit
    @jax.value_and_grad
    def objective(params):
        seeded = handlers.seed(handlers.substitute(guide, data=params), rng_key)
        latents, log_q = latents_and_log_density(handlers.trace(seeded).get_trace())
        return log_q + latents["z"]

    value, gradient = objective(params | {"auto_loc": jnp.array([corner])})
    assert jnp.isfinite(value)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    # Into the corner log |dz/du| falls, and so log q rises, by one for each unit of u.
    assert_allclose(gradient["auto_loc"], np.sign(corner), rtol=1e-3)


@pytest.mark.parametrize(
    ("dim", "num_layers", "num_stay"), [(2, 6, 1), (3, 9, 2), (4, 12, 3), (5, 9, 3), (10, 12, 7)]
)
def test_default_couplings_move_a_quarter_three_times(dim, num_layers, num_stay, rng_key):
    def model():
        numpyro.sample("z", dist.Normal(jnp.zeros(dim), 1.0).to_event(1))

    trace = handlers.trace(
        handlers.seed(AutoRealNVP(model, num_frequencies=0), rng_key)
    ).get_trace()
    assert trace["auto_coupling_weight0"]["value"].shape[:2] == (num_layers, num_stay)
