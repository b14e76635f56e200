"""What an epoch comes to: whether it is kept, how large the next steps are, where to aim next."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from numpyro_dsn.solver.aim import Aim
from numpyro_dsn.solver.history import Epoch
from numpyro_dsn.solver.measurement import Measured, Strays
from numpyro_dsn.solver.newton_state import NewtonState
from numpyro_dsn.solver.state import Best, keep_best, strong
from numpyro_dsn.weighted.compilation import quick_jit


class Rules(NamedTuple):
    """What an epoch is judged by; fields as in :class:`~numpyro_dsn.DualNewton`.

    With ``own_draws`` a flow is judged beside the one before it also where the dual is not solved:
    the normalizer of their target is unknown, but the same for both.
    """

    tolerance: float
    gap_tolerance: float
    max_loss: float
    least_gain: float
    shrink: float
    min_step: float
    offset_rate: float
    own_draws: bool = False


@partial(quick_jit, static_argnames="rules")
def decide(
    rules: Rules, old: NewtonState, new: NewtonState, aim: Aim, both: tuple[Measured, Measured]
) -> tuple[NewtonState, Measured]:
    """Keep the new flow or the one before it, size the next steps, and move the offset.

    Parameters
    ----------
    rules
        What an epoch is judged by.
    old, new
        State before the epoch, and with the flow that was fitted and its draws.
    aim
        What the flow was fitted to.
    both
        Measurements of the new flow and of the old one.
    """
    after, before = both
    comparable = old.solved & aim.solved
    rejected = comparable & ~(after.gap <= before.gap + rules.max_loss)

    def keep(fitted: Array, last: Array) -> Array:
        return jnp.where(rejected, last, fitted)

    training, last, measured = jax.tree.map(
        keep, (new.training, new.last, after), (old.training, old.last, before)
    )
    # Further from the target, the violation is more and more what is yet to be learned.
    near = jnp.minimum(rules.gap_tolerance / jnp.maximum(measured.gap, 1e-9), 1.0)
    trust = near * (aim.solved & ~rejected)
    move = jnp.where(trust > 0, rules.offset_rate * trust * measured.move, 0.0)
    gains = ~(comparable | rules.own_draws) | (after.gap < rules.least_gain * before.gap)
    step_scale = training.step_scale * jnp.where(gains, 1.0, rules.shrink)
    step_scale = jnp.maximum(step_scale, rules.min_step)
    number = old.epoch + 1
    converged = aim.solved & meets(rules, measured)
    candidate = Best(training.params, aim.acceptance, number, -measured.gap)
    state = new._replace(
        training=training._replace(step_scale=step_scale),
        natural_parameters=aim.natural_parameters,
        offset=aim.aimed - aim.natural_parameters + move,
        acceptance=aim.acceptance,
        last=last,
        solved=aim.solved,
        gap=measured.gap,
        best=keep_best(old.best, candidate, converged),
        epoch=number,
    )
    return strong((state, measured))


def meets(rules: Rules, measured: Measured) -> Array:
    """Return whether the constraints are met and the entropy is close to its bound."""
    worst = jnp.max(jnp.abs(measured.residual) + measured.mean_se)
    return (worst <= rules.tolerance) & (measured.distance <= rules.gap_tolerance)


@partial(quick_jit, static_argnames="rules")
def report(
    rules: Rules, state: NewtonState, measured: Measured, strays: Strays, num_simulations: float
) -> Epoch:
    """Return the measurements of an epoch in the statistics' own units."""
    targets, zero = state.targets, jnp.zeros_like(measured.gap)
    return Epoch(
        entropy=measured.entropy,
        kl_to_prior=measured.kl_to_prior,
        entropy_se=measured.entropy_se,
        mean=measured.mean * targets.unit + targets.origin,
        mean_se=measured.mean_se * targets.unit,
        scale=targets.unit,
        violation=measured.residual,
        multipliers=-state.natural_parameters / targets.unit,
        penalty=zero,
        converged=state.solved & meets(rules, measured),
        nonfinite=strays.nonfinite,
        failed=strays.failed,
        beyond=strays.beyond,
        skipped=zero,
        dual_bound=measured.dual_bound,
        gap=measured.gap,
        gap_se=measured.gap_se,
        ess=measured.ess,
        acceptance=measured.acceptance,
        num_simulations=zero + num_simulations,
    )
