"""How the dual variables move from epoch to epoch: numbers in, numbers out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import betainc


class PenaltyState(NamedTuple):
    """Dual variables of the penalty method.

    multipliers
        lambda, shape ``(num_constraints,)``, in nats per unit of T.
    penalty
        c, shape ``()``.
    norms
        ||R|| of every evaluation batch of the last epoch, shape ``(num_batches,)``.
    """

    multipliers: Array
    penalty: Array
    norms: Array


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
        Size of a batch of the convergence test, as a share of ``num_particles``. Smaller batches
        make a looser test.
    num_batches
        Number of fresh batches that measure the violation after an epoch.

    References
    ----------
    The draft's A.1.2; Bittner et al. (2021), *eLife* 10:e56265, methods.
    """

    penalty_init: float = 1e-3
    growth_factor: float = 4.0
    required_decrease: float = 0.25
    significance: float = 0.05
    test_fraction: float = 1.0
    num_batches: int = 200

    def init(self, violations: Array) -> PenaltyState:
        """Return the dual variables before the first epoch.

        Parameters
        ----------
        violations
            Violation R of every batch at the start, shape ``(num_batches, num_constraints)``.
        """
        return PenaltyState(
            multipliers=jnp.zeros_like(violations[0]),
            penalty=jnp.asarray(self.penalty_init, violations.dtype),
            norms=jnp.linalg.norm(violations, axis=-1),
        )

    def update(
        self, rng_key: Array, state: PenaltyState, residual: Array, violations: Array
    ) -> PenaltyState:
        """Return the dual variables of the next epoch.

        Parameters
        ----------
        rng_key
            Key of the random growth of the penalty.
        state
            Dual variables of the epoch that ended.
        residual
            E[T] minus the active target over all batches, shape ``(num_constraints,)``.
        violations
            Violation R of every batch, shape ``(num_batches, num_constraints)``.
        """
        norms = jnp.linalg.norm(violations, axis=-1)
        p_value = growth_p_value(norms, self.required_decrease * state.norms)
        grows = jax.random.uniform(rng_key) < 1 - p_value
        return PenaltyState(
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
    # Shares of the summed variance, so that small variances do not underflow when squared.
    share = new_error / jnp.maximum(new_error + old_error, tiny)
    degrees = 1 / (share**2 / (new.size - 1) + (1 - share) ** 2 / (old.size - 1))
    tail = 0.5 * betainc(0.5 * degrees, 0.5, degrees / (degrees + t**2))
    return jnp.where(t > 0, tail, 1.0)


class NewtonState(NamedTuple):
    """Dual variables of the dual Newton method, and the draws that they rest on.

    natural_parameters
        eta in units of ``1 / scale``, shape ``(num_constraints,)``.
    correction
        What is added to eta when the flow is fitted, if the draws allow it, to undo the flow's own
        error; then the same for moments of the latents, shape ``(num_constraints + num_moments,)``.
    origin, scale
        Origin and unit in which T is kept, each of shape ``(num_constraints,)``.
    annealing
        Power t of the prior in the base :math:`p^t q_0^{1 - t}`, shape ``()``; one throughout if
        the fit starts at the prior.
    reached
        Whether t is one and eta minimizes the dual on the draws, shape ``()``.
    step_scale
        Factor of the optimizer's steps, of the same shape.
    gap
        Divergence of the last epoch's flow to its target in nats, of the same shape.
    pool
        All draws that are kept.
    params, first_params
        Unconstrained parameters of the flow, averaged over the last steps; and those of the start.
    component
        Number of the flow in the pool, shape ``()``: not the newest if an epoch was taken back.
    from_prior
        Whether the first draws are from the prior and not from the start, shape ``()``.
    """

    natural_parameters: Array
    correction: Array
    origin: Array
    scale: Array
    annealing: Array
    reached: Array
    step_scale: Array
    gap: Array
    pool: Any
    params: Any
    component: Array
    first_params: Any
    from_prior: Array


class DualNewton(NamedTuple):
    r"""Newton's method on the dual, on weighted draws and inside a trust region.

    .. math:: \min_\eta\; \log E_p[\exp(\eta^\top T)] - \eta^\top \mu

    The solution is the prior tilted by :math:`\exp(\eta^\top T)`. An epoch solves the dual on all
    draws so far, as far as their effective sample size allows; fits the flow to draws of the
    tilted prior; and simulates new draws from the flow. Nothing depends on a penalty, and nothing
    on a gradient of the simulator but where there are many latents.

    Parameters
    ----------
    num_first
        Number of draws of the prior at a time, and of those that are kept.
    max_first
        Largest number of simulations for draws of the prior. More than ``num_first`` are drawn
        where the property is so rare that these do not know the optimum; with zero, never.
    num_draws
        Number of draws that are simulated in an epoch; three of four are for training. By default
        32,000, 8,000 of a stochastic simulator, and fewer if there are hundreds of latents.
    num_flows
        Number of epochs whose draws are kept.
    num_replicates
        Number of simulations of each draw, if the simulator is stochastic.
    min_ess
        Smallest effective sample size of the tilted draws: the trust region.
    correction_rate
        Share of the flow's own violation that is corrected in an epoch.
    tolerance
        Largest violation, plus two standard errors, in standard deviations of the statistic.
    gap_tolerance
        Largest divergence to the tilted prior, plus a standard error and what the violation is
        worth, in nats.
    """

    num_first: int = 20000
    max_first: int = 1_000_000
    num_draws: int | None = None
    num_flows: int = 16
    num_replicates: int = 16
    min_ess: float = 500.0
    correction_rate: float = 0.5
    tolerance: float = 0.02
    gap_tolerance: float = 0.02
