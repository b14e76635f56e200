"""The guide of the cube's flow: it starts at the prior, and is the flow that it says it is."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO, init_to_value

from numpyro_dsn.guides import AutoNeuralSpline, log_prob
from numpyro_dsn.guides.cube import default_flow

pytestmark = pytest.mark.usefixtures("quick_compilation")

SETTINGS = {"num_bins": 6, "hidden_dim": 8}


def box():
    numpyro.sample("a", dist.Uniform(-10.0, 10.0))
    with numpyro.plate("cell", 2):
        numpyro.sample("b", dist.Uniform(0.0, 5.0))


def set_up(model, **settings):
    """Return a guide that was set up, with its parameters at the start."""
    guide = AutoNeuralSpline(model, **SETTINGS, **settings)
    trace = handlers.trace(handlers.seed(guide, jax.random.key(1))).get_trace()
    return guide, {name: s["value"] for name, s in trace.items() if s["type"] == "param"}


def test_the_start_on_a_box_is_the_uniform_prior(rng):
    guide, params = set_up(box)
    latents = {
        "a": jnp.asarray(rng.uniform(-10, 10, 50)),
        "b": jnp.asarray(rng.uniform(0, 5, (50, 2))),
    }
    log_q = jax.jit(jax.vmap(lambda one: log_prob(guide, params, one)))(latents)
    assert_allclose(log_q, -np.log(20 * 5 * 5), atol=1e-4)
    assert_array_equal(params["auto_loc"], 0.0)
    assert_array_equal(params["auto_scale"], 1.0)


def test_the_start_at_a_normal_prior_is_close_to_it():
    prior = dist.Normal(5.0, 0.1)
    guide, params = set_up(lambda: numpyro.sample("z", prior))
    z = jnp.linspace(4.0, 6.0, 2001)
    log_q = jax.jit(jax.vmap(lambda one: log_prob(guide, params, {"z": one})))(z)
    log_p = prior.log_prob(z)
    divergence = np.trapezoid(np.exp(log_p) * (log_p - log_q), z)
    # A logistic distribution of the same moments has 0.0144 nats, and a mean that is off by
    # 4 / sqrt(2000) standard deviations 0.004 more.
    assert 0.01 < divergence < 0.02


def test_an_improper_prior_starts_with_scale_two_at_the_initial_point():
    def model():
        numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (2,)))

    point = jnp.array([3.0, -1.0])
    _, params = set_up(model, init_loc_fn=init_to_value(values={"z": point}))
    assert_allclose(params["auto_loc"], point)
    assert_array_equal(params["auto_scale"], 2.0)


def test_posterior_and_transform_are_those_of_the_flow(rng, numpyro_ranks):
    guide, params = set_up(box)
    assert guide.flow == default_flow(3, **SETTINGS)
    expected = jax.eval_shape(guide.flow.init, jax.random.key(0), jnp.zeros(3), jnp.ones(3))
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in expected.items()}
    params = {name: value + rng.normal(0, 0.1, value.shape) for name, value in params.items()}
    noise = jnp.asarray(rng.logistic(size=(2, 4, 3)))
    transform = guide.get_transform(params)

    @jax.jit
    def evaluate(noise):
        flat, log_det = guide.flow.push(params, noise.reshape(8, 3))
        flat = flat.reshape(noise.shape)
        return log_det, transform.inv(flat), transform.log_abs_det_jacobian(noise, flat)

    log_det, back, again = evaluate(noise)
    assert np.abs(log_det).max() > 0.1
    assert_allclose(again.ravel(), log_det, rtol=1e-5, atol=1e-5)
    assert_allclose(back, noise, rtol=1e-3, atol=1e-3)
    assert guide.get_base_dist().log_prob(jnp.zeros(3)) == pytest.approx(3 * np.log(0.25))


def test_training_moves_all_but_the_chart(rng_key):
    guide = AutoNeuralSpline(box, **SETTINGS)
    svi = SVI(box, guide, numpyro.optim.Adam(0.01), Trace_ELBO(num_particles=5))

    state = svi.init(rng_key)
    start, update = svi.get_params(state), jax.jit(svi.update)
    for _ in range(2):  # the first moves only the last layers of the networks, which are zero
        state, _ = update(state)
    end = svi.get_params(state)
    for name, value in start.items():
        assert np.any(np.asarray(value != end[name])) == (name not in ("auto_loc", "auto_scale"))


def test_the_number_of_coordinates_that_move_is_checked(rng_key):
    with pytest.raises(ValueError, match="is 3, of 3 coordinates; one must stay"):
        handlers.seed(AutoNeuralSpline(box, num_transformed=3), rng_key)()
