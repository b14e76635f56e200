"""The real NVP guide: where it starts, and its sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.distributions.transforms import SoftplusTransform
from numpyro.infer.util import unconstrain_fn

from numpyro_dsn.guides import AutoRealNVP

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_DRAWS = 4000
START_DRAWS = AutoRealNVP.num_start_draws


def uniform():
    numpyro.sample("z", dist.Uniform(-10.0, 10.0))


def normal():
    numpyro.sample("z", dist.Normal(5.0, 0.1))


def several():
    numpyro.sample("rate", dist.LogNormal(0.5, 0.3))
    numpyro.sample("box", dist.Uniform(jnp.array([-1.0, 0.0]), jnp.array([1.0, 5.0])).to_event(1))
    numpyro.sample("free", dist.Normal(5.0, 0.1))


def improper():
    numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))


def box():
    numpyro.sample("a", dist.Uniform(-10.0 * jnp.ones(4), 10.0).to_event(1))


def set_up(model, **settings):
    """Return a guide that was set up, with its parameters at the start."""
    guide = AutoRealNVP(model, **({"num_layers": 2, "hidden_dims": (8,), "num_bins": 4} | settings))
    trace = handlers.trace(handlers.seed(guide, jax.random.key(1))).get_trace()
    return guide, {name: s["value"] for name, s in trace.items() if s["type"] == "param"}


def draw(rng_key, guide, params, num_draws=NUM_DRAWS):
    """Return unconstrained draws of the guide, and their latents."""
    posterior = guide.get_posterior(params)

    @jax.jit
    @jax.vmap
    def one(key):
        flat = posterior.sample(key)
        return flat, guide._unpack_and_constrain(flat, params)

    flat, latents = one(jax.random.split(rng_key, num_draws))
    return np.asarray(flat), jax.tree.map(np.asarray, latents)


def moments(sample):
    """Return mean and standard deviation, and the squared standard error of each per draw."""
    deviation = sample - sample.mean(0)
    variance = np.mean(deviation**2, axis=0)
    kurtosis = np.mean(deviation**4, axis=0) / variance**2
    return sample.mean(0), np.sqrt(variance), variance, variance * (kurtosis - 1) / 4


def test_the_guide_starts_at_the_unconstrained_moments_of_the_prior(rng_key):
    guide, params = set_up(several)

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
    mean_error, sd_error = (np.sqrt(error * (2 / NUM_DRAWS + 1 / START_DRAWS)) for error in errors)
    flat, _ = draw(guide_key, guide, params)
    assert np.all(np.abs(flat.mean(0) - mean) < 4 * mean_error)
    assert np.all(np.abs(flat.std(0) - sd) < 4 * sd_error)


def test_the_start_of_a_uniform_prior_has_the_moments_of_the_logistic():
    _, params = set_up(uniform)
    sd, kurtosis = np.pi / np.sqrt(3), 4.2
    assert abs(params["auto_loc"][0]) < 4 * sd / np.sqrt(START_DRAWS)
    error = sd * np.sqrt((kurtosis - 1) / 4 / START_DRAWS)
    assert abs(params["auto_scale"][0] - sd) < 4 * error


def test_the_start_leaves_out_prior_draws_at_the_ends_of_their_support():
    # log(1 + exp(x)) is zero below x = -104, or -745 in double precision; its inverse is infinite.
    sd = 1000.0
    prior = dist.TransformedDistribution(dist.Normal(0.0, sd), SoftplusTransform())
    _, params = set_up(lambda: numpyro.sample("z", prior))
    # Between the moments of the half that is positive and those of the whole.
    error = sd / np.sqrt(START_DRAWS / 2)
    assert 0 < params["auto_loc"][0] < sd * np.sqrt(2 / np.pi) + 4 * error
    assert sd * np.sqrt(1 - 2 / np.pi) - 4 * error < params["auto_scale"][0] < sd


def test_an_improper_prior_starts_with_unit_variance_at_the_initial_point(rng_key):
    guide, params = set_up(improper)
    flat, _ = draw(rng_key, guide, params)
    assert abs(flat.mean() - guide._init_latent[0]) < 4 / np.sqrt(NUM_DRAWS)
    assert abs(flat.std() - 1) < 4 * np.sqrt(1 / 2 / NUM_DRAWS)


@pytest.mark.parametrize("variance", [1.0, 0.01])
def test_init_variance_is_that_of_the_latents(variance, rng_key):
    guide, params = set_up(box, num_layers=0, init_variance=variance)
    a = draw(rng_key, guide, params)[1]["a"]
    # The center is the mean of logistic draws of u, of standard deviation 1.81, and da/du = 5.
    center_error = 5 * 1.81 / np.sqrt(START_DRAWS) + np.sqrt(variance / NUM_DRAWS)
    assert np.all(np.abs(a.mean(0)) < 4 * center_error)
    # a = 10 tanh(u / 2), so sd(a) = 5 sd(u) and Var(a) = 25 Var(u) (1 - Var(u) / 2 + ...).
    linearization = variance / 25 / 2
    error = 4 * np.sqrt(2 / NUM_DRAWS) + linearization
    assert_allclose(np.cov(a.T) / variance, np.eye(4), atol=error)


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
def test_init_variance_must_be_positive(variance):
    with pytest.raises(ValueError, match=r"`init_variance` must be > 0, but is"):
        AutoRealNVP(normal, init_variance=variance)


def shapes(dim, **settings):
    """Shapes of the parameters of a guide of so many coordinates, without setting it up."""
    guide = AutoRealNVP(normal, **settings)
    guide.latent_dim, guide.start = dim, (jnp.zeros(dim), jnp.ones(dim))

    def params(key):
        trace = handlers.trace(handlers.seed(guide._get_posterior, key)).get_trace()
        return {name: site["value"] for name, site in trace.items()}

    found = jax.eval_shape(params, jax.random.key(0))
    return {name: value.shape for name, value in found.items()}


def test_parameters_are_those_that_saved_fits_have():
    assert shapes(2) == {
        "auto_loc": (2,),
        "auto_scale": (2,),
        "auto_heights": (2, 16),
        "auto_slopes": (2, 17),
        "auto_coupling_weight0": (6, 11, 64),
        "auto_coupling_bias0": (6, 64),
        "auto_coupling_weight1": (6, 32, 64),
        "auto_coupling_bias1": (6, 64),
        "auto_coupling_weight2": (6, 32, 2),
        "auto_coupling_bias2": (6, 2),
    }
    assert set(shapes(1)) == {"auto_loc", "auto_scale", "auto_heights", "auto_slopes"}
    assert set(shapes(5, num_layers=0)) == set(shapes(1))


@pytest.mark.parametrize(
    ("dim", "num_layers", "num_inputs"),
    # A single coordinate is seen with five sines and cosines.
    [(2, 6, 1 + 2 * 5), (3, 9, 2), (4, 12, 3), (5, 9, 3), (10, 12, 7)],
)
def test_default_couplings_move_a_quarter_three_times(dim, num_layers, num_inputs):
    assert shapes(dim)["auto_coupling_weight0"][:2] == (num_layers, num_inputs)


def test_the_number_of_coordinates_that_move_is_checked():
    with pytest.raises(ValueError, match="must be at least 1, but is 0"):
        AutoRealNVP(normal, num_transformed=0)
    with pytest.raises(ValueError, match="is 3, of 3 coordinates; one must stay"):
        shapes(3, num_transformed=3)


@pytest.mark.parametrize("corner", [-100.0, 100.0])
def test_gradients_are_finite_in_a_saturated_corner(corner, rng_key):
    guide, params = set_up(uniform)

    @jax.jit
    @jax.value_and_grad
    def objective(params):
        seeded = handlers.seed(handlers.substitute(guide, data=params), rng_key)
        sites = handlers.trace(seeded).get_trace()
        flat, z = sites["_auto_latent"], sites["z"]
        log_q = flat["fn"].log_prob(flat["value"], flat["intermediates"])
        return log_q + z["fn"].log_prob(z["value"]) + z["value"]

    value, gradient = objective(params | {"auto_loc": jnp.array([corner])})
    assert jnp.isfinite(value)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    # Into the corner log |dz/du| falls, and so log q rises, by one for each unit of u.
    assert_allclose(gradient["auto_loc"], np.sign(corner), rtol=1e-3)
