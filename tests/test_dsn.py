"""Runs: reproducible, continuable, interruptible, and frank about how they ended."""

import warnings
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
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoMultivariateNormal,
)
from numpyro.infer.initialization import init_to_value
from scipy.special import logit
from scipy.stats import norm

from numpyro_dsn import DSN, DSNWarning, PenaltyMethod, Status, simulator
from numpyro_dsn.constraints import AtLeast, AtMost, Between, Moments
from numpyro_dsn.guides import AutoRealNVP

pytestmark = pytest.mark.filterwarnings("ignore:The fit has not converged:numpyro_dsn.DSNWarning")

NUM_DRAWS = 500
"""Draws that measure an epoch: 10 batches of 50."""

MEASURED = ("entropy", "kl_to_prior", "mean", "mean_se", "scale", "violation", "multipliers")

FAR = {"total": Moments(1.0, std=0.5)}


def draw_parameters():
    return numpyro.sample("z", dist.Uniform(-2 * jnp.ones(2), 2.0).to_event(1))


def circuit():
    numpyro.deterministic("total", draw_parameters().sum())


def gaussian(model):
    """A guide that compiles fast; u ~ N(0, 1) in unconstrained space."""
    center = init_to_value(values={"z": jnp.zeros(2)})
    return AutoDiagonalNormal(model, init_loc_fn=center, init_scale=1.0)


def make_dsn(model=circuit, asked=FAR, guide=gaussian, **settings):
    settings = {
        "multipliers": PenaltyMethod(num_batches=10),
        "num_particles": NUM_DRAWS // 10,
        "num_steps": 20,
    } | settings
    return DSN(model, asked, guide(model), **settings)


def leaves(tree):
    def to_numpy(leaf):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [to_numpy(leaf) for leaf in jax.tree.leaves(tree)]


def are_identical(one, other):
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


