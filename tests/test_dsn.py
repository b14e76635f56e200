"""Runs: reproducible, continuable, interruptible, and frank about how they ended."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from scipy.special import logit
from scipy.stats import norm
from small_fits import (
    NUM_DRAWS,
    are_identical,
    are_same_states,
    draw_parameters,
    make_dsn,
)

from numpyro_dsn import DSN, DSNWarning, PenaltyMethod, Status
from numpyro_dsn.constraints import Moments
from tests.benchmarks.compilations import compilations

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:The fit has not converged:numpyro_dsn.DSNWarning"),
]

MEASURED = ("entropy", "kl_to_prior", "mean", "mean_se", "scale", "violation", "multipliers")


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
    assert are_same_states(whole.state, again.state)
    assert are_identical(whole.params, again.params)


def test_other_key_gives_other_result(dsn, whole):
    other = dsn.run(jax.random.key(1), num_epochs=3)
    assert not are_identical(whole.params, other.params)
    assert not are_identical(whole.history.epochs.entropy, other.history.epochs.entropy)


def test_init_state_continues_exactly(dsn, whole):
    first = dsn.run(jax.random.key(0), num_epochs=1)
    assert len(first.history.epochs.entropy) == 2
    continued = dsn.run(jax.random.key(99), num_epochs=2, init_state=first.state)
    assert are_same_states(continued.state, whole.state)
    assert are_identical(continued.params, whole.params)
    assert np.array_equal(continued.epochs, whole.epochs)


def test_simulations_are_counted(whole):
    """Ten batches measure the start, and every epoch after its 20 steps."""
    epochs, seconds = whole.history.epochs, whole.history.seconds
    batch = NUM_DRAWS // 10
    assert np.array_equal(epochs.num_simulations[:, 0], [10 * batch] + 3 * [30 * batch])
    assert len(seconds) == 4
    assert np.all(seconds > 0)
    attrs = whole.to_inference_data(num_samples=10).attrs
    assert attrs["num_simulations"] == 100 * batch
    assert attrs["sampling_time"] == seconds.sum()


def test_init_and_update_are_what_run_does(dsn, whole):
    state = dsn.init(jax.random.key(0))
    for _ in range(3):
        state = dsn.update(state)
    assert are_same_states(state, whole.state)
    assert are_identical(dsn.get_params(state), whole.params)


def test_file_continues_exactly_in_a_new_dsn(dsn, whole, tmp_path):
    dsn.run(jax.random.key(0), num_epochs=1).save(tmp_path / "fit.npz")
    new = make_dsn()
    loaded = new.load(tmp_path / "fit.npz")
    continued = new.run(jax.random.key(99), num_epochs=2, init_state=loaded.state)
    assert are_same_states(continued.state, whole.state)
    assert are_identical(continued.params, whole.params)


def test_an_epoch_is_compiled_once(dsn, whole, tmp_path):
    whole.save(tmp_path / "fit.npz")
    loaded = dsn.load(tmp_path / "fit.npz")
    with compilations() as compiled:
        dsn.run(jax.random.key(5), num_epochs=2)
        dsn.run(jax.random.key(5), num_epochs=1, init_state=loaded.state)
        assert not [name for name in compiled if "epoch" in name or "start" in name]
        # Which a new DSN shows under these names.
        make_dsn(num_steps=1).run(jax.random.key(5), num_epochs=1)
    assert sorted(name for name in compiled if "epoch" in name or "start" in name) != []


def test_raw_and_typed_keys_give_the_same_result(dsn, whole, tmp_path):
    raw = jax.random.key_data(jax.random.key(0))
    assert raw.dtype == jnp.uint32
    other = make_dsn()
    fit = other.run(raw, num_epochs=3)
    assert are_same_states(fit.state, whole.state)
    fit.save(tmp_path / "fit.npz")
    assert are_same_states(dsn.load(tmp_path / "fit.npz").state, whole.state)


def test_records_count_steps_across_epochs(whole):
    steps = np.asarray(whole.history.steps.step)
    assert np.all(np.diff(steps, axis=0) > 0)
    assert steps[-1] == 3 * 20
    assert whole.history.steps.mean.shape == (len(steps), 1, 2)


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
        method=PenaltyMethod(num_batches=10, significance=0.7),
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
    state = easy_fit.state
    shuffled = state._replace(chains=tuple(state.chains[index] for index in (2, 0, 1)))
    one, two, three = easy.update(state).chains
    assert are_identical(easy.update(shuffled).chains, (three, one, two))


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
    assert are_same_states(continued.state, whole.state)


def limited_circuit(limit):
    z = draw_parameters()
    numpyro.deterministic("total", jnp.where(z[0] > limit, jnp.nan, z.sum()))


def share_above(limit):
    """Share of the start of `gaussian` with z[0] above a limit."""
    return norm.sf(logit((limit + 2) / 4))


def test_run_stops_when_nearly_all_draws_are_nan(monkeypatch, capsys):
    limit = -1.7
    with pytest.warns(DSNWarning, match="Nearly all draws"):
        fit = make_dsn(limited_circuit).run(jax.random.key(0), limit, num_epochs=2)
    assert share_above(limit) > 0.99
    assert fit.status is Status.NONFINITE
    assert len(fit.history.epochs.entropy) == 1  # not a single epoch was paid for
    fit.print_summary()
    assert "NONFINITE: Nearly all draws" in capsys.readouterr().out


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
        assert f"entropy {entropy:.3f}, violation {violation:.3f}" in shown
    assert shown.index("simulating the first circuits") < shown.index("entropy")
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
