"""The fit of many latents by gradients of their draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose
from numpyro import handlers
from numpyro.infer.util import transform_fn

from numpyro_dsn import DSN, DualNewton, Status, behavior
from numpyro_dsn.constraints import Moments
from numpyro_dsn.flow import build_flow, set_up_guide
from numpyro_dsn.gradients import MAX_BY_WEIGHTS
from numpyro_dsn.guides import AutoRealNVP
from numpyro_dsn.path_loss import path_loss
from numpyro_dsn.program import read

DIM, NUM_PARTICLES = MAX_BY_WEIGHTS + 1, 500


def isotropic(dim=DIM):
    numpyro.sample("z", dist.Normal(np.zeros(dim), 1.0).to_event(1))


def half(sites):
    """Variance 1/2 in every dimension: the normal prior tilted by eta = -1/2."""
    z = sites["z"]
    behavior("square", (z**2).sum(), Moments(z.size / 2))


@pytest.fixture(scope="module")
def gradient():
    """The loss's gradient at N(loc, std^2) in each dimension, on its way to a variance of 1/2."""
    program = read(jax.random.key(0), isotropic, half, (), {})
    guide = AutoRealNVP(program.guide_model, num_layers=0)
    transforms = set_up_guide(guide, program, (), {})
    trace = handlers.trace(handlers.seed(guide, jax.random.key(0))).get_trace()
    constrained = {name: trace[name]["value"] for name in transforms}
    flow = build_flow(program, guide, partial(transform_fn, transforms), 1, (), {})
    target, unit = jnp.array([DIM / 2]), jnp.array([3.0])
    loss = path_loss(flow, -0.5 * unit, target, unit, NUM_PARTICLES)

    @jax.jit
    def gradient(loc, std):
        def of(moved):
            params = transform_fn(transforms, constrained | moved, invert=True)
            return loss(jax.random.key(1), params)

        moved = {"auto_loc": jnp.full(DIM, loc), "auto_scale": jnp.full(DIM, std)}
        return jax.grad(of)(constrained | moved)

    return gradient


def test_at_the_optimum_there_is_no_noise(gradient):
    assert_allclose(ravel_pytree(gradient(0.0, 0.5**0.5))[0], 0.0, atol=1e-4)


def test_gradient_is_that_of_the_divergence(gradient):
    """KL(N(m, s^2) || N(0, 1/2)) = m^2 + s^2 - log s + c in each dimension."""
    loc, std = 0.3, 0.9
    found = gradient(loc, std)
    slope = 2 - 1 / std**2  # of the score along the draws
    error = abs(slope) * std / NUM_PARTICLES**0.5
    assert_allclose(found["auto_loc"], 2 * loc, atol=4 * error)
    # Score times draw: u w with w ~ N(0, 1) and u = m + s w; its variance is m^2 + 2 s^2.
    error = (abs(slope) * 2**0.5 * std + 2 * loc) / NUM_PARTICLES**0.5
    assert_allclose(found["auto_scale"], 2 * std - 1 / std, atol=4 * error)


@pytest.mark.filterwarnings("ignore")
def test_many_latents():
    """A normal prior and the mean of the squared length: exact entropy and natural parameter."""
    method = DualNewton(num_first=2000, num_draws=8000, num_flows=2, tolerance=0.05)
    guide = AutoRealNVP(isotropic, num_layers=0)
    dsn = DSN(isotropic, half, guide, multipliers=method, num_particles=100, num_steps=200)
    result = dsn.run(jax.random.key(0), num_epochs=10, progress_bar=False)
    assert result.status is Status.CONVERGED
    exact = DIM / 2 * np.log(np.pi * np.e)
    error = 3 * float(result.measured.entropy_se)
    worth = abs(float(result.measured.violation[0])) * np.sqrt(DIM / 2) * 0.5  # |eta| sd(T)
    assert abs(result.entropy - exact) < method.gap_tolerance + worth + error
    (eta,) = result.certificate.natural_parameters.values()
    assert_allclose(eta, -0.5, rtol=0.03)
