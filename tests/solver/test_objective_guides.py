"""The augmented Lagrangian of guides that come with NumPyro."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.infer.autoguide import AutoBNAFNormal, AutoIAFNormal, AutoMultivariateNormal

from numpyro_dsn import MaxEntropyELBO, behavior
from numpyro_dsn.constraints import Moments

pytestmark = pytest.mark.usefixtures("quick_compilation")


def box_model():
    z = numpyro.sample("z", dist.Uniform(jnp.zeros(2), 1.0).to_event(1))
    behavior("f", z, Moments(np.full(2, 0.3)))


GUIDES = {
    "AutoMultivariateNormal": lambda model: AutoMultivariateNormal(model),
    "AutoIAFNormal": lambda model: AutoIAFNormal(model, num_flows=1, hidden_dims=[4]),
    "AutoBNAFNormal": lambda model: AutoBNAFNormal(model, num_flows=1, hidden_factors=[4]),
}


@pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES)
@jax.numpy_rank_promotion("allow")  # which the block networks of NumPyro need
def test_guides_of_numpyro_have_a_gradient_that_descends(make, rng_key):
    guide = make(handlers.block(box_model, hide=["f"]))
    trace = handlers.trace(handlers.seed(guide, rng_key)).get_trace()
    params = {name: site["value"] for name, site in trace.items() if site["type"] == "param"}
    loss = MaxEntropyELBO(jnp.ones(2), 1.0, num_particles=20)
    value_and_grad = jax.jit(jax.value_and_grad(lambda p: loss.loss(rng_key, p, box_model, guide)))
    value, gradient = value_and_grad(params)
    square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
    assert jnp.isfinite(value)
    assert 0 < square < jnp.inf
    # A step of 1e-3 against the gradient lowers the loss of the same draws by 1e-3 |gradient|^2.
    step = 1e-3 / jnp.maximum(square, 1)
    lower, _ = value_and_grad(jax.tree.map(lambda p, g: p - step * g, params, gradient))
    assert_allclose(value - lower, step * square, rtol=0.1)