@pytest.fixture(scope="module", autouse=True)
def _compile_fast():
    """Compiling takes far longer than these small programs run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def dsn():
    return make_dsn()


@pytest.fixture(scope="module")
def whole(dsn):
    """Three epochs in one go."""
    with pytest.warns(DSNWarning, match="not met yet"):
        return dsn.run(jax.random.key(0), num_epochs=3)


def test_same_key_gives_same_result_bit_for_bit(dsn, whole):
    again = dsn.run(jax.random.key(0), num_epochs=3)
    assert are_identical(whole.state, again.state)
    assert are_identical(whole.params, again.params)


def test_other_key_gives_other_result(dsn, whole):
    other = dsn.run(jax.random.key(1), num_epochs=3)
    assert not are_identical(whole.params, other.params)
    assert not are_identical(whole.history.epochs.entropy, other.history.epochs.entropy)


def test_init_state_continues_exactly(dsn, whole):
    first = dsn.run(jax.random.key(0), num_epochs=1)
    assert len(first.history.epochs.entropy) == 2
    continued = dsn.run(jax.random.key(99), num_epochs=2, init_state=first.state)
    assert are_identical(continued.state, whole.state)
    assert are_identical(continued.params, whole.params)
    assert np.array_equal(continued.epochs, whole.epochs)


def test_init_and_update_are_what_run_does(dsn, whole):
    state = dsn.init(jax.random.key(0))
    for _ in range(3):
        state = dsn.update(state)
    assert are_identical(state, whole.state)
    assert are_identical(dsn.get_params(state), whole.params)


def test_file_continues_exactly_in_a_new_dsn(dsn, whole, tmp_path):
    dsn.run(jax.random.key(0), num_epochs=1).save(tmp_path / "fit.npz")
    new = make_dsn()
    loaded = new.load(tmp_path / "fit.npz")
    continued = new.run(jax.random.key(99), num_epochs=2, init_state=loaded.state)
    assert are_identical(continued.state, whole.state)
    assert are_identical(continued.params, whole.params)


def test_epoch_is_traced_once(dsn, whole, tmp_path):
    whole.save(tmp_path / "fit.npz")
    loaded = dsn.load(tmp_path / "fit.npz")
    dsn.run(jax.random.key(5), num_epochs=2)
    dsn.run(jax.random.key(5), num_epochs=1, init_state=loaded.state)
    assert dsn._start._cache_size() == 1
    assert dsn._epoch._cache_size() == 1


def test_raw_and_typed_keys_give_the_same_result(dsn, whole, tmp_path):
    raw = jax.random.key_data(jax.random.key(0))
    assert raw.dtype == jnp.uint32
    other = make_dsn()
    fit = other.run(raw, num_epochs=3)
    assert are_identical(fit.state, whole.state)
    fit.save(tmp_path / "fit.npz")
    assert are_identical(dsn.load(tmp_path / "fit.npz").state, whole.state)


def test_trace_counts_steps_across_epochs(whole):
    steps = np.asarray(whole.history.trace.step)
    assert np.all(np.diff(steps, axis=0) > 0)
    assert steps[-1] == 3 * 20
    assert whole.history.trace.mean.shape == (len(steps), 1, 2)


def test_not_converged_is_said(whole):
    # The mean of `total` is asked to be at 1; the start is at 0 and the steps are few.
    assert whole.status is Status.NOT_CONVERGED
    assert not whole.history.epochs.converged.any()
    assert whole.epochs == [3]


# Chains ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def easy():
    """What is asked holds at the start, and a strict test accepts an epoch or not by chance."""
    return make_dsn(
        asked={"total": Moments(0.0)},
        optim=numpyro.optim.Adam(0.05),
        multipliers=PenaltyMethod(num_batches=10, significance=0.7),
        num_chains=3,
        num_steps=10,
    )


@pytest.fixture(scope="module")
def easy_fit(easy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to warn of
        return easy.run(jax.random.key(2), num_epochs=4)


def test_chains_differ(easy, easy_fit):
    entropy = easy_fit.history.epochs.entropy
    assert entropy.shape == (5, 3)
    assert all(len(set(row)) == 3 for row in entropy)
    params = easy.get_params(easy_fit.state)
    assert all(len(np.unique(leaf, axis=0)) == 3 for leaf in params.values())


def test_chains_do_not_depend_on_each_other(easy, easy_fit):
    order = np.array([2, 0, 1])
    state = easy_fit.state
    shuffled = state._replace(chains=jax.tree.map(lambda leaf: leaf[order], state.chains))
    expected = jax.tree.map(lambda leaf: leaf[order], easy.update(state).chains)
    assert are_identical(easy.update(shuffled).chains, expected)


def test_highest_entropy_converged_epoch_and_chain_are_held(easy_fit):
    epochs = easy_fit.history.epochs
    assert easy_fit.status is Status.CONVERGED
    assert 2 <= epochs.converged[1:].sum() < epochs.converged[1:].size  # else nothing is shown
    entropy = np.where(epochs.converged, epochs.entropy, -np.inf)
    found = epochs.converged.any(0)
    assert np.array_equal(easy_fit.epochs[found], entropy.argmax(0)[found])
    assert np.all(easy_fit.epochs[~found] == 4)
    assert easy_fit.chain == entropy.max(0).argmax()
    assert easy_fit.entropy == entropy.max()


def test_held_parameters_are_those_of_the_held_epoch(easy, easy_fit):
    chain = easy_fit.chain
    state = easy.init(jax.random.key(2))
    for _ in range(easy_fit.epochs[chain]):
        state = easy.update(state)
    expected = jax.tree.map(lambda leaf: leaf[chain], easy.get_params(state))
    held = jax.tree.map(lambda leaf: leaf[chain], easy_fit.params)
    assert are_identical(held, expected)


def test_closest_chain_is_held_if_none_converged(easy):
    with pytest.warns(DSNWarning, match="not met yet"):
        start = easy.run(jax.random.key(3), num_epochs=0)
    assert start.status is Status.NOT_CONVERGED
    assert start.chain == np.abs(start.history.epochs.violation[0]).max(-1).argmin()


# How runs end ------------------------------------------------------------------------------------


def test_interrupt_returns_the_last_finished_epoch(dsn, whole, monkeypatch):
    update, calls = DSN.update, []

    def interrupted(self, state):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return update(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(DSN, "update", interrupted)
        with pytest.warns(DSNWarning, match="interrupted"):
            fit = dsn.run(jax.random.key(0), num_epochs=3)
    assert fit.status is Status.INTERRUPTED
    assert fit.epochs == [1]
    assert len(fit.history.epochs.entropy) == 2
    continued = dsn.run(jax.random.key(0), num_epochs=2, init_state=fit.state)
    assert are_identical(continued.state, whole.state)


def limited_circuit(limit):
    z = draw_parameters()
    numpyro.deterministic("total", jnp.where(z[0] > limit, jnp.nan, z.sum()))


def share_above(limit):
    """Share of the start of `gaussian` with z[0] above a limit."""
    return norm.sf(logit((limit + 2) / 4))


def test_run_stops_when_most_draws_are_nan(monkeypatch, capsys):
    limit = -1.0
    with pytest.warns(DSNWarning, match="More than half of the draws"):
        fit = make_dsn(limited_circuit).run(jax.random.key(0), limit, num_epochs=2)
    assert share_above(limit) > 0.5
    assert fit.status is Status.NONFINITE
    assert len(fit.history.epochs.entropy) == 1  # not a single epoch was paid for
    fit.print_summary()
    assert "NONFINITE: More than half" in capsys.readouterr().out


def test_nan_draws_are_counted_and_shown(monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    limit = 1.0
    fit = make_dsn(limited_circuit).run(jax.random.key(0), limit, num_epochs=1)
    share = share_above(limit)
    start, last = fit.history.epochs.nonfinite[:, 0]
    assert abs(start - share) < 4 * np.sqrt(share * (1 - share) / NUM_DRAWS)
    assert last > 0
    assert all(np.all(np.isfinite(getattr(fit.history.epochs, field))) for field in MEASURED)
    assert fit.history.epochs.skipped[1] == 0  # finite draws still give a gradient
    fit.print_summary()
    shown = capsys.readouterr()
    assert f"{last:.2%} of draws have NaN" in shown.out
    assert f"non-finite {last:.1%}" in shown.err


def test_divergence_is_said(capsys):
    dsn = make_dsn(optim=numpyro.optim.Adam(1e30))
    with pytest.warns(DSNWarning, match="became NaN; lower the learning rate"):
        fit = dsn.run(jax.random.key(0), num_epochs=3)
    assert fit.status is Status.DIVERGED
    assert len(fit.history.epochs.entropy) == 2  # stopped after the first epoch
    skipped = fit.history.epochs.skipped[1, 0]
    assert skipped > 0.5
    fit.print_summary()
    assert f"{skipped:.2%} of steps left out" in capsys.readouterr().out


def test_progress_shows_entropy_and_violation(dsn, whole, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    dsn.run(jax.random.key(0), num_epochs=3)
    shown = capsys.readouterr().err
    for epoch in (0, 3):
        entropy = whole.history.epochs.entropy[epoch, 0]
        violation = np.abs(whole.history.epochs.violation[epoch]).max()
        assert f"entropy {entropy:.3f}, violation {violation:.3f} sd" in shown
    assert "3/3" in shown
    assert "non-finite" not in shown


@pytest.mark.parametrize(("in_ci", "progress_bar"), [(True, True), (False, False)])
def test_progress_is_silent_on_request_and_in_ci(dsn, in_ci, progress_bar, monkeypatch, capsys):
    monkeypatch.delenv("CI", raising=False)
    if in_ci:
        monkeypatch.setenv("CI", "true")
    dsn.run(jax.random.key(0), num_epochs=1, progress_bar=progress_bar)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


# What is accepted --------------------------------------------------------------------------------


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
    draws, densities = fit.draw_chain(jax.random.key(1), 0, 100)
    assert draws["z"].shape == (100, 2)
    if guide.func is AutoBNAFNormal:
        with pytest.raises(NotImplementedError):
            fit.log_prob(draws)
    else:
        np.testing.assert_allclose(fit.log_prob(draws), densities["log_q"], rtol=1e-3, atol=1e-3)


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
        multipliers=PenaltyMethod(num_batches=10),
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
