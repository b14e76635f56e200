"""The loss of a flow on draws that were simulated before."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.epoch import Params
from numpyro_dsn.flow import Flow
from numpyro_dsn.pool import Pool, log_weights

MAX_RATIO = 30.0
"""Log ratios of flow and target count linearly beyond this many nats."""

LARGE = 9.0
"""Mean squared log ratios, in squared nats, count by their root beyond about this value."""

ATTENTION = 0.3, 30.0
"""Bounds, in nats, of the log ratio that makes a draw more frequent in training."""

MAX_DISTANCE, NUM_STRAY = 8.0, 100
"""Draws this many standard deviations away, or outside of the box of a truncated flow, are called
back; draws to look for them in a step."""


def weighted_loss(
    flow: Flow,
    pool: Pool,
    target_log_weights: Array,
    log_target: Array,
    log_last: Array,
    num_particles: int,
) -> Callable[[Array, Params], Array]:
    r"""Return a function of a key and parameters that estimates the loss of a flow.

    .. math:: -E_p[\log q_\theta] + b \sqrt{1 + V / b}, \qquad
              V = E_p \left[ \left( \log \frac{q_\theta}{p} \right)_+^2 \right]
              + E_{q_\theta} \left[ \left( \log \frac{q_\theta}{p} \right)^2 \right]

    All means are estimated on draws that were simulated before, by their weights. No gradient
    of the simulator is needed, and none of the weights is differentiated. The first part of V
    counts where the density is too high at draws that it is trained on: the likelihood alone
    would raise it there without end. Far from the optimum, a few draws where the target has no
    mass would outweigh the likelihood; the root with b = :data:`LARGE` keeps them from it.

    Parameters
    ----------
    flow
        The guide and the circuit.
    pool
        Draws of the prior and of flows.
    target_log_weights
        Log weights that turn the draws into those of the target p, shape ``(num_draws,)``.
    log_target, log_last
        Log densities of the target and of the last flow, of the same shape.
    num_particles
        Number of draws in each evaluation.

    References
    ----------
    Richter, Boustati, Nüsken, Ruiz and Akyildiz (2020), *VarGrad*, for the second term.
    """
    weights = jnp.exp(target_log_weights)
    from_target = jnp.cumsum(weights)
    log_ratio = jnp.where(pool.finite, log_last - log_target, 0.0)
    attention = attend(log_weights(pool, log_last), log_ratio)
    from_last = jnp.cumsum(jax.nn.softmax(log_weights(pool, log_last)) * attention)
    # Draws at an end of the support are infinitely far, with a density of NaN, and no weight.
    flat = jnp.where(pool.finite[:, None], pool.flat, 0.0)
    x = flow.coordinates(flat)
    center = weights @ x
    spread = jnp.sqrt(weights @ (x - center[None]) ** 2) + jnp.finfo(flat.dtype).tiny ** 0.5
    limits = jnp.array(flow.limits)
    lowest = jnp.maximum(center - MAX_DISTANCE * spread, -limits)
    highest = jnp.minimum(center + MAX_DISTANCE * spread, limits)

    def loss(key: Array, params: Params) -> Array:
        target_key, last_key, share_key, stray_key = jax.random.split(key, 4)
        half = num_particles // 2
        of_target = _resample(target_key, from_target, half)
        of_last = _resample(last_key, from_last, half)
        chosen = flat[jnp.concatenate([of_target, of_last])]
        log_q, cost = flow.estimate(share_key, params, chosen)
        log_ratio = log_q - log_target[jnp.concatenate([of_target, of_last])]
        # Likelihood of draws of the target: a mode that the draws know is never given up.
        likelihood = log_q[:half].mean()
        square = _huber(jax.nn.relu(log_ratio[:half])).mean()
        # Log-variance on draws of the last flow: takes mass away from where the target has none,
        # as reverse KL does, with neither new simulations nor gradients of the simulator.
        growth = jnp.minimum(log_q[half:] - log_last[of_last], 1.0)
        weight = jax.lax.stop_gradient(jnp.exp(growth)) / attention[of_last]
        square += jnp.mean(weight * _huber(log_ratio[half:]))
        value = -likelihood + LARGE * jnp.sqrt(1 + 2 * square / LARGE)
        # Far from all draws, lowering the density at one stray draw only moves it to the next.
        stray = flow.propose(stray_key, params, NUM_STRAY)
        beyond = jax.nn.relu(jnp.maximum(lowest[None] - stray, stray - highest[None]))
        beyond /= spread[None]
        return value + jnp.log1p(beyond).sum(-1).mean() + cost

    return loss


def attend(log_weights: Array, log_ratio: Array) -> Array:
    r"""Return how much more often than its weight says each draw should be taken.

    .. math:: a_i = \frac{r_i}{\sum_j w_j r_j}, \qquad r_i = |\log q_i - \log p_i|

    with r inside :data:`ATTENTION`. Draws where flow and target disagree are rare and matter most;
    draws taken in proportion to :math:`w_i a_i`, weighted by :math:`1 / a_i`, have the same means.

    Parameters
    ----------
    log_weights
        Log weights of the draws, up to a constant, shape ``(num_draws,)``.
    log_ratio
        Log ratio of flow and target at the draws, of the same shape.
    """
    ratio = jnp.clip(jnp.abs(log_ratio), *ATTENTION)
    return ratio / (jax.nn.softmax(log_weights) @ ratio)


def _resample(rng_key: Array, cumulative: Array, num_draws: int) -> Array:
    """Return indices of systematically resampled draws: less noise than independent ones."""
    positions = (jnp.arange(num_draws) + jax.random.uniform(rng_key)) / num_draws
    chosen = jnp.searchsorted(cumulative, positions * cumulative[-1])
    return jnp.minimum(chosen, cumulative.size - 1)


def _huber(ratio: Array) -> Array:
    """Return half the square, linear beyond :data:`MAX_RATIO`."""
    size = jnp.abs(ratio)
    linear = MAX_RATIO * (size - 0.5 * MAX_RATIO)
    return jnp.where(size < MAX_RATIO, 0.5 * ratio**2, linear)
