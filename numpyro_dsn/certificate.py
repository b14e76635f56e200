"""How far a fit is from maximum entropy, from weighted draws that do not depend on it alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from numpyro_dsn.dual import dual_value, exponent, solve_dual, tilt
from numpyro_dsn.feasibility import approaches, describe, separating_direction
from numpyro_dsn.flow import Flow
from numpyro_dsn.history import Epoch
from numpyro_dsn.measurement import gap_to
from numpyro_dsn.multipliers import NewtonState
from numpyro_dsn.newton import rescale
from numpyro_dsn.pool import Pool, component_of, empty_pool, insert_draws, log_weights, unseen

COVERED = np.log(10.0)
"""A fit covers a draw of the optimum if its density is at least a tenth of the optimum's."""

MIN_PRIOR_ESS = 20.0
"""Fewer effective draws of the prior cannot tell whether a mode was missed."""

MIN_ESS = 100.0
"""Least effective number of draws on which the dual is solved."""

MAX_GAP, MAX_MISSED_MASS = 0.05, 0.05

MET, MAX_VIOLATION = 0.02, 0.1
"""Violations, in standard deviations, that the verdict does not name; and that it names alone."""


class Certificate(NamedTuple):
    r"""What is known about the distance of a fit to the maximum-entropy distribution.

    .. math:: -KL(q \,\|\, p) \;\le\; g(\eta) = \log E_p[e^{\eta^\top T}] - \eta^\top \mu

    natural_parameters
        eta by label, in nats per unit of T.
    dual_bound
        g(eta), the upper bound on minus the KL to the prior, in nats.
    gap, gap_se
        KL divergence of the fit to the optimum, and its standard error, in nats. It is the
        distance to the bound of a fit that meets the constraints, also where an inequality is met
        further than its bound.
    ess
        Effective sample size of the draws behind the bound.
    prior_ess
        The same for draws of the prior alone.
    pareto_k
        Shape of the tail of the weights of the fit's own draws. Above 0.7 do not reweight them
        alone; the bound and corrected draws rest on mixtures with the prior and do not need it.
    missed_mass, missed_mass_se
        Share of the optimum's mass that the fit does not cover and its standard error, from draws
        of the prior alone; NaN if these cannot tell.
    verdict
        One sentence.
    """

    natural_parameters: dict[str, float]
    dual_bound: float
    gap: float
    gap_se: float
    ess: float
    prior_ess: float
    pareto_k: float
    missed_mass: float
    missed_mass_se: float
    verdict: str


class Evidence(NamedTuple):
    """What a certificate rests on.

    pool
        Draws of the prior and of flows.
    unseen
        Those of them that the fit was not trained on.
    log_q
        Log density of the fit at every draw, in unconstrained space, shape ``(num_draws,)``.
    natural_parameters
        eta in the pool's units, shape ``(num_constraints,)``.
    lower, upper
        Bounds on E[T] in the pool's units, each of shape ``(num_constraints,)``.
    scale
        The pool's unit of T, shape ``(num_constraints,)``.
    from_prior
        Whether component 0 is the prior.
    newest
        Number of the last component of a fit that simulates in every epoch.
    """

    pool: Pool
    unseen: Pool
    log_q: Array
    natural_parameters: Array
    lower: Array
    upper: Array
    scale: Array
    from_prior: bool
    newest: Array | None = None


def certify(evidence: Evidence, labels: list[str], measured: Epoch, pareto_k: float) -> Certificate:
    """Return the certificate of a fit.

    Parameters
    ----------
    evidence
        Draws with their densities, and the natural parameters.
    labels
        One label for each constraint.
    measured
        Measurements of the fit.
    pareto_k
        Shape of the tail of the weights of the fit's own draws.
    """
    numbers = jax.tree.map(float, jax.jit(_estimate)(evidence))
    eta = np.asarray(evidence.natural_parameters / evidence.scale).tolist()
    certificate = Certificate(
        natural_parameters=dict(zip(labels, eta, strict=True)),
        pareto_k=pareto_k,
        verdict="",
        **numbers,
    )
    bounds = evidence.lower, evidence.upper
    unmet = infeasible(evidence.pool, *bounds, labels, evidence.newest)
    return certificate._replace(verdict=_verdict(certificate, measured, unmet))


