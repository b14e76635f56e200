"""The published method: steps at fixed multipliers, a penalty that grows, a convergence test."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.special import betainc

from numpyro_dsn.solver.aim import Limits, solve
from numpyro_dsn.solver.batches import Batches, draw_particles, measure, violations
from numpyro_dsn.solver.history import Epoch, StepRecords
from numpyro_dsn.solver.inputs import Inputs
from numpyro_dsn.solver.newton_state import first_state
from numpyro_dsn.solver.objective import (
    active_target,
    augmented_lagrangian,
    mean_statistics,
)
from numpyro_dsn.solver.optim import adam
from numpyro_dsn.solver.problem import Params, Problem
from numpyro_dsn.solver.simulation import Search, add_draws, first_draws
from numpyro_dsn.solver.state import Best, Held, keep_best, no_best, strong
from numpyro_dsn.weighted.acceptance import Acceptance, keep_all

NUM_DRAWS, LIMITS = 16_384, Limits(min_ess=100.0, envelope=0.0)
"""Draws of the prior and of the fit behind a certificate, and how far its dual is solved."""


class PenaltyState(NamedTuple):
    """All that changes during one fit.

    optim_state, params
        State of the optimizer, and unconstrained parameters of the flow.
    multipliers
        lambda, shape ``(num_constraints,)``, in nats per unit of T.
    penalty
        c, shape ``()``.
    norms
        ||R|| of every evaluation batch of the last epoch, shape ``(num_batches,)``.
    best, epoch, rng_key
        Best converged epoch, number of finished epochs, and key of the fit.
    """

    optim_state: Any
    params: Params
    multipliers: Array
    penalty: Array
    norms: Array
    best: Best
    epoch: Array
    rng_key: Array

    @property
    def acceptance(self) -> Acceptance:
        """Every draw of the flow belongs to the fit."""
        return self.best.acceptance

    @property
    def pool(self) -> None:
        """No draws are kept."""
        return


class PenaltyMethod(NamedTuple):
    r"""The published augmented Lagrangian: fixed epochs, a penalty that grows at random.

    .. math:: \lambda \leftarrow \lambda + c R, \qquad
              c \leftarrow \beta c \ \text{ with probability } 1 - p

    where p is the p-value of :math:`E\|R_{new}\| > \gamma E\|R_{old}\|`. An epoch has converged
    when the null hypothesis of no violation is accepted for every statistic; the highest-entropy
    converged epoch is kept.

    Parameters
    ----------
    penalty_init
        c of the first epoch. The one setting to tune for each problem.
    growth_factor
        :math:`\beta`.
    required_decrease
        :math:`\gamma`, the ratio by which the violation should fall in an epoch.
    significance
        Level of the convergence test, divided by the number of statistics.
    test_fraction
        Size of a batch of the convergence test, as a fraction of ``num_particles``. Smaller
        batches make a looser test.
    num_batches
        Number of fresh batches that measure the violation after an epoch.

    References
    ----------
    Bittner et al. (2021), *eLife* 10:e56265, methods.
    """

    penalty_init: float = 1e-3
    growth_factor: float = 4.0
    required_decrease: float = 0.25
    significance: float = 0.05
    test_fraction: float = 1.0
    num_batches: int = 200

    @property
    def num_replicates(self) -> int:
        """Simulations of each draw behind a certificate, if there is noise."""
        return 16

    @property
    def needs_gradients(self) -> bool:
        """Whether the circuit must have gradients."""
        return True

    def default_optim(self, follows_gradients: bool) -> Any:
        """Return the published optimizer."""
        return adam(1e-3)

    @property
    def default_num_particles(self) -> int:
        """Number of draws in a step."""
        return 500

    @property
    def tolerance(self) -> float:
        """Violation, in units of what was asked, above which a certificate names it."""
        return 0.1

    @property
    def gap_tolerance(self) -> float:
        """Distance to maximum entropy, in nats, that a certificate calls close."""
        return 0.05

    def require(self, flow: Any, params: Params) -> None:
        """Raise unless draws of a flow have gradients."""
        if not flow.has_rsample:
            raise ValueError(
                "Draws of the guide have no gradient; use for instance `AutoRealNVP(model)`, or "
                "`method=DualNewton()`, which needs none."
            )

    def init(self, problem: Problem, rng_key: Array) -> tuple[PenaltyState, Epoch]:
        """Return the state before the first epoch, and measurements of the start."""
        return _start(self, problem, rng_key)

    def step(
        self, problem: Problem, state: PenaltyState
    ) -> tuple[PenaltyState, Epoch, StepRecords]:
        """Run one epoch; return the state after it, measurements and one record for each step."""
        return _epoch(self, problem, state)

    def is_done(self, state: PenaltyState) -> bool:
        """Return False: the published method runs all its epochs."""
        return False

    def template(self, problem: Problem) -> PenaltyState:
        """Return shapes and types of a state; nothing is computed."""
        return jax.eval_shape(partial(_start, self, problem), jax.random.key(0))[0]

    def inputs(self, problem: Problem, state: PenaltyState, held: Held) -> Inputs:
        """Simulate draws of the prior and of a fit, and solve the dual on them."""
        search = Search(NUM_DRAWS, 0.0, 1, np.inf)
        found, first, _ = first_draws(problem, state.rng_key, held.params, search)
        begin = first_state(state.rng_key, held.params, problem.optim, found, first, 2)
        newton, _ = add_draws(problem, begin, begin.training)
        eta, offset = newton.natural_parameters, newton.offset
        aim = solve(newton.pool, eta, offset, newton.targets, LIMITS)
        from_prior = jnp.asarray(problem.circuit.prior is not None)
        known = newton.pool, newton.last, aim.natural_parameters, newton.targets
        return Inputs(*known, from_prior, held.acceptance)

    def rejects(self, problem: Problem) -> bool:
        """Whether draws of the flow are rejected by their statistics: none are."""
        return False

    def update(
        self, rng_key: Array, state: PenaltyState, residual: Array, violations: Array
    ) -> PenaltyState:
        """Return the state with the dual variables of the next epoch.

        Parameters
        ----------
        rng_key
            Key of the random growth of the penalty.
        state
            State of the epoch that ended.
        residual
            E[T] minus the active target over all batches, shape ``(num_constraints,)``.
        violations
            Violation R of every batch, shape ``(num_batches, num_constraints)``.
        """
        norms = jnp.linalg.norm(violations, axis=-1)
        p_value = growth_p_value(norms, self.required_decrease * state.norms)
        grows = jax.random.uniform(rng_key) < 1 - p_value
        return state._replace(
            multipliers=state.multipliers + state.penalty * residual,
            penalty=jnp.where(grows, self.growth_factor * state.penalty, state.penalty),
            norms=norms,
        )

    def p_values(self, means: Array, lower: Array, upper: Array) -> Array:
        r"""Return the p-value of "no violation" for each statistic.

        .. math:: p_j = 2 \min\{P(\bar T_j > l_j),\, P(\bar T_j < u_j)\}

        Parameters
        ----------
        means
            Mean of T in every batch, shape ``(num_batches, num_constraints)``.
        lower, upper
            Bounds on E[T], each of shape ``(num_constraints,)``.

        Returns
        -------
        p-values, shape ``(num_constraints,)``.
        """
        above = jnp.mean(means > lower[None], axis=0, dtype=means.dtype)
        below = jnp.mean(means < upper[None], axis=0, dtype=means.dtype)
        return jnp.minimum(2 * jnp.minimum(above, below), 1.0)

    def has_converged(self, p_values: Array) -> Array:
        """Whether "no violation" is accepted for every statistic, with Bonferroni's correction."""
        return jnp.all(p_values > self.significance / p_values.size)


