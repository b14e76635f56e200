"""The network of rank two: theory against networks, and an error of the published equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import rnn_network
from models.rnn_context import STD, G, Loadings, State, drive, settle

LOADINGS = Loadings(rho_m=1.5, rho_n=2.0, beta_m=1.4, beta_n=1.0)
STIMULI, CONTEXTS = np.array([1.0, 0.2]), np.array([0.5, -0.3])


def network(seed, size=2000):
    """Return overlaps and variance of a network whose vectors are orthonormal."""
    rng = np.random.default_rng(seed)
    normal = np.linalg.qr(rng.standard_normal((size, 7)))[0] * np.sqrt(size)
    y, stimulus, context, w = normal[:, :2], normal[:, 2:4], normal[:, 4:6], normal[:, 6:]
    y, stimulus = STD * y, STD * stimulus
    m = y + LOADINGS.rho_m * context + LOADINGS.beta_m * w
    n = stimulus + LOADINGS.rho_n * context + LOADINGS.beta_n * w
    done = rnn_network.run(rng, G, m, n, stimulus @ STIMULI + context @ CONTEXTS)
    return np.array([*done.overlaps, done.static])


@pytest.fixture(scope="module")
def networks():
    return np.array([network(seed) for seed in range(3)])


def theory():
    loadings = Loadings(*(jnp.asarray(value) for value in LOADINGS))
    state = settle(loadings, jnp.asarray(STIMULI), jnp.asarray(CONTEXTS))
    return np.array([*state.overlaps, state.variance])


@pytest.mark.slow
def test_networks_do_what_theory_says(networks):
    """Two thousand neurons: what differs between networks, and three per cent."""
    expected = theory()
    errors = networks.std(0, ddof=1) / np.sqrt(3)
    assert np.all(np.abs(networks.mean(0) - expected) < 4 * errors + 0.03 * np.abs(expected))


@pytest.mark.slow
def test_both_parts_share_the_readout(networks):
    """The published variance, without it, is many errors off that of networks."""
    kappa1, kappa2 = networks.mean(0)[:2]
    left_out = 2 * LOADINGS.beta_m**2 * kappa1 * kappa2
    error = networks[:, 2].std(ddof=1) / np.sqrt(3)
    assert left_out > 8 * error
    loadings = Loadings(*(jnp.asarray(value) for value in LOADINGS))
    state = State(jnp.asarray([kappa1, kappa2]), jnp.asarray(networks.mean(0)[2]))
    found = drive(state, loadings, jnp.asarray(STIMULI), jnp.asarray(CONTEXTS)).variance
    assert abs(found - state.variance) < 2 * error


def test_a_settled_state_brings_itself_forth():
    loadings = Loadings(*(jnp.asarray(value) for value in LOADINGS))
    inputs = jnp.asarray(STIMULI), jnp.asarray(CONTEXTS)
    state = settle(loadings, *inputs)
    again = drive(state, loadings, *inputs)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-3)
