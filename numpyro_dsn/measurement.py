"""How far a flow is from the optimum, by weighted draws that it was not trained on."""

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.correction import wider_move, with_latents
from numpyro_dsn.dual import Tilt, dual_value, excess, tilt
from numpyro_dsn.epoch import violations
from numpyro_dsn.flow import Flow
from numpyro_dsn.history import Epoch
from numpyro_dsn.multipliers import DualNewton, NewtonState
from numpyro_dsn.pool import Pool, divergence, log_weights, relative_variance, unseen


def measure(
    dual: NewtonState,
    component: Array,
    newest: Array,
    flow: Flow,
    lower: Array,
    upper: Array,
    method: DualNewton,
) -> tuple[Epoch, Array]:
    """Measure a flow of the pool, on draws that it was not trained on.

    Parameters
    ----------
    dual
        Dual variables and draws.
    component, newest
        Number of the flow in the pool, and of the draws that no flow was trained on.
    flow
        The guide and the circuit.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    method
        Tolerances.

    Returns
    -------
    The measurements, and the move of :func:`~numpyro_dsn.correction.wider_move`.
    """
    pool = unseen(dual.pool, newest)
    log_q = pool.log_q[component]
    log_w = log_weights(pool, log_q)
    weights = jax.nn.softmax(log_w)
    mean = weights @ pool.statistics
    deviations = pool.statistics - mean[None]
    variance = weights @ deviations**2
    mean_se = jnp.sqrt((weights**2) @ deviations**2)
    entropy, entropy_variance = divergence(pool, log_q, pool.log_det)
    kl_to_prior, _ = divergence(pool, log_q, pool.log_prior)

    eta, base = dual.natural_parameters, log_base(pool, dual.annealing)
    tilted = tilt(eta, log_weights(pool, base), pool.statistics, pool.noise)
    scaled = (lower - dual.origin) / dual.scale, (upper - dual.origin) / dual.scale
    bound = dual_value(eta, tilted.log_normalizer, *scaled)
    gap, gap_se = gap_to(pool, eta, tilted, log_q, base, *scaled)
    scale = jnp.sqrt(jnp.maximum(variance, jnp.finfo(mean.dtype).tiny))
    residual = violations(mean, *scaled)
    epoch = Epoch(
        entropy=-entropy,
        kl_to_prior=kl_to_prior,
        entropy_se=jnp.sqrt(entropy_variance),
        mean=mean * dual.scale + dual.origin,
        mean_se=mean_se * dual.scale,
        scale=scale * dual.scale,
        violation=residual / scale,
        multipliers=-dual.natural_parameters / dual.scale,
        penalty=jnp.zeros(()),
        converged=has_converged(method, gap + gap_se, eta, residual, mean_se, scale),
        nonfinite=jnp.zeros(()),
        skipped=jnp.zeros(()),
        dual_bound=bound,
        gap=gap,
        gap_se=gap_se,
        ess=tilted.ess,
        num_simulations=jnp.zeros(()),
    )
    wider = with_latents(pool, flow, weights)
    solution = jnp.pad(eta, (0, wider.statistics.shape[-1] - eta.size))
    target = tilt(solution, log_weights(pool, base), wider.statistics, wider.noise)
    # An inequality that the aim holds is met at its bound, and no further inside.
    above = excess(eta + dual.correction[: eta.size], mean, *scaled)
    is_active = (above != 0) | (lower == upper)
    return epoch, wider_move(above, is_active, wider, weights, target)


def has_converged(
    method: DualNewton,
    gap: Array,
    natural_parameters: Array,
    residual: Array,
    mean_se: Array,
    scale: Array,
) -> Array:
    r"""Return whether a fit meets its constraints and is close to maximum entropy.

    Its entropy differs from the optimum's by the gap and by what its violation is worth,
    :math:`|\eta^\top r|`.

    Parameters
    ----------
    method
        Tolerances.
    gap
        Distance to the tilted density plus its standard error, shape ``()``, in nats.
    natural_parameters, residual, mean_se, scale
        eta, r, and standard error and standard deviation of T, each of shape
        ``(num_constraints,)``, in any one unit of T.
    """
    worst = jnp.max((jnp.abs(residual) + 2 * mean_se) / scale)
    distance = gap + jnp.abs(natural_parameters @ residual)
    return (worst <= method.tolerance) & (distance <= method.gap_tolerance)


def gap_to(
    pool: Pool,
    natural_parameters: Array,
    tilted: Tilt,
    log_q: Array,
    log_base: Array,
    lower: Array,
    upper: Array,
) -> tuple[Array, Array]:
    r"""Return the distance of a fit to the tilted density, and its standard error, in nats.

    .. math:: KL(q \,\|\, p_\eta) = \left[ g(\eta) + KL(q \,\|\, p) \right]
              - \eta^\top (E_q[T] - \mu)

    The bracket is the distance to the dual bound. Where a constraint is violated it can be small,
    or negative, for a poor fit; the divergence cannot. An inequality that is met further than its
    bound, although eta is not zero, costs entropy: there the last term is left out.

    Parameters
    ----------
    pool
        Draws of the prior and of flows.
    natural_parameters
        eta in the pool's units, shape ``(num_constraints,)``.
    tilted
        The tilted density on these draws.
    log_q, log_base
        Log densities of the fit and of what is tilted, each of shape ``(num_draws,)``.
    lower, upper
        Bounds on E[T] in the pool's units, each of shape ``(num_constraints,)``.
    """
    mean = jax.nn.softmax(log_weights(pool, log_q)) @ pool.statistics
    above = excess(natural_parameters, mean, lower, upper)
    is_inside = (lower < upper) & (natural_parameters * above > 0)
    bound = jnp.where(is_inside, mean - above, 0.0)
    slack = (pool.statistics - bound[None]) @ jnp.where(is_inside, natural_parameters, 0.0)
    # T enters linearly, so the noise of a stochastic simulator needs no correction here.
    log_target = log_base + pool.statistics @ natural_parameters - tilted.log_normalizer
    gap, variance = divergence(pool, log_q, log_target - slack)
    # The two estimates share draws; their errors are added as if they did not.
    return gap, jnp.sqrt(variance + relative_variance(pool, tilted.log_weights))


def log_base(pool: Pool, annealing: Array) -> Array:
    r"""Return the log density of the annealed prior :math:`p^t q_0^{1 - t}` at every draw.

    An improper prior is no start; the first flow is, and hands over to the prior step by step.
    """
    first = jnp.where(pool.finite, pool.log_q[0], 0.0)
    return first + annealing * (pool.log_prior - first)