def growth_p_value(new: Array, old: Array) -> Array:
    """Return the p-value of "the mean of ``new`` exceeds that of ``old``" by Welch's t-test.

    One where the mean of ``new`` is the smaller one: the penalty then never grows.

    Parameters
    ----------
    new, old
        Two samples, each of shape ``(num_batches,)``.

    Returns
    -------
    p-value, shape ``()``.
    """
    new_error = jnp.var(new, ddof=1) / new.size
    old_error = jnp.var(old, ddof=1) / old.size
    tiny = jnp.finfo(new.dtype).tiny
    t = (jnp.mean(new) - jnp.mean(old)) / jnp.sqrt(jnp.maximum(new_error + old_error, tiny))
    # Fractions of the summed variance, so that small variances do not underflow when squared.
    part = new_error / jnp.maximum(new_error + old_error, tiny)
    degrees = 1 / (part**2 / (new.size - 1) + (1 - part) ** 2 / (old.size - 1))
    tail = 0.5 * betainc(0.5 * degrees, 0.5, degrees / (degrees + t**2))
    return jnp.where(t > 0, tail, 1.0)


@partial(jax.jit, static_argnums=(0, 1))
def _start(method: PenaltyMethod, problem: Problem, rng_key: Array) -> tuple[PenaltyState, Epoch]:
    params = problem.start(rng_key)
    measured = measure(
        jax.random.fold_in(rng_key, 0), problem, params, method.num_batches, method.test_fraction
    )
    zeros = jnp.zeros_like(measured.means[0])
    state = PenaltyState(
        optim_state=problem.optim.init(params),
        params=params,
        multipliers=zeros,
        penalty=jnp.asarray(method.penalty_init, zeros.dtype),
        norms=jnp.linalg.norm(violations(problem, measured.means), axis=-1),
        best=no_best(params, keep_all(zeros.size)),
        epoch=jnp.zeros((), int),
        rng_key=rng_key,
    )
    epoch = _summarize(method, problem, measured, state.penalty)
    spent = method.num_batches * problem.num_particles
    epoch = epoch._replace(
        multipliers=zeros, converged=jnp.zeros((), bool), num_simulations=_number(spent, zeros)
    )
    return strong((state, epoch))


