"""The dual Newton method with guides of NumPyro's own, and with many latents."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from closed_forms import box
from newton_fits import QUICK, quick_dsn, run_quietly
from numpyro.infer.autoguide import AutoDiagonalNormal

from numpyro_dsn import DSN, DualNewton
from numpyro_dsn.constraints import AtLeast, Moments
from numpyro_dsn.solver.gradients import MAX_BY_WEIGHTS


@pytest.mark.parametrize("constraint", [Moments(1.3), AtLeast(1.3)], ids=["equal", "at least"])
def test_a_coarse_flow_meets_the_constraints(constraint):
    """Two modes and a normal guide, 0.05 nats from the optimum, which it will never come near.

    An inequality is met at its bound, and no further inside: that would cost entropy.
    """

    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        # Noise, if there were any, would not let the circuit say which draws are too many.
        numpyro.deterministic("f", jnp.abs(z) + 0 * jax.random.normal(numpyro.prng_key()))

    guide = AutoDiagonalNormal(model, init_scale=1.0)
    dsn = quick_dsn(model, {"f": constraint}, guide, num_steps=200)
    epochs = run_quietly(dsn, num_epochs=12).history.epochs
    last = epochs.violation if constraint.bounds()[1] < 2 else (epochs.mean - 1.3) / epochs.scale
    assert np.asarray(epochs.gap)[-1] > 0.6 * QUICK.gap_tolerance
    # Six epochs of a thousand effective draws each; a violation of 0.05 is that of no offset.
    assert abs(np.asarray(last)[-6:].mean()) < 2 / np.sqrt(6 * 1000)


def plane():
    numpyro.sample("z", box(-1.0, 1.0, 2))


def noisy_plane():
    z = numpyro.sample("z", box(-1.0, 1.0, 2))
    numpyro.deterministic("x", z[0] + jax.random.normal(numpyro.prng_key()))


def many(dim=4000):
    numpyro.sample("z", box(-1.0, 1.0, dim))


@pytest.mark.parametrize(
    ("model", "asked", "expected"),
    [
        (plane, {"z": Moments(np.zeros(2))}, (8, 16_384)),
        (noisy_plane, {"x": Moments(0.0)}, (8, 8192)),
        (many, {"z": Moments(np.zeros(4000))}, (4, 8000)),
    ],
    ids=["default", "stochastic", "many latents"],
)
def test_draws_of_an_epoch(model, asked, expected):
    dsn = DSN(model, asked, AutoDiagonalNormal(model))
    dsn._set_up((), {})
    state = dsn.method.template(dsn._fit.problem)
    assert state.pool.log_share.shape == expected


def test_many_latents_follow_gradients():
    """A normal prior and the mean of the squared length: exact entropy and natural parameter."""
    dim = MAX_BY_WEIGHTS + 1

    def isotropic():
        z = numpyro.sample("z", dist.Normal(np.zeros(dim), 1.0).to_event(1))
        numpyro.deterministic("square", (z**2).sum())

    guide = AutoDiagonalNormal(isotropic, init_scale=1.0)
    asked = {"square": Moments(dim / 2)}
    dsn = quick_dsn(isotropic, asked, guide, num_particles=100, num_steps=200)
    result = run_quietly(dsn, num_epochs=10)
    assert dsn._fit.problem.follows_gradients
    # Eight rounds of 25 steps, each with 4,096 fresh draws, and the draws of the epoch.
    assert np.all(result.history.epochs.num_simulations[1:] == QUICK.num_draws + 8 * (2500 + 4096))
    measured = result.measured
    exact = dim / 2 * np.log(np.pi * np.e)
    # eta = -1/2 for each unit of T, whose violation is worth as much entropy.
    worth = 0.5 * abs(float(measured.violation[0] * measured.scale[0]))
    assert abs(result.entropy - exact) < QUICK.gap_tolerance + worth + 3 * measured.entropy_se
    (eta,) = result.certificate.natural_parameters.values()
    np.testing.assert_allclose(eta, -0.5, rtol=0.05)


def test_draws_of_a_slightly_noisy_simulator_are_rejected_by_means_over_runs():
    """A quarter is kept, and what is kept has the mean that was measured."""
    dim = MAX_BY_WEIGHTS + 1

    def isotropic():
        z = numpyro.sample("z", dist.Normal(np.zeros(dim), 1.0).to_event(1))
        noise = 0.1 * jax.random.normal(numpyro.prng_key())
        numpyro.deterministic("square", (z**2).sum() + noise)

    guide = AutoDiagonalNormal(isotropic, init_scale=1.0)
    asked = {"square": Moments(dim / 2)}
    dsn = quick_dsn(isotropic, asked, guide, num_particles=50, num_steps=50)
    result = run_quietly(dsn, num_epochs=1)
    assert abs(float(result.measured.acceptance) - 0.25) < 0.01
    square = np.asarray(result.sample(jax.random.key(1), 4000)["square"])
    assert abs(square.mean() - float(result.measured.mean[0])) < 4 * np.hypot(
        square.std() / np.sqrt(len(square)), float(result.measured.mean_se[0])
    )


def without_inverse(params, flat):
    raise NotImplementedError


def test_a_flow_without_density_is_refused():
    flow = SimpleNamespace(dim=1, log_prob=without_inverse)
    with pytest.raises(ValueError, match="no inverse.*PenaltyMethod"):
        DualNewton().require(flow, {})
    known = SimpleNamespace(dim=1, log_prob=lambda params, flat: flat[:, 0])
    DualNewton().require(known, {})