def infeasible(
    pool: Pool, lower: Array, upper: Array, labels: list[str], newest: Array | None
) -> str | None:
    """Return what no distribution over the simulated circuits can meet; ``None`` if all can.

    A fit that still comes closer with every epoch has not yet simulated the circuits that can.

    Parameters
    ----------
    pool
        Draws of the prior and of flows.
    lower, upper
        Bounds on E[T] in the pool's units, each of shape ``(num_constraints,)``.
    labels
        One label for each constraint.
    newest
        Number of the last component of such a fit.
    """
    finite = np.asarray(pool.finite)
    statistics = np.asarray(pool.statistics)[finite]
    if not len(statistics):
        return None
    bounds = np.asarray(lower), np.asarray(upper)
    direction = separating_direction(statistics, *bounds)
    if direction is None:
        return None
    if newest is not None:
        component, weights = np.asarray(pool.component)[finite], np.exp(pool.log_share)[finite]
        # The pool holds the last flows in turn; before the first one there is the prior.
        num_flows = pool.counts.size - 1
        before = int(newest) - 1 or (num_flows if num_flows > 1 and pool.counts[-1] > 0 else 0)
        weights = np.where(component == before, weights, 0.0)
        last = statistics[component == int(newest)]
        if weights.any() and len(last):
            mean = weights @ statistics / weights.sum()
            if approaches(mean, last, direction, *bounds):
                return None
    return describe(direction, labels)


def solve(evidence: Evidence, min_ess: float) -> Evidence:
    """Return the evidence with the natural parameters that minimize the dual on its draws."""

    @jax.jit
    def minimize(start: Array, pool: Pool, lower: Array, upper: Array) -> Array:
        log_base = log_weights(pool, pool.log_prior)
        draws = log_base, pool.statistics, pool.noise
        return solve_dual(start, *draws, lower, upper, min_ess, 100)[0]

    eta = minimize(evidence.natural_parameters, evidence.pool, evidence.lower, evidence.upper)
    return evidence._replace(natural_parameters=eta)


def from_newton(
    dual: NewtonState, epoch: Array, flow: Flow, params: Any, lower: Array, upper: Array
) -> Evidence:
    """Return the draws that the dual Newton method kept, with the density of a fit.

    Parameters
    ----------
    dual
        Dual variables of one fit.
    epoch
        Number of finished epochs, shape ``()``.
    flow
        Functions of the guide and the circuit.
    params
        Unconstrained parameters of the fit, whose own draws the pool may no longer hold.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    """
    pool, eta = dual.pool, dual.natural_parameters
    log_q = jax.jit(flow.log_prob)(params, pool.flat)
    scaled = (lower - dual.origin) / dual.scale, (upper - dual.origin) / dual.scale
    newest = component_of(epoch, pool)
    fresh = unseen(pool, newest)
    start = Evidence(pool, fresh, log_q, eta, *scaled, dual.scale, bool(dual.from_prior), newest)
    # The draws of the last epoch came after its multipliers.
    return solve(start, MIN_ESS)