@partial(jax.jit, static_argnums=(0, 1))
def _epoch(
    method: PenaltyMethod, problem: Problem, state: PenaltyState
) -> tuple[PenaltyState, Epoch, StepRecords]:
    number, num_steps = state.epoch + 1, problem.num_steps
    keys = jax.random.split(jax.random.fold_in(state.rng_key, number), 3)
    optim_state, (entropy, mean), skipped = _train(keys[0], problem, state)
    params = problem.optim.get_params(optim_state)
    sizes = method.num_batches, method.test_fraction
    measured = measure(keys[1], problem, params, *sizes)
    means = measured.means.mean(0)
    target = active_target(means, state.multipliers, state.penalty, problem.lower, problem.upper)
    by_batch = violations(problem, measured.means)
    updated = method.update(keys[2], state, means - target, by_batch)
    spent = (num_steps + method.num_batches) * problem.num_particles
    epoch = _summarize(method, problem, measured, state.penalty)._replace(
        multipliers=updated.multipliers, skipped=skipped, num_simulations=_number(spent, means)
    )
    best = keep_best(
        state.best, Best(params, state.acceptance, number, epoch.entropy), epoch.converged
    )
    state = updated._replace(optim_state=optim_state, params=params, best=best, epoch=number)
    steps = StepRecords((number - 1) * num_steps + jnp.arange(num_steps) + 1, entropy, mean)
    return strong((state, epoch, steps))


def _train(
    rng_key: Array, problem: Problem, state: PenaltyState
) -> tuple[Any, tuple[Array, Array], Array]:
    """Take the steps of an epoch, leaving out those whose gradient is not finite."""
    optim = problem.optim

    def loss(params: Params, key: Array) -> tuple[Array, tuple[Array, Array]]:
        particles = draw_particles(key, problem, params)
        dual = state.multipliers, state.penalty, problem.lower, problem.upper
        value = augmented_lagrangian(particles, *dual)
        return value, (-particles.log_q.mean(), mean_statistics(particles))

    def step(state: Any, key: Array) -> tuple[Any, tuple]:
        (value, record), gradient = jax.value_and_grad(loss, has_aux=True)(
            optim.get_params(state), key
        )
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(ravel_pytree(gradient)[0]))
        updated = optim.update(gradient, state, value=value)
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state), (
            record,
            ~finite,
        )

    # The published method forgets Adam's moments at every epoch.
    fresh = optim.init(optim.get_params(state.optim_state))
    keys = jax.random.split(rng_key, problem.num_steps)
    optim_state, (records, skipped) = jax.lax.scan(step, fresh, keys)
    return optim_state, records, skipped.mean()


def _summarize(method: PenaltyMethod, problem: Problem, measured: Batches, penalty: Array) -> Epoch:
    """Return measurements of one fit, but for what belongs to the steps."""
    num_batches = measured.entropy.size
    mean = measured.means.mean(0)
    variance = measured.variances.mean(0) + measured.means.var(0)
    spread = jnp.sqrt(jnp.maximum(variance, jnp.finfo(mean.dtype).tiny))
    scale = jnp.where(np.isnan(problem.units), spread, problem.units)
    p_values = method.p_values(measured.test_means, problem.lower, problem.upper)
    nonfinite, unknown = measured.nonfinite.mean(), jnp.full((), jnp.nan, mean.dtype)
    return Epoch(
        entropy=measured.entropy.mean(),
        kl_to_prior=measured.kl_to_prior.mean(),
        entropy_se=measured.entropy.std() / jnp.sqrt(num_batches),
        mean=mean,
        mean_se=measured.means.std(0) / jnp.sqrt(num_batches),
        scale=scale,
        violation=violations(problem, mean[None])[0] / scale,
        multipliers=unknown,
        penalty=penalty,
        converged=method.has_converged(p_values) & (nonfinite < 0.5),
        nonfinite=nonfinite,
        failed=measured.failed.mean(0),
        beyond=jnp.zeros_like(mean),
        skipped=jnp.zeros_like(nonfinite),
        dual_bound=unknown,
        gap=unknown,
        gap_se=unknown,
        ess=unknown,
        acceptance=1 - nonfinite,
        num_simulations=unknown,
    )


def _number(value: int, like: Array) -> Array:
    return jnp.full((), value, like.dtype)
