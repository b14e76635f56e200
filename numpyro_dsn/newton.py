"""One epoch of the dual Newton method: fit to weighted draws, simulate, move the multipliers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from numpyro.optim import _NumPyroOptim

from numpyro_dsn.correction import corrected_exponent, forgotten, shortened, with_latents
from numpyro_dsn.dual import newton_step, of_allowed_sign, solve_dual, tilt, weighted_moments
from numpyro_dsn.epoch import Best, ChainState, Params, train
from numpyro_dsn.flow import Flow
from numpyro_dsn.history import Epoch, Trace
from numpyro_dsn.measurement import log_base, measure
from numpyro_dsn.multipliers import DualNewton, NewtonState
from numpyro_dsn.path_loss import path_loss
from numpyro_dsn.pool import (
    Draws,
    component_of,
    empty_pool,
    insert_draws,
    log_weights,
    seen,
)
from numpyro_dsn.prior_draws import gather, spread, unthinned
from numpyro_dsn.weighted_loss import weighted_loss

MAX_NORM = 1.0
"""Longer gradients are shortened: one stray draw of the flow could undo many steps."""

AVERAGE = 0.5
"""Weight of an epoch in the averaged parameters, once steps have shrunk."""

SETTLED = 0.67
"""A fit still approaches its target while an epoch leaves less than this share of the gap."""

SHRINK, SMALLEST = 0.8, 0.01
"""Factor of the steps after an epoch in which it does not; the smallest share that is left."""

WORSE, RUINED = 2.0, 1.0
"""An epoch is taken back if it makes the gap so many times as large, and larger by so many nats:
of small gaps a few draws far out make most, more or fewer by chance."""

NATS = 0.5
"""Divergence, for each latent, that gradients of the draws can cross in an epoch."""

NEAR = 0.02
"""Further from its target, in nats, the violation of a fit that still comes closer is more and more
what it has yet to learn."""


def newton_epoch(
    state: ChainState,
    method: DualNewton,
    optim: _NumPyroOptim,
    flow: Flow,
    paths: Flow | None,
    lower: Array,
    upper: Array,
    num_draws: int,
    num_particles: int,
    num_steps: int,
) -> tuple[ChainState, Epoch, Trace]:
    """Run one epoch of the dual Newton method.

    Solve the dual on all draws as far as they can be trusted, fit the flow to the tilted prior by
    :func:`~numpyro_dsn.weighted_loss.weighted_loss`, and simulate draws of it. With ``paths`` the
    dual also moves further than draws are known, and the fit is by
    :func:`~numpyro_dsn.path_loss.path_loss`.

    Parameters
    ----------
    state
        State of the fit.
    method
        Settings of the method.
    optim
        A NumPyro optimizer; its steps shrink when they no longer bring the fit closer.
    flow
        The guide and the circuit.
    paths
        The same with one simulation of each draw, if the fit should follow gradients.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    num_draws, num_particles, num_steps
        Number of draws to simulate, of draws in a step, and of steps.

    Returns
    -------
    State after the epoch, its measurements, and one record of them for the epoch's last step.
    """
    epoch = state.epoch + 1
    dual: NewtonState = state.dual
    key = jax.random.fold_in(state.rng_key, epoch)
    train_key, sample_key, simulator_key = jax.random.split(key, 3)
    scaled = (lower - dual.origin) / dual.scale, (upper - dual.origin) / dual.scale

    annealing = _anneal(dual, method.min_ess)
    base = log_base(dual.pool, annealing)
    draws = log_weights(dual.pool, base), dual.pool.statistics, dual.pool.noise
    eta, solved = solve_dual(dual.natural_parameters, *draws, *scaled, method.min_ess)
    reached = solved & (annealing == 1)
    log_last = dual.pool.log_q[dual.component]
    last_log_weights = log_weights(dual.pool, log_last)
    last_weights = jax.nn.softmax(last_log_weights)
    if paths is not None:
        mean, covariance = weighted_moments(last_weights, dual.pool.statistics)
        max_nats = NATS * dual.pool.flat.shape[-1]
        far = newton_step(dual.natural_parameters, mean, covariance, *scaled, max_nats)
        eta = jnp.where(solved, eta, far)
    # The aim is beside the solution: also for moments of the latents, whose eta is zero there.
    with_moments = with_latents(dual.pool, flow, last_weights)
    wider = draws[0], with_moments.statistics, with_moments.noise
    correction = shortened(dual.correction, last_log_weights, eta, *wider)
    aim_of_statistics = of_allowed_sign(eta + correction[: eta.size], *scaled)
    correction = correction.at[: eta.size].set(aim_of_statistics - eta)
    tilt_exponent = corrected_exponent(correction, eta, *wider)
    log_target = base + tilt_exponent - logsumexp(draws[0] + tilt_exponent)
    training = seen(dual.pool)
    if paths is None:
        weights = jax.nn.log_softmax(log_weights(training, base) + tilt_exponent)
        loss = weighted_loss(flow, training, weights, log_target, log_last, num_particles)
    else:
        unit = dual.origin, dual.scale
        loss = path_loss(paths, aim_of_statistics, *unit, num_particles)

    # Adaptive steps do not depend on the gradient's size: a factor of the variables is a factor of
    # the steps. The optimizer goes on from the averaged parameters, its variables from the last.
    last = optim.get_params(state.optim_state)
    offset = jax.tree.map(lambda p, v: p - dual.step_scale * v, dual.params, last)

    def place(variables: Params) -> Params:
        return jax.tree.map(lambda o, v: o + dual.step_scale * v, offset, variables)

    optim_state, average, _, skipped = train(
        train_key,
        optim,
        state.optim_state,
        lambda key, variables: (loss(key, place(variables)), None),
        num_steps,
        MAX_NORM * dual.step_scale,
    )
    # Large steps never settle; a longer average does, once there is something to settle at.
    share = jnp.where(dual.step_scale < 1, AVERAGE, 1.0)
    average = place(average)
    params = jax.tree.map(lambda old, new: old + share * (new - old), dual.params, average)

    new = flow.simulate(simulator_key, flow.sample(sample_key, params, num_draws))
    new = rescale(new, dual.origin, dual.scale)
    num_simulations = num_draws * new.noise.shape[1]
    num_simulations += num_steps * num_particles if paths is not None else 0
    component = component_of(epoch, dual.pool)
    first = jnp.where(dual.from_prior, new.log_prior, flow.log_prob(dual.first_params, new.flat))
    pool = insert_draws(dual.pool, component, params, new, first, flow.log_prob)
    updated = dual._replace(
        natural_parameters=eta,
        correction=correction,
        annealing=annealing,
        reached=reached,
        pool=pool,
    )
    # Both flows, the new one and the one before it, on the same draws and beside the same target.
    both = jax.lax.map(
        lambda number: measure(updated, number, component, flow, lower, upper, method),
        jnp.stack([component, dual.component]),
    )
    gap, before = both[0].gap
    worse = dual.reached & reached & ~(gap <= WORSE * before + RUINED)
    worse &= component != dual.component
    summary, move = jax.tree.map(lambda leaf: leaf[worse.astype(int)], both)
    params, optim_state = jax.tree.map(
        lambda old, new: jnp.where(worse, old, new),
        (dual.params, state.optim_state),
        (params, optim_state),
    )
    summary = summary._replace(
        skipped=skipped,
        nonfinite=(~new.finite).mean(),
        converged=summary.converged & reached,
        num_simulations=jnp.full((), num_simulations, gap.dtype),
    )
    # What the flow cannot represent shows up as a violation; aim beside the target to undo it.
    settled = dual.reached & reached & (summary.gap > SETTLED * dual.gap)
    trust = jnp.where(settled | (summary.gap < NEAR), 1.0, NEAR / summary.gap)
    move *= jnp.where(reached & ~worse, method.correction_rate * trust, 0.0)
    if paths is not None:
        # The loss has no aim for moments of the latents.
        move = move.at[eta.size :].set(0.0)
    factor = jnp.where(worse, 0.5, jnp.where(settled, SHRINK, 1.0))
    updated = updated._replace(
        correction=forgotten(correction, eta.size) + move,
        step_scale=jnp.maximum(factor * dual.step_scale, SMALLEST),
        gap=summary.gap,
        params=params,
        component=jnp.where(worse, dual.component, component),
    )

    better = summary.converged & (-summary.gap > state.best.score)
    candidate = Best(params, epoch, -summary.gap)
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), candidate, state.best)
    steps = Trace((epoch * num_steps)[None], summary.entropy[None], summary.mean[None])
    return ChainState(optim_state, updated, params, best, epoch, state.rng_key), summary, steps


def start_newton(
    rng_key: Array,
    method: DualNewton,
    optim: _NumPyroOptim,
    flow: Flow,
    params: Params,
    prior: Callable[[Array, int], Array] | None,
    lower: Array,
    upper: Array,
    num_draws: int,
) -> tuple[ChainState, Epoch]:
    """Simulate draws of the prior and return the state before the first epoch.

    Parameters
    ----------
    rng_key
        Key of the fit.
    method, optim, flow
        As for :func:`newton_epoch`.
    params
        Parameters of the flow at the start.
    prior
        Function of a key and a number that returns draws of the prior in unconstrained space;
        ``None`` if it cannot be sampled.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    num_draws
        Number of draws that an epoch simulates.
    """

    def simulate(key: Array) -> Draws:
        draw_key, simulator_key = jax.random.split(key)
        if prior is None:
            flat = flow.sample(draw_key, params, method.num_first)
        else:
            flat = prior(draw_key, method.num_first)
        draws = flow.simulate(simulator_key, flat)
        # A prior density that is minus infinity belongs to a draw at an end of the support.
        return draws._replace(finite=draws.finite & jnp.isfinite(draws.log_prior))

    first_key = jax.random.fold_in(rng_key, 0)
    if prior is None:
        first = unthinned(simulate(first_key))
        log_first = flow.log_prob(params, first.draws.flat)
    else:
        first = gather(first_key, simulate, method.max_first, lower, upper, method.min_ess)
        log_first = first.draws.log_prior
    weights = jnp.where(first.draws.finite, jnp.exp(first.log_share), 0.0)
    weights /= jnp.maximum(weights.sum(), 1.0)
    origin = jnp.where(jnp.isfinite(lower), lower, upper)
    scale = spread(first.draws.statistics, weights)
    draws = rescale(first.draws, origin, scale)
    pool = empty_pool(draws, log_first, params, method.num_flows, num_draws)
    pool = pool._replace(
        log_share=pool.log_share.at[: method.num_first].set(first.log_share),
        counts=pool.counts.at[0].set(first.num_simulated),
    )
    wider = with_latents(pool, flow, jax.nn.softmax(log_weights(pool, pool.log_q[0])))
    dual = NewtonState(
        natural_parameters=jnp.zeros_like(lower),
        correction=jnp.zeros(wider.statistics.shape[-1], lower.dtype),
        origin=origin,
        scale=scale,
        annealing=jnp.where(prior is None, 0.0, 1.0),
        reached=jnp.zeros((), bool),
        step_scale=jnp.ones((), lower.dtype),
        gap=jnp.full((), jnp.inf, lower.dtype),
        pool=pool,
        params=params,
        component=jnp.zeros((), int),
        first_params=params,
        from_prior=jnp.full((), prior is not None, bool),
    )
    summary, _ = measure(dual, dual.component, dual.component, flow, lower, upper, method)
    best = Best(params, jnp.full((), -1, int), jnp.full((), -jnp.inf, lower.dtype))
    state = ChainState(optim.init(params), dual, params, best, jnp.zeros((), int), rng_key)
    nonfinite = first.num_nonfinite / first.num_simulated
    summary = summary._replace(
        nonfinite=nonfinite,
        converged=jnp.zeros((), bool),
        num_simulations=first.num_simulated * draws.noise.shape[1],
    )
    return state, summary


def rescale(draws: Draws, origin: Array, scale: Array) -> Draws:
    """Return draws whose statistics are in units of ``scale`` about ``origin``."""
    return draws._replace(
        statistics=(draws.statistics - origin[None]) / scale[None],
        noise=draws.noise / scale[None, None],
    )


def _anneal(dual: NewtonState, min_ess: float) -> Array:
    """Return the largest power of the prior, of a few, that the draws can be trusted for."""
    pool, eta = dual.pool, dual.natural_parameters
    powers = dual.annealing + (1 - dual.annealing) * 0.5 ** jnp.arange(8)

    def ess(power: Array) -> Array:
        base = log_weights(pool, log_base(pool, power))
        return tilt(eta, base, pool.statistics, pool.noise).ess

    trusted = jax.lax.map(ess, powers) >= min_ess
    return jnp.where(jnp.any(trusted), powers[jnp.argmax(trusted)], dual.annealing)
