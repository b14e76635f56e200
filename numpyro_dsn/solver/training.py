"""Fitting a flow: to weighted draws, which needs no simulator, or by gradients of the circuit."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.optim import _NumPyroOptim

from numpyro_dsn.solver.flow_programs import log_prob
from numpyro_dsn.solver.problem import Params, Problem
from numpyro_dsn.solver.state import strong
from numpyro_dsn.weighted.compilation import flow_jit, quick_jit
from numpyro_dsn.weighted.resampling import resample

NUM_BLOCKS = 4
"""Blocks of steps in an epoch, at the most."""


class LossSettings(NamedTuple):
    """Settings of the loss on weighted draws, as in :class:`~numpyro_dsn.DualNewton`."""

    num_particles: int
    max_log_ratio: float
    square_root_at: float


class Blocks(NamedTuple):
    """When steps end.

    least_gain
        Smallest gain of a block that is worth another one, in nats.
    num_validation
        Draws that a block is judged on.
    """

    least_gain: float
    num_validation: int


class WeightedTarget(NamedTuple):
    """What a flow is fitted to, as arrays alone, each with leading axis ``num_draws``.

    flat
        Draws in unconstrained space, shape ``(num_draws, D)``.
    log_target, log_last
        Log densities of the target and of the last flow; minus infinity where the circuit failed.
    frequency
        How much more often than its weight says each draw of the last flow is taken
        (:func:`~numpyro_dsn.solver.aim.mismatch_frequency`).
    cumulative_target, cumulative_last
        Cumulative weights of the draws to train on, for the target, and for the last flow with
        this frequency.
    held_out_target, held_out_last
        The same for those that are kept from training.
    """

    flat: Array
    log_target: Array
    log_last: Array
    frequency: Array
    cumulative_target: Array
    cumulative_last: Array
    held_out_target: Array
    held_out_last: Array


class Training(NamedTuple):
    """Where training stands.

    optim_state
        State of the optimizer, which holds its own variables.
    params
        Unconstrained parameters of the flow, averaged over the last steps.
    step_scale
        Factor of the optimizer's steps, shape ``()``.
    """

    optim_state: Any
    params: Params
    step_scale: Array


class Chosen(NamedTuple):
    """Draws to estimate a loss on: half of them the target's, then half the last flow's.

    indices
        Which of all draws, shape ``(num_draws,)``.
    flat
        The draws, shape ``(num_draws, D)``.
    """

    indices: Array
    flat: Array


def choose(rng_key: Array, target: WeightedTarget, num_draws: int) -> Chosen:
    """Choose draws of the target and of the last flow, by the cumulative weights."""
    target_key, last_key = jax.random.split(rng_key)
    of_target = resample(target_key, target.cumulative_target, num_draws // 2)
    of_last = resample(last_key, target.cumulative_last, num_draws // 2)
    indices = jnp.concatenate([of_target, of_last])
    return Chosen(indices, target.flat[indices])


def weighted_loss(
    log_q: Array, chosen: Chosen, target: WeightedTarget, settings: LossSettings
) -> Array:
    r"""Estimate the loss of a flow on draws that were simulated before.

    .. math:: -E_p[\log q_\theta] + b \sqrt{1 + V / b}, \qquad
              V = E_p \left[ \left( \log \frac{q_\theta}{p} \right)_+^2 \right]
              + E_{q_\theta} \left[ \left( \log \frac{q_\theta}{p} \right)^2 \right]

    No gradient of the simulator is needed, and none of the weights is differentiated. The
    likelihood of the target's draws never gives up a mode that they know. The first part of V
    counts where the density is too high at draws that it is trained on, which the likelihood alone
    would raise without end; the second takes mass away from where the target has none. Far from
    the optimum a few such draws would outweigh the likelihood; the root with b keeps them from it.

    Parameters
    ----------
    log_q
        Log density of the flow at the chosen draws, shape ``(num_draws,)``.
    chosen
        The draws.
    target
        The target.
    settings
        Settings of the loss.

    References
    ----------
    Richter, Boustati, Nüsken, Ruiz and Akyildiz (2020), *VarGrad*, for the second part of V.
    """
    half = log_q.size // 2
    of_last = chosen.indices[half:]
    # A ratio beyond this many nats counts, and pulls, as if it were there.
    fixed, most = jax.lax.stop_gradient(log_q), settings.max_log_ratio
    log_ratio = log_q - jnp.clip(target.log_target[chosen.indices], fixed - most, fixed + most)
    square = jnp.mean(jax.nn.relu(log_ratio[:half]) ** 2)
    growth = jnp.exp(jnp.minimum(fixed[half:] - target.log_last[of_last], 1.0))
    square += jnp.mean(growth / target.frequency[of_last] * log_ratio[half:] ** 2)
    bend = settings.square_root_at
    return -log_q[:half].mean() + bend * jnp.sqrt(1 + square / bend)


@partial(flow_jit, static_argnames=("flow", "optim", "settings", "num_steps"))
def fit_to_weights(
    rng_key: Array,
    training: Training,
    target: WeightedTarget,
    flow: Any,
    optim: _NumPyroOptim,
    settings: LossSettings,
    num_steps: int,
) -> Training:
    """Fit a flow to weighted draws; compiled once for a flow's configuration and sizes.

    Parameters
    ----------
    rng_key
        Key of all steps.
    training
        Where training stands.
    target
        The target.
    flow
        A flow.
    optim
        A NumPyro optimizer.
    settings
        Settings of the loss.
    num_steps
        Number of steps.

    Returns
    -------
    Where training stands after it.
    """

    def loss(key: Array, params: Params) -> Array:
        chosen = choose(key, target, settings.num_particles)
        return weighted_loss(flow.log_prob(params, chosen.flat), chosen, target, settings)

    training, _ = descend(rng_key, training, loss, optim, num_steps)
    return strong(training)


@partial(quick_jit, static_argnames="num_draws")
def choose_held_out(target: WeightedTarget, num_draws: int) -> Chosen:
    """Choose draws that are kept from training, the same ones at every call."""
    held_out = target._replace(
        cumulative_target=target.held_out_target, cumulative_last=target.held_out_last
    )
    return choose(jax.random.key(0), held_out, num_draws)


judge = quick_jit(weighted_loss, static_argnames="settings")
"""The loss of a flow on draws that are kept from training."""


def fit_in_blocks(
    rng_key: Array,
    training: Training,
    target: WeightedTarget,
    problem: Problem,
    settings: LossSettings,
    blocks: Blocks,
) -> Training:
    """Fit a flow in blocks of steps, until draws that are held out see no more gain.

    A block that loses is undone.

    Parameters
    ----------
    rng_key
        Key of all steps.
    training
        Where training stands.
    target
        The target.
    problem
        The flow and its optimizer.
    settings
        Settings of the loss.
    blocks
        When steps end.
    """
    fixed = problem.flow, problem.optim, settings, -(-problem.num_steps // NUM_BLOCKS)
    held_out = choose_held_out(target, blocks.num_validation)

    def held_out_loss(params: Params) -> float:
        log_q = log_prob(problem.flow, params, held_out.flat)
        return float(judge(log_q, held_out, target, settings))

    before = held_out_loss(training.params)
    for block in range(NUM_BLOCKS):
        new = fit_to_weights(jax.random.fold_in(rng_key, block), training, target, *fixed)
        after = held_out_loss(new.params)
        if after < before + blocks.least_gain:
            training = new
        if not after < before - blocks.least_gain:  # not a number is no gain
            break
        before = after
    return training


def descend(
    rng_key: Array,
    training: Training,
    loss: Callable[[Array, Params], Array],
    optim: _NumPyroOptim,
    num_steps: int,
) -> tuple[Training, Array]:
    """Take steps on a loss of a key and parameters; return also the fraction left out.

    Adaptive steps do not depend on the gradient's size: a factor of the variables is a factor of
    the steps, whatever the optimizer. Gradients are shortened to norm one, since one stray draw
    could undo many steps; parameters are averaged over the second half of the steps.
    """
    start, scale = optim.get_params(training.optim_state), training.step_scale

    def place(variables: Params) -> Params:
        move = jax.tree.map(lambda new, old: scale * (new - old), variables, start)
        return jax.tree.map(jnp.add, training.params, move)

    def step(carry: tuple, key_and_index: tuple) -> tuple:
        (state, total), (key, index) = carry, key_and_index
        value, gradient = jax.value_and_grad(lambda v: loss(key, place(v)) / scale)(
            optim.get_params(state)
        )
        norm = jnp.linalg.norm(ravel_pytree(gradient)[0])
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        gradient = jax.tree.map(lambda g: g / jnp.maximum(norm, 1.0), gradient)
        updated = optim.update(gradient, state, value=value)
        state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        counts = index >= num_steps // 2
        add = partial(jnp.where, counts)
        total = jax.tree.map(lambda t, p: add(t + p, t), total, optim.get_params(state))
        return (state, total), ~finite

    zeros = jax.tree.map(jnp.zeros_like, start)
    inputs = jax.random.split(rng_key, num_steps), jnp.arange(num_steps)
    (state, total), left_out = jax.lax.scan(  # type: ignore[var-annotated]
        step, (training.optim_state, zeros), inputs
    )
    average = jax.tree.map(lambda t: t / (num_steps - num_steps // 2), total)
    return Training(state, place(average), scale), jnp.mean(left_out)


def path_loss(
    rng_key: Array, params: Params, flow: Any, log_target: Callable[[Array, Array], Array], num: int
) -> Array:
    r"""Estimate the divergence of a flow from its target on its own draws.

    .. math:: KL(q_\theta \,\|\, p_\eta) = E_{u \sim q_\theta} \left[ \log q(u) - \log p(u)
              - \eta^\top T(u) \right] + \log Z

    Its gradient follows the draws alone; that of :math:`\log q_\theta` with respect to its own
    parameters is zero in the mean and left out. What is left has no noise once q is the optimum.
    A gradient knows all coordinates of a draw where its weight is a single number, so that many
    latents need no more draws than few; but a mode without draws is never found.

    Parameters
    ----------
    rng_key
        Key of the draws and the noise.
    params
        Unconstrained parameters of the flow.
    flow
        A flow whose draws have a gradient.
    log_target
        Function of a key and one draw that simulates it once and returns the exponent
        :math:`\log p + \eta^\top T`, minus infinity if the circuit failed.
    num
        Number of draws.

    References
    ----------
    Roeder, Wu and Duvenaud (2017), *Sticking the landing*.
    """
    draw_key, noise_key = jax.random.split(rng_key)
    flat = flow.sample(draw_key, params, num)
    log_q = flow.log_prob(jax.lax.stop_gradient(params), flat)
    aims = jax.vmap(log_target)(jax.random.split(noise_key, num), flat)
    return jnp.where(jnp.isfinite(aims), log_q - aims, 0.0).mean()
