"""The map between latents and the flat vector, against NumPyro's guides and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.infer.autoguide import AutoDiagonalNormal
from programs import prior

from numpyro_dsn.constraints import AtLeast
from numpyro_dsn.program import constrain, draw_prior, is_uniform, read, unconstrain

pytestmark = pytest.mark.usefixtures("quick_compilation", "numpyro_ranks")


def mixed():
    numpyro.sample("z", dist.Uniform(jnp.array([-1.0, 2.0]), jnp.array([1.0, 5.0])).to_event(1))
    numpyro.sample("simplex", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("cells", 2):
        numpyro.sample("rate", dist.HalfNormal())
    numpyro.sample("a", dist.Normal())
    numpyro.sample("corr", dist.LKJCholesky(3))


def read_mixed():
    return read(jax.random.key(0), mixed, {"a": AtLeast(0.0)}, (), {})


def test_the_order_and_the_values_are_those_of_numpyros_guides(rng_key):
    program = read_mixed()
    guide = AutoDiagonalNormal(program.guide_model)
    handlers.trace(handlers.seed(guide, rng_key)).get_trace()
    assert program.num_latents == guide.latent_dim == 2 + 2 + 2 + 1 + 3
    flat = jax.random.normal(rng_key, (program.num_latents,))
    unpacked = guide._unpack_latent(flat)
    latents, _ = constrain(program, flat)  # jit would sort them
    assert list(latents) == list(program.latents) == list(program.supports)
    for name, value in latents.items():
        assert_allclose(value, dist.biject_to(program.supports[name])(unpacked[name]), rtol=1e-6)


def test_the_two_maps_are_each_others_inverse(rng_key):
    program = read_mixed()
    flats = jax.random.normal(rng_key, (7, program.num_latents))
    latents, log_det = jax.jit(jax.vmap(lambda flat: constrain(program, flat)))(flats)
    back = jax.jit(jax.vmap(lambda latents: unconstrain(program, latents)))
    again, log_det_again = back(latents)
    assert_allclose(again, flats, rtol=1e-3, atol=1e-4)
    assert_allclose(log_det_again, log_det, rtol=1e-4, atol=1e-4)


def test_the_log_det_is_that_of_the_jacobian(rng_key):
    def model():
        numpyro.sample("z", dist.Uniform(-1.0, 3.0))
        numpyro.sample("w", dist.HalfNormal())

    program = read(rng_key, model, {"z": AtLeast(0.0)}, (), {})
    flat = jnp.array([0.3, -1.2])
    jacobian = jax.jacobian(lambda flat: jnp.stack(list(constrain(program, flat)[0].values())))
    expected = jnp.linalg.slogdet(jacobian(flat))[1]
    assert_allclose(constrain(program, flat)[1], expected, rtol=1e-5)


def test_the_logit_keeps_its_digits_at_both_ends(rng_key):
    program = read(rng_key, prior(dist.Uniform(0.0, 1.0)), {"z": AtLeast(0.0)}, (), {})
    distances = np.array([2.0**-20, 2.0**-24], np.float32)
    expected = np.log(distances.astype(float)) - np.log1p(-distances.astype(float))
    for values, sign in ((distances, 1.0), (1 - distances, -1.0)):
        flat, _ = jax.vmap(lambda z: unconstrain(program, {"z": z}))(values)
        assert_allclose(flat[:, 0], sign * expected, rtol=1e-6)
    assert_array_equal(unconstrain(program, {"z": 1.0})[0], [np.inf])


def uniforms():
    numpyro.sample("a", dist.Uniform(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("cells", 3):
        numpyro.sample("b", dist.Uniform(jnp.asarray(-1.0), 1.0))
    numpyro.sample("c", dist.Normal())
    numpyro.sample("d", dist.LogUniform(1.0, 2.0))
    numpyro.sample("e", dist.TruncatedNormal(low=0.0, high=1.0))
    numpyro.sample("f", dist.Uniform(0.0, 1.0).mask(False))
    numpyro.sample("g", dist.Beta(1.0, 1.0))


def test_uniform_priors_are_known(rng_key):
    program = read(rng_key, uniforms, {"c": AtLeast(0.0)}, (), {})
    found = is_uniform(program)
    assert found.dtype == bool
    assert_array_equal(found, [1, 1, 1, 1, 1, 0, 0, 0, 1, 0])
    # Uniform in what the map makes of them: mean 1/2, standard error 0.009.
    draws = jax.jit(lambda key: draw_prior(key, program, 1000, (), {}))(rng_key)
    flat, _ = jax.jit(jax.vmap(lambda latents: unconstrain(program, latents)))(draws)
    place = jax.nn.sigmoid(flat[:, found])
    assert_allclose(place.mean(0), np.full(6, 0.5), atol=0.05)
    assert_allclose(place.std(0), np.full(6, 12**-0.5), atol=0.03)