def collect(
    rng_key: Array,
    flow: Flow,
    prior: Callable[[Array, int], Array] | None,
    params: Any,
    lower: Array,
    upper: Array,
    num_draws: int = 20000,
) -> Evidence:
    """Simulate draws of the prior and of a fit that kept none, and solve the dual on them.

    Parameters
    ----------
    rng_key
        Key of all draws.
    flow, prior
        Functions of the guide, the circuit and the prior.
    params
        Unconstrained parameters of the fit.
    lower, upper
        Bounds on E[T], each of shape ``(num_constraints,)``.
    num_draws
        Number of draws of each.
    """
    keys = jax.random.split(rng_key, 4)
    flat = flow.sample(keys[0], params, num_draws)
    own = flow.simulate(keys[1], flat)
    first = own if prior is None else flow.simulate(keys[2], prior(keys[3], num_draws))
    first = first._replace(finite=first.finite & jnp.isfinite(first.log_prior))
    log_density = jax.jit(flow.log_prob)
    log_first = log_density(params, first.flat) if prior is None else first.log_prior
    finite = own.finite[:, None]
    scale = own.statistics.std(0, where=finite)
    scale = jnp.where(scale > 0, scale, 1.0)
    origin = jnp.where(jnp.isfinite(lower), lower, upper)
    first, own = (rescale(draws, origin, scale) for draws in (first, own))
    pool = empty_pool(first, log_first, params, 1, num_draws)
    own_first = log_density(params, own.flat) if prior is None else own.log_prior
    pool = insert_draws(pool, jnp.ones((), int), params, own, own_first, flow.log_prob)
    bounds = (lower - origin) / scale, (upper - origin) / scale
    zeros = jnp.zeros_like(lower)
    start = Evidence(pool, pool, pool.log_q[1], zeros, *bounds, scale, prior is not None)
    return solve(start, MIN_ESS)


def _estimate(evidence: Evidence) -> dict[str, Array]:
    pool, eta = evidence.unseen, evidence.natural_parameters
    log_base = log_weights(pool, pool.log_prior)
    tilted = tilt(eta, log_base, pool.statistics, pool.noise)
    bounds = evidence.lower, evidence.upper
    bound = dual_value(eta, tilted.log_normalizer, *bounds)
    log_q = evidence.log_q
    gap, gap_se = gap_to(pool, eta, tilted, log_q, pool.log_prior, *bounds)

    tilt_exponent = exponent(eta, pool.statistics, pool.noise)
    log_target = pool.log_prior + tilt_exponent - tilted.log_normalizer
    is_prior = (pool.component == 0) & pool.finite & evidence.from_prior
    from_prior = jnp.where(is_prior, tilt_exponent + pool.log_share, -jnp.inf)
    prior_weights = jax.nn.softmax(from_prior)
    prior_ess = jnp.where(evidence.from_prior, 1 / jnp.sum(prior_weights**2), 0.0)
    missed = (log_q < log_target - COVERED).astype(log_q.dtype)
    missed_mass = prior_weights @ missed
    missed_se = jnp.sqrt(prior_weights**2 @ (missed - missed_mass) ** 2)
    can_tell = prior_ess >= MIN_PRIOR_ESS
    return {
        "dual_bound": bound,
        "gap": gap,
        "gap_se": gap_se,
        "ess": tilted.ess,
        "prior_ess": prior_ess,
        "missed_mass": jnp.where(can_tell, missed_mass, jnp.nan),
        "missed_mass_se": jnp.where(can_tell, missed_se, jnp.nan),
    }


def _verdict(certificate: Certificate, measured: Epoch, unmet: str | None) -> str:
    """Return the first sentence that applies, from the worst to the best."""
    missed, error = certificate.missed_mass, certificate.missed_mass_se
    if unmet is not None:
        return f"Infeasible on the simulated circuits: {unmet}."
    worst = float(np.max(np.abs(measured.violation)))
    if worst > MAX_VIOLATION:
        return f"The constraints are not met: one is off by {worst:.2f} standard deviations."
    if missed - 2 * error > MAX_MISSED_MASS:
        return f"Mass is missing: the fit does not cover {missed:.0%} of the optimum."
    if certificate.gap - 2 * certificate.gap_se > MAX_GAP:
        return f"Not at maximum entropy: {certificate.gap:.2f} nats from it."
    if not certificate.gap_se < MAX_GAP:
        return "Cannot tell: too few draws know the optimum."
    if certificate.gap > MAX_GAP:
        return (
            f"Perhaps not at maximum entropy: {certificate.gap:.2f} nats from it, with a standard "
            f"error of {certificate.gap_se:.2f}."
        )
    close = f"Close to maximum entropy: within {max(certificate.gap, 0.0):.3f} nats of it"
    if worst > MET:
        close = f"{close}, but with a constraint that is off by {worst:.2f} standard deviations"
    if np.isnan(missed):
        return f"{close}; whether a mode was missed cannot be told from draws of the prior."
    return f"{close}, and covers all but {missed:.1%} of the optimum's mass."
