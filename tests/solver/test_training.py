"""Fitting a flow: the loss on weighted draws by hand, steps, and the blocks that they come in."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from numpy.testing import assert_allclose
from numpyro.optim import SGD, Adam

from numpyro_dsn.solver import training as module
from numpyro_dsn.solver.training import (
    NUM_BLOCKS,
    Blocks,
    LossSettings,
    Training,
    WeightedTarget,
    choose,
    descend,
    fit_in_blocks,
    weighted_loss,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_DRAWS = 64
SETTINGS = LossSettings(NUM_DRAWS, max_log_ratio=30.0, square_root_at=9.0)


def target_of(flat, log_target, log_last=0.0, weights=None):
    """A target whose draws are taken evenly, if no other weights are given."""
    size = len(flat)
    weights = jnp.ones(size) if weights is None else weights
    cumulative = jnp.cumsum(weights / weights.sum())
    given = {
        "flat": flat,
        "log_target": jnp.broadcast_to(jnp.asarray(log_target, float), (size,)),
        "log_last": jnp.broadcast_to(jnp.asarray(log_last, float), (size,)),
        "frequency": jnp.ones(size),
    }
    rest = {name: cumulative for name in WeightedTarget._fields if name not in given}
    return WeightedTarget(**given, **rest)


@jax.jit
def loss_and_slope(rng_key, target):
    """Of a flow whose log density is the same everywhere, at zero."""

    def loss(shift):
        chosen = choose(rng_key, target, NUM_DRAWS)
        return weighted_loss(shift + jnp.zeros(NUM_DRAWS), chosen, target, SETTINGS)

    return jax.value_and_grad(loss)(0.0)


GRID = jnp.linspace(-1.0, 1.0, NUM_DRAWS)[:, None]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 2.0, 500.0])
def test_a_constant_log_ratio(ratio, rng_key):
    """Small ones count by their square, large ones by their size, and far ones no more."""
    value, slope = loss_and_slope(rng_key, target_of(GRID, -ratio))
    # Both kinds of draws have this ratio.
    counted = min(ratio, SETTINGS.max_log_ratio)
    bend = SETTINGS.square_root_at
    root = np.sqrt(1 + 2 * counted**2 / bend)
    assert_allclose(value, bend * root, rtol=1e-5)
    # Minus one is the likelihood's. Without the root, 30 nats would outweigh it.
    assert_allclose(slope, 2 * counted / root - 1, atol=1e-4)
    assert 2 * counted / root < 4.3


def test_a_density_that_is_too_low_is_left_to_the_likelihood(rng_key):
    """At draws of the target the square counts on one side, at draws of the last flow on both."""
    value, _ = loss_and_slope(rng_key, target_of(GRID, 2.0))
    bend = SETTINGS.square_root_at
    assert_allclose(value, bend * np.sqrt(1 + 4.0 / bend), rtol=1e-5)


def test_draws_where_the_density_has_grown_count_more(rng_key):
    """By its growth since the last flow, up to a factor of e; there are more such draws now."""
    bend = SETTINGS.square_root_at
    for log_last, growth in ((-0.5, np.exp(0.5)), (-7.0, np.e)):
        value, _ = loss_and_slope(rng_key, target_of(GRID, -2.0, log_last))
        assert_allclose(value, bend * np.sqrt(1 + (1 + growth) * 4.0 / bend), rtol=1e-5)


def test_a_draw_without_weight_does_not_count(rng_key):
    """A draw at an end of its support is infinitely far in unconstrained space."""
    flat, weights = GRID.at[0].set(jnp.inf), jnp.ones(NUM_DRAWS).at[0].set(0.0)
    log_target = jnp.full(NUM_DRAWS, -2.0).at[0].set(-jnp.inf)
    found = loss_and_slope(rng_key, target_of(flat, log_target, weights=weights))
    assert_allclose(found, loss_and_slope(rng_key, target_of(GRID, -2.0)), rtol=1e-5)


# Steps -------------------------------------------------------------------------------------------

GRADIENT = {"x": jnp.array([0.3, 0.4])}


def start_of(optim, step_scale=1.0):
    params = {"x": jnp.array([1.0, -1.0])}
    return Training(optim.init(params), params, jnp.asarray(step_scale))


def linear(rng_key, params, slope=1.0):
    return slope * jnp.vdot(GRADIENT["x"], params["x"])


@pytest.mark.parametrize("optim", [SGD(0.1), Adam(0.1)], ids=["sgd", "adam"])
def test_step_scale_is_a_factor_of_the_steps(optim, rng_key):
    """Whatever the optimizer."""

    def move(step_scale):
        start = start_of(optim, step_scale)
        return descend(rng_key, start, linear, optim, 4)[0].params["x"] - start.params["x"]

    whole = move(1.0)
    assert np.all(whole < -0.01)
    assert_allclose(move(0.25), 0.25 * whole, rtol=1e-4)


def test_parameters_are_averaged_over_the_second_half(rng_key):
    optim = SGD(0.1)
    after, skipped = descend(rng_key, start_of(optim), linear, optim, 4)
    # Averaged are those after the third and the fourth step.
    assert_allclose(after.params["x"], [1 - 0.035 * 3, -1 - 0.035 * 4], rtol=1e-5)
    assert_allclose(optim.get_params(after.optim_state)["x"], [0.88, -1.16], rtol=1e-5)
    assert skipped == 0


def test_gradients_are_shortened_to_norm_one(rng_key):
    optim = SGD(0.1)
    after, _ = descend(rng_key, start_of(optim), partial(linear, slope=1000.0), optim, 1)
    assert_allclose(after.params["x"], [1 - 0.1 * 0.6, -1 - 0.1 * 0.8], rtol=1e-5)


def test_steps_without_a_finite_gradient_are_left_out(rng_key):
    """Neither the variables nor what the optimizer remembers are touched by them."""

    def is_bad(key):
        return jax.random.bernoulli(key, 0.4)

    def fragile(key, params):
        return jnp.where(is_bad(key), jnp.nan, 1.0) * linear(key, params)

    optim, num_steps = Adam(0.1), 20
    after, skipped = descend(rng_key, start_of(optim), fragile, optim, num_steps)
    bad = int(jax.vmap(is_bad)(jax.random.split(rng_key, num_steps)).sum())
    assert 0 < bad < num_steps
    assert_allclose(skipped, bad / num_steps, rtol=1e-6)
    plain, _ = descend(rng_key, start_of(optim), linear, optim, num_steps - bad)
    for one, other in zip(
        jax.tree.leaves(after.optim_state), jax.tree.leaves(plain.optim_state), strict=True
    ):
        assert_allclose(one, other, rtol=1e-5)
    assert np.all(np.isfinite(after.params["x"]))


# Blocks ------------------------------------------------------------------------------------------

BLOCKS = Blocks(least_gain=0.1, num_validation=NUM_DRAWS)
NOTHING = target_of(GRID, 0.0)


def fit_with(losses, monkeypatch, rng_key):
    """Training whose parameters are a number of blocks, each with this loss on held-out draws."""
    calls = []

    def fit(key, training, target, *fixed):
        calls.append(key)
        return training._replace(params=len(calls))

    monkeypatch.setattr(module, "fit_to_weights", fit)
    monkeypatch.setattr(module, "log_prob", lambda flow, params, flat: params)
    monkeypatch.setattr(module, "judge", lambda params, *_: jnp.asarray(losses[params]))
    problem = SimpleNamespace(flow=None, optim=None, num_steps=10)
    start = Training(None, 0, jnp.ones(()))
    end = fit_in_blocks(rng_key, start, NOTHING, problem, SETTINGS, BLOCKS)
    return end.params, len(calls)


def test_training_goes_on_while_held_out_draws_see_a_gain(monkeypatch, rng_key):
    losses = [4.0, 3.0, 2.0, 1.0, 0.5]
    assert fit_with(losses, monkeypatch, rng_key) == (NUM_BLOCKS, NUM_BLOCKS)


@pytest.mark.parametrize("loss", [3.5, np.nan])
def test_a_block_that_loses_is_undone_and_the_last(loss, monkeypatch, rng_key):
    assert fit_with([3.0, loss, 0.0], monkeypatch, rng_key) == (0, 1)
    assert fit_with([4.0, 3.0, loss, 0.0], monkeypatch, rng_key) == (1, 2)


def test_a_block_that_hardly_changes_the_loss_is_kept_and_the_last(monkeypatch, rng_key):
    assert fit_with([3.0, 3.05, 0.0], monkeypatch, rng_key) == (1, 1)


# Compilation -------------------------------------------------------------------------------------


class Normal:
    """A flow of its own configuration, so that nothing else has compiled for it."""

    @staticmethod
    def log_prob(params, flat):
        return norm.logpdf(flat[:, 0], params["loc"], jnp.exp(params["log_std"]))


def test_training_is_compiled_once_for_all_problems_of_a_size(rng_key):
    """A function of arrays and of the flow: N(1, 1) and N(-1, 1/4) are fitted by one program."""
    optim, flat = Adam(0.05), jax.random.normal(rng_key, (1000, 1))
    params = {"loc": jnp.zeros(()), "log_std": jnp.zeros(())}
    before = module.fit_to_weights.jitted()._cache_size()
    for mean, std in ((0.5, 1.0), (-0.5, 0.5)):
        log_target, log_last = norm.logpdf(flat[:, 0], mean, std), norm.logpdf(flat[:, 0])
        weights = jnp.exp(log_target - log_last)
        target = target_of(flat, log_target, log_last, weights)
        target = target._replace(cumulative_last=jnp.cumsum(jnp.full(len(flat), 1e-3)))
        start = Training(optim.init(params), params, jnp.ones(()))
        end = module.fit_to_weights(rng_key, start, target, Normal, optim, SETTINGS, 300)
        error = 4 * (jnp.sum(weights**2) ** 0.5 / weights.sum())
        assert abs(end.params["loc"] - mean) < error
        assert abs(jnp.exp(end.params["log_std"]) - std) < error
    assert module.fit_to_weights.jitted()._cache_size() == before + 1
