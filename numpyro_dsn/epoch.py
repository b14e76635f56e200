"""One epoch of the penalty method: steps at fixed multipliers, then measurements on fresh draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.optim import _NumPyroOptim

from numpyro_dsn.history import Epoch, Trace
from numpyro_dsn.multipliers import PenaltyMethod, PenaltyState
from numpyro_dsn.objective import (
    Particles,
    active_target,
    augmented_lagrangian,
    mean_statistics,
)

Params = dict[str, Array]
Draw = Callable[[Array, Params], Particles]


class Best(NamedTuple):
    """The best converged epoch so far.

    params
        Unconstrained parameters of the guide.
    epoch
        Its number, shape ``()``; -1 while no epoch has converged.
    score
        What made it the best, shape ``()``: its entropy, or minus its gap, in nats.
    """

    params: Params
    epoch: Array
    score: Array


class ChainState(NamedTuple):
    """All that changes during one fit.

    optim_state
        State of the optimizer, which holds the unconstrained parameters of the guide.
    dual
        Dual variables.
    params
        Unconstrained parameters of the guide after the last epoch.
    best
        Best converged epoch.
    epoch
        Number of finished epochs, shape ``()``.
    rng_key
        Key of the fit; every epoch folds in its number.
    """

    optim_state: Any
    dual: Any
    params: Params
    best: Best
    epoch: Array
    rng_key: Array


def held_params(chain: ChainState) -> Params:
    """Return the parameters of the best converged epoch, or of the last if none has converged."""
    return chain.best.params if int(chain.best.epoch) >= 0 else chain.params


class Measurement(NamedTuple):
    """Statistics of ``num_batches`` batches of fresh draws.

    test_means
        Mean of T over the first share of each batch, shape ``(num_batches, num_constraints)``.
    means
        Mean of T over each batch, of the same shape.
    variances
        Variance of T in each batch, of the same shape.
    entropy, kl_to_prior
        Means over each batch, shape ``(num_batches,)``, in nats.
    nonfinite
        Share of draws whose statistics were not finite, shape ``(num_batches,)``.
    """

    test_means: Array
    means: Array
    variances: Array
    entropy: Array
    kl_to_prior: Array
    nonfinite: Array


def train(
    rng_key: Array,
    optim: _NumPyroOptim,
    optim_state: Any,
    loss: Callable[[Array, Params], tuple[Array, Any]],
    num_steps: int,
    max_norm: Array | float = np.inf,
) -> tuple[Any, Params, Any, Array]:
    """Take a number of optimizer steps, leaving out those whose gradient is not finite.

    Parameters
    ----------
    rng_key
        Key of all steps.
    optim
        A NumPyro optimizer.
    optim_state
        Its state.
    loss
        Function of a key and unconstrained parameters that returns the loss and a record.
    num_steps
        Number of steps.
    max_norm
        Longer gradients are shortened to this norm.

    Returns
    -------
    State of the optimizer, its parameters averaged over the second half of the steps, the
    records stacked over steps, and the share of steps left out.
    """
    num_averaged = (num_steps + 1) // 2

    def step(carry: Any, key_and_index: tuple) -> tuple[Any, tuple[Any, Array]]:
        (state, average), (key, index) = carry, key_and_index
        value_and_grad = jax.value_and_grad(lambda params: loss(key, params), has_aux=True)
        (value, record), gradient = value_and_grad(optim.get_params(state))
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(ravel_pytree(gradient)[0]))
        norm = jnp.linalg.norm(ravel_pytree(gradient)[0])
        gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, max_norm / norm), gradient)
        updated = optim.update(gradient, state, value=value)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        share = jnp.where(index >= num_steps - num_averaged, 1 / num_averaged, 0.0)
        average = jax.tree.map(lambda a, p: a + share * p, average, optim.get_params(state))
        return (state, average), (record, ~finite)

    nothing = jax.tree.map(jnp.zeros_like, optim.get_params(optim_state))
    keys = jax.random.split(rng_key, num_steps), jnp.arange(num_steps)
    (optim_state, average), (records, skipped) = jax.lax.scan(step, (optim_state, nothing), keys)
    return optim_state, average, records, skipped.mean()


def measure(
    rng_key: Array, draw: Draw, params: Params, num_batches: int, test_fraction: float
) -> Measurement:
    """Draw batches from a fit and average the statistics in each.

    Parameters
    ----------
    rng_key
        Key of all draws.
    draw
        Function of a key and unconstrained parameters that returns a batch of draws.
    params
        Unconstrained parameters of the guide.
    num_batches
        Number of batches, simulated one after the other.
    test_fraction
        Share of each batch that makes a batch of the convergence test.
    """

    def batch(key: Array) -> Measurement:
        particles = draw(key, params)
        size = max(int(test_fraction * particles.log_q.shape[0]), 1)
        test = Particles(*(leaf[:size] for leaf in particles))
        mean = mean_statistics(particles)
        deviations = jnp.where(particles.finite[:, None], particles.statistics - mean[None], 0.0)
        return Measurement(
            test_means=mean_statistics(test),
            means=mean,
            variances=mean_statistics(particles._replace(statistics=deviations**2)),
            entropy=-particles.log_q.mean(),
            kl_to_prior=(particles.log_q - particles.log_prior).mean(),
            nonfinite=jnp.mean(~particles.finite, dtype=particles.log_q.dtype),
        )

    return jax.lax.map(batch, jax.random.split(rng_key, num_batches))


def violations(means: Array, lower: Array, upper: Array) -> Array:
    """Return the signed distance of means from the interval that was asked, of the same shape."""
    return means - jnp.clip(means, lower, upper)


def summarize(
    measured: Measurement,
    method: PenaltyMethod,
    penalty: Array,
    multipliers: Array,
    skipped: Array,
    lower: Array,
    upper: Array,
    num_simulations: int,
) -> Epoch:
    """Summarize measurements of one fit.

    Parameters
    ----------
    measured
        Batches of fresh draws.
    method
        The convergence test.
    penalty, multipliers
        c during the epoch and lambda after it.
    skipped
        Share of steps left out.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    num_simulations
        Simulations of the circuit in the epoch.
    """
    num_batches = measured.entropy.size
    mean = measured.means.mean(0)
    variance = measured.variances.mean(0) + measured.means.var(0)
    scale = jnp.sqrt(jnp.maximum(variance, jnp.finfo(mean.dtype).tiny))
    p_values = method.p_values(measured.test_means, lower, upper)
    nonfinite = measured.nonfinite.mean()
    unknown = jnp.full((), jnp.nan, mean.dtype)
    return Epoch(
        entropy=measured.entropy.mean(),
        kl_to_prior=measured.kl_to_prior.mean(),
        entropy_se=measured.entropy.std() / jnp.sqrt(num_batches),
        mean=mean,
        mean_se=measured.means.std(0) / jnp.sqrt(num_batches),
        scale=scale,
        violation=violations(mean, lower, upper) / scale,
        multipliers=multipliers,
        penalty=penalty,
        converged=method.has_converged(p_values) & (nonfinite < 0.5),
        nonfinite=nonfinite,
        skipped=skipped,
        dual_bound=unknown,
        gap=unknown,
        gap_se=unknown,
        ess=unknown,
        num_simulations=jnp.full((), num_simulations, mean.dtype),
    )


def start_chain(
    rng_key: Array,
    method: PenaltyMethod,
    optim: _NumPyroOptim,
    draw: Draw,
    params: Params,
    lower: Array,
    upper: Array,
    num_particles: int,
) -> tuple[ChainState, Epoch]:
    """Return the state of a fit before its first epoch, and measurements of the start."""
    key = jax.random.fold_in(rng_key, 0)
    measured = measure(key, draw, params, method.num_batches, method.test_fraction)
    dual = method.init(jax.vmap(violations, (0, None, None))(measured.means, lower, upper))
    # Explicit dtypes: weakly typed scalars would make the second epoch compile again.
    best = Best(params, jnp.full((), -1, int), jnp.full((), -jnp.inf, measured.entropy.dtype))
    state = ChainState(optim.init(params), dual, params, best, jnp.zeros((), int), rng_key)
    spent = jnp.zeros(()), lower, upper, method.num_batches * num_particles
    summary = summarize(measured, method, dual.penalty, dual.multipliers, *spent)
    return state, summary._replace(converged=jnp.asarray(False))


def penalty_epoch(
    state: ChainState,
    method: PenaltyMethod,
    optim: _NumPyroOptim,
    draw: Draw,
    lower: Array,
    upper: Array,
    num_particles: int,
    num_steps: int,
) -> tuple[ChainState, Epoch, Trace]:
    """Run one epoch of the penalty method.

    Parameters
    ----------
    state
        State of the fit.
    method
        Settings of the penalty method.
    optim
        A NumPyro optimizer; it starts afresh in every epoch.
    draw
        Function of a key and unconstrained parameters that returns a batch of draws.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    num_particles, num_steps
        Number of draws in a batch, and of optimizer steps.

    Returns
    -------
    State after the epoch, measurements on fresh draws, and one record for each step.
    """
    epoch = state.epoch + 1
    train_key, measure_key, dual_key = jax.random.split(jax.random.fold_in(state.rng_key, epoch), 3)
    dual: PenaltyState = state.dual

    def loss(key: Array, params: Params) -> tuple[Array, tuple[Array, Array]]:
        particles = draw(key, params)
        value = augmented_lagrangian(particles, dual.multipliers, dual.penalty, lower, upper)
        return value, (-particles.log_q.mean(), mean_statistics(particles))

    # The published method forgets Adam's moments at every epoch.
    fresh = optim.init(optim.get_params(state.optim_state))
    optim_state, _, (entropy, mean), skipped = train(train_key, optim, fresh, loss, num_steps)
    params = optim.get_params(optim_state)
    measured = measure(measure_key, draw, params, method.num_batches, method.test_fraction)
    means = measured.means.mean(0)
    residual = means - active_target(means, dual.multipliers, dual.penalty, lower, upper)
    by_batch = jax.vmap(violations, (0, None, None))(measured.means, lower, upper)
    updated = method.update(dual_key, dual, residual, by_batch)
    spent = skipped, lower, upper, (num_steps + method.num_batches) * num_particles
    summary = summarize(measured, method, dual.penalty, updated.multipliers, *spent)
    better = summary.converged & (summary.entropy > state.best.score)
    candidate = Best(params, epoch, summary.entropy)
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, state.best)
    steps = Trace((epoch - 1) * num_steps + jnp.arange(num_steps) + 1, entropy, mean)
    return ChainState(optim_state, updated, params, best, epoch, state.rng_key), summary, steps
