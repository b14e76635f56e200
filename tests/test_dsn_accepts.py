"""What a DSN accepts: guides, optimizers, models with noise, arguments and inequalities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers
from numpyro.infer.autoguide import (
    AutoBNAFNormal,
    AutoDelta,
    AutoIAFNormal,
    AutoMultivariateNormal,
)
from small_fits import (
    FAR,
    NUM_DRAWS,
    draw_parameters,
    gaussian,
    leaves,
    make_dsn,
)

from numpyro_dsn import DSN, PenaltyMethod, simulator
from numpyro_dsn.constraints import AtLeast, AtMost, Between
from numpyro_dsn.guides import AutoRealNVP

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:The fit has not converged:numpyro_dsn.DSNWarning"),
]


def test_double_precision():
    with jax.enable_x64(True):
        fit = make_dsn().run(jax.random.key(0), num_epochs=1)
        draws = fit.sample(jax.random.key(1), 10)
        density = fit.log_prob(draws)
    floats = [leaf for leaf in leaves(fit.history) if leaf.dtype.kind == "f"]
    assert {leaf.dtype for leaf in [*floats, *leaves(fit.params)]} == {np.dtype(np.float64)}
    assert draws["z"].dtype == density.dtype == jnp.float64
    assert np.all(np.isfinite(density))


@pytest.mark.parametrize(
    ("guide", "optim"),
    [
        (partial(AutoMultivariateNormal), optax.adam(1e-2)),
        (partial(AutoIAFNormal, num_flows=1, hidden_dims=[4]), numpyro.optim.SGD(1e-2)),
        (partial(AutoBNAFNormal, num_flows=1, hidden_factors=[2]), None),
    ],
    ids=["multivariate-normal-optax", "iaf-sgd", "bnaf-default"],
)
@pytest.mark.usefixtures("numpyro_ranks")
def test_guides_and_optimizers(guide, optim):
    dsn = make_dsn(guide=guide, optim=optim, num_steps=2)
    fit = dsn.run(jax.random.key(0), num_epochs=1)
    start = dsn.get_params(dsn.init(jax.random.key(0)))
    moved = [not np.array_equal(start[name], fit.params[name]) for name in start]
    assert any(moved)
    assert np.isfinite(fit.entropy)
    assert fit.history.epochs.skipped[1] == 0
    draws, log_q, _ = fit.draw_chain(jax.random.key(1), 0, 100)
    assert draws["z"].shape == (100, 2)
    if guide.func is AutoBNAFNormal:
        with pytest.raises(NotImplementedError):
            fit.log_prob(draws)
    else:
        np.testing.assert_allclose(fit.log_prob(draws), log_q, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("optim", ["adam", numpyro.optim.Adam, 1e-3, optax.adam])
def test_wrong_optimizer(optim):
    with pytest.raises(TypeError, match="`optim` must be a NumPyro or optax optimizer"):
        make_dsn(optim=optim)


@pytest.mark.parametrize(
    "guide", [lambda model: AutoRealNVP, lambda model: model, AutoDelta], ids=["class", "f", "map"]
)
def test_wrong_guide(guide):
    with pytest.raises(TypeError, match="`guide` must be a continuous AutoGuide"):
        make_dsn(guide=guide).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "value"), [("num_particles", 1), ("num_steps", 0), ("num_chains", 0)]
)
def test_bad_counts(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be at least {value + 1}, but is {value}"):
        make_dsn(**{name: value})


def noisy_circuit():
    """Unit noise from a key, and Poisson and normal noise from sites."""
    z = draw_parameters()
    jitter = numpyro.deterministic("jitter", jax.random.normal(numpyro.prng_key()))
    with simulator():
        current = numpyro.sample("current", dist.Normal(z[0], 2.0))
        spikes = numpyro.sample("spikes", dist.Poisson(3.0))
    numpyro.deterministic("total", z.sum() + jitter + current + spikes)


def hide(*names):
    return lambda model: gaussian(handlers.block(model, hide=names))


@pytest.mark.parametrize(
    ("guide", "seen"),
    [
        (gaussian, r"\['current', 'spikes', 'z'\]"),
        (hide("spikes"), r"\['current', 'z'\]"),
        (hide("current"), r"\['spikes', 'z'\]"),
        (hide("current", "spikes", "z"), r"\[\]"),
    ],
)
def test_guide_with_other_latents_than_the_model(guide, seen):
    with pytest.raises(ValueError, match=rf"latent sites {seen} but the model has \['z'\]; noise"):
        make_dsn(noisy_circuit, guide=guide).init(jax.random.key(0))


@pytest.fixture(scope="module")
def noisy_fit():
    """At a learning rate of zero epochs differ by their draws and their noise alone."""
    guide = hide("current", "spikes")
    dsn = make_dsn(noisy_circuit, guide=guide, optim=numpyro.optim.SGD(0.0))
    return dsn.run(jax.random.key(0), num_epochs=2)


def test_simulator_noise_is_fresh_in_every_draw(noisy_fit, rng_key):
    assert list(noisy_fit.fit.program.latents) == ["z"]
    size = 4000
    draws = noisy_fit.sample(rng_key, size)
    # Value, mean, variance, fourth central moment.
    noises = {
        "jitter": (draws["jitter"], 0, 1, 3),
        "current": (draws["current"] - draws["z"][:, 0], 0, 4, 48),
        "spikes": (draws["spikes"], 3, 3, 3 + 3 * 9),
    }
    for name, (noise, mean, variance, fourth) in noises.items():
        assert abs(noise.mean() - mean) < 4 * np.sqrt(variance / size), name
        assert abs(noise.var() - variance) < 4 * np.sqrt((fourth - variance**2) / size), name
        assert abs(np.corrcoef(noise, draws["z"][:, 1])[0, 1]) < 4 / np.sqrt(size), name


def test_simulator_noise_is_fresh_in_every_epoch(noisy_fit):
    means = noisy_fit.history.epochs.mean[:, 0, 0]
    assert len(set(means)) == 3
    # Each coordinate of z has variance v, and the first counts twice.
    u = np.random.default_rng(0).normal(size=100_000)
    v = (4 / (1 + np.exp(-u)) - 2).var()
    assert np.all(np.abs(means - 3) < 4 * np.sqrt((5 * v + 1 + 4 + 3) / NUM_DRAWS))


def test_model_arguments():
    traces = []

    def scaled(weights, *, shift=0.0):
        traces.append(None)
        numpyro.deterministic("total", jnp.dot(weights, draw_parameters()) + shift)

    dsn = DSN(
        scaled,
        FAR,
        gaussian(scaled),
        method=PenaltyMethod(num_batches=10),
        num_particles=50,
    )
    weights = jnp.array([1.0, 2.0])
    first = dsn.init(jax.random.key(0), weights).history.epochs.mean[0, 0, 0]
    num_traces = len(traces)
    again = dsn.init(jax.random.key(0), jnp.array([1.0, 2.0])).history.epochs.mean[0, 0, 0]
    assert len(traces) == num_traces  # equal arguments
    assert again == first
    shifted = dsn.run(jax.random.key(0), weights, shift=5.0, num_epochs=0)
    assert len(traces) > num_traces
    np.testing.assert_allclose(shifted.history.epochs.mean[0, 0, 0], first + 5, rtol=1e-5)


def test_inequalities(capsys):
    asked = {"a": AtLeast(1.5), "b": AtMost(-1.5), "c": Between(-1.0, 1.0), "d": AtLeast(-1.9)}

    def parts():
        z = draw_parameters()
        for index, name in enumerate(asked):
            numpyro.deterministic(name, z[index % 2])

    fit = make_dsn(parts, asked).run(jax.random.key(0), num_epochs=1)
    epochs = fit.history.epochs
    below, above, inside, far_inside = epochs.violation[1, 0]
    # The mean is still near 0: the first is too low, the second too high, the others are met.
    assert below < 0 < above
    assert inside == far_inside == 0
    np.testing.assert_allclose(
        epochs.violation[1, 0, :2] * epochs.scale[1, 0, :2],
        epochs.mean[1, 0, :2] - np.array([1.5, -1.5]),
        rtol=1e-4,
    )
    # Pushed up, pushed down, and left alone.
    assert fit.multipliers["mean[a]"] < 0 < fit.multipliers["mean[b]"]
    assert fit.multipliers["mean[c]"] == fit.multipliers["mean[d]"] == 0
    fit.print_summary()
    out = capsys.readouterr().out
    assert all(target in out for target in (">= 1.5", "<= -1.5", "[-1, 1]", ">= -1.9"))
