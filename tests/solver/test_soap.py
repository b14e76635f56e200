"""SOAP: Adam where no matrix is, Adam between eigenvectors where one is."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.optim
import pytest
from numpy.testing import assert_allclose

from numpyro_dsn import SOAP
from numpyro_dsn.solver import soap


def minimize(optim, loss, params, num_steps):
    def step(state, _):
        return optim.update(jax.grad(loss)(optim.get_params(state)), state), None

    run = jax.jit(lambda params: jax.lax.scan(step, optim.init(params), None, num_steps)[0])
    return optim.get_params(run(params))


def regression(rng, turn=None):
    """Return the loss of a linear regression whose inputs' scales span two decades."""
    inputs = rng.normal(size=(300, 8)) * np.logspace(0, -2, 8)
    weights = rng.normal(size=(8, 3))
    targets = inputs @ weights
    rotated = inputs if turn is None else inputs @ turn
    return lambda params: jnp.mean((rotated @ params["weight"] - targets) ** 2)


def test_vectors_are_left_to_adam():
    params = {"bias": jnp.linspace(-1.0, 1.0, 5)}

    def loss(params):
        return jnp.sum(jnp.arange(1.0, 6) * params["bias"] ** 2)

    adam = numpyro.optim.Adam(0.01, b1=soap.MEAN_DECAY, b2=soap.SQUARE_DECAY)
    expected = minimize(adam, loss, params, 30)
    assert_allclose(minimize(SOAP(0.01), loss, params, 30)["bias"], expected["bias"], rtol=1e-4)


def test_ill_conditioned_matrix(rng):
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    loss, start = regression(rng, turn), {"weight": jnp.zeros((8, 3))}
    losses = [
        loss(minimize(optim(lambda step: 0.03 / (1 + step / 200)), loss, start, 600))
        for optim in (SOAP, numpyro.optim.Adam)
    ]
    assert losses[0] < 0.1 * losses[1]


def test_bases_are_eigenvectors(rng):
    optim, gradient = SOAP(0.0), {"weight": jnp.asarray(rng.normal(size=(2, 4, 3)))}

    def step(state, _):
        return optim.update(gradient, state), None

    many = 30 * soap.INTERVAL
    state = jax.jit(lambda start: jax.lax.scan(step, start, None, many)[0])(optim.init(gradient))
    leaf = state[1][1][0]
    for side, size in enumerate((4, 3)):
        basis, moments = np.asarray(leaf.bases[side]), np.asarray(leaf.moments[side])
        turned = basis.swapaxes(1, 2) @ moments @ basis
        diagonal = np.diagonal(turned, axis1=1, axis2=2)
        assert_allclose(basis.swapaxes(1, 2) @ basis, [np.eye(size)] * 2, atol=1e-5)
        assert_allclose(turned, diagonal[:, None] * np.eye(size), atol=1e-4 * turned.max())
        assert_allclose(diagonal.sum(-1), np.trace(moments, axis1=1, axis2=2), rtol=1e-4)


@pytest.mark.parametrize(
    "shape", [(), (3,), (1, 4), (soap.MAX_SIZE + 1, 2), (2, 3, 4), (2, 2, 3, 4)]
)
def test_any_shape_moves_against_its_gradient(shape, rng):
    start, optim = {"x": jnp.asarray(rng.normal(size=shape))}, SOAP(0.01)

    def loss(params):
        return 0.5 * jnp.sum(params["x"] ** 2)

    end = minimize(optim, loss, start, 40)
    assert end["x"].shape == shape
    assert loss(end) < loss(start)


def test_function_and_number_as_step_size(rng):
    loss, start = regression(rng), {"weight": jnp.zeros((8, 3))}
    ends = [minimize(SOAP(rate), loss, start, 20) for rate in (0.01, lambda step: 0.01)]
    assert_allclose(ends[0]["weight"], ends[1]["weight"])


MANY_MATRICES = """
import jax
from numpyro_dsn import SOAP
optim, keys = SOAP(0.01), jax.random.split(jax.random.key(0), 16)
start = [jax.random.normal(key, (6, 100, 100)) for key in keys]
step = lambda state, _: (optim.update(optim.get_params(state), state), None)
run = jax.jit(lambda start: jax.lax.scan(step, optim.init(start), None, 11)[0])
jax.block_until_ready(run(start))
"""


def test_decompositions_do_not_wait_for_each_other():
    """With batches of them, all threads of two cores wait within a second, forever."""
    subprocess.run([sys.executable, "-c", MANY_MATRICES], check=True, timeout=300)
